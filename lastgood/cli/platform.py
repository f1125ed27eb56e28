"""`lastgood doctor --databricks`: who asks, what that principal may do in the catalog, whether credentials are lent, what a warehouse would cost."""

from collections.abc import Iterator

from lastgood import tables
from lastgood.cli.doctor import Finding, Health
from lastgood.errors import LastgoodError
from lastgood.settings import Mode, Settings
from lastgood.tables.names import parts, quoted_part
from lastgood.tables.store import SERVED
from lastgood.workspace.catalog import UnityCatalog, unity_catalog
from lastgood.workspace.databricks import connect

ON_CATALOG = ("USE_CATALOG",)
READING = ("USE_SCHEMA", "SELECT", "EXTERNAL_USE_SCHEMA")
WRITING = ("MODIFY",)


def platform(settings: Settings) -> Iterator[Finding]:
    """Errors: ConfigError, TransientError of the workspace."""
    catalog = unity_catalog(settings)
    me = catalog.me()
    yield Finding("identity", Health.OK, f"the workspace knows this process as {me}")
    store = tables.Store(settings.storage)
    if store.in_catalog:
        yield from _grants(catalog, settings.storage, me)
        yield from _lending(catalog)
        yield from _landing(settings)
    yield from _warehouse(catalog, settings)
    yield from _rights(settings, me)


def grant(privilege: str, kind: str, name: str, principal: str) -> str:
    """The SQL that gives a missing privilege."""
    return f"GRANT {privilege.replace('_', ' ')} ON {kind} {tables.quoted(name)} TO {quoted_part(principal)};"


def _grants(catalog: UnityCatalog, schema: str, me: str) -> Iterator[Finding]:
    named = parts(schema)
    needed = (("CATALOG", named[0], ON_CATALOG), ("SCHEMA", ".".join(named), (*READING, *WRITING)))
    for kind, name, privileges in needed:
        held = catalog.privileges(kind, name, me)
        if "ALL_PRIVILEGES" in held:  # which does not hold EXTERNAL USE SCHEMA
            held = held | {"USE_CATALOG", "USE_SCHEMA", "SELECT", "MODIFY"}
        for privilege in privileges:
            words = privilege.replace("_", " ")
            if privilege in held:
                yield Finding(f"grant {words}", Health.OK, f"on {name}")
                continue
            health = Health.WARN if privilege == "EXTERNAL_USE_SCHEMA" else Health.FAIL
            yield Finding(f"grant {words}", health, f"is missing on {name}", grant(privilege, kind, name, me))


def _lending(catalog: UnityCatalog) -> Iterator[Finding]:
    lends = catalog.external_access()
    if lends is None:
        yield Finding(
            "external data access", Health.WARN, "the metastore does not say", "a metastore administrator knows"
        )
        return
    sentence = "on: tables are read at the storage" if lends else "off: a SQL warehouse must answer every poll"
    fix = "a metastore administrator turns `External data access` on (Catalog, settings, Metastore)"
    yield Finding("external data access", Health.OK if lends else Health.WARN, sentence, fix)


def _landing(settings: Settings) -> Iterator[Finding]:
    landing = settings.tables.landing
    sentence = f"{', '.join(SERVED)} {f'lie below {landing}' if landing else 'are managed tables, which nobody outside the platform may write'}"
    fix = "where spans are sent to this service, set tables.landing to an address in an external location"
    yield Finding("landing", Health.OK if landing else Health.WARN, sentence, fix)


def _warehouse(catalog: UnityCatalog, settings: Settings) -> Iterator[Finding]:
    if not settings.tables.warehouse_id:
        yield Finding("SQL warehouse", Health.OK, "none is named: tables are read with lent credentials only")
        return
    yield Finding("SQL warehouse", Health.OK, f"where it has to answer: {catalog.warehouse_cost()}")


def _rights(settings: Settings, me: str) -> Iterator[Finding]:
    workspace = connect(settings.workspace)
    for name in settings.endpoints:
        if settings.endpoint(name).mode is Mode.OBSERVE:
            continue
        try:
            level = workspace.permissions(name).get(me, "not named (perhaps through a group)")
        except LastgoodError as error:
            yield Finding(f"rights on {name}", Health.FAIL, str(error), "name it as a resource of the app")
            continue
        fix = f"give {me} CAN_MANAGE on {name}: a resource of the app (serving_endpoint, CAN_MANAGE) does it"
        yield Finding(f"rights on {name}", Health.OK if level == "CAN_MANAGE" else Health.WARN, level, fix)
