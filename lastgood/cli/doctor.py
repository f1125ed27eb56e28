"""What must be right before Lastgood can work -> what is, and how to mend what is not. Nothing is changed but for a scratch folder."""

import subprocess
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path

import httpx

from lastgood import tables
from lastgood.alerts.store import open_state
from lastgood.collectors.reading import mistake, mistakes
from lastgood.errors import LastgoodError
from lastgood.jobs import spark
from lastgood.record.words import counted
from lastgood.settings import EndpointSettings, Mode, Settings, Sources, secret
from lastgood.tables import delta
from lastgood.workspace import Endpoint
from lastgood.workspace.databricks import DatabricksWorkspace, connect
from lastgood.workspace.stores import tables_of

SKEW_S = 30.0
"""A clock that is off by more makes windows and signed links disagree."""


class Health(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `fix` says what to do where it is not right."""

    name: str
    health: Health
    sentence: str
    fix: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def java(settings: Settings) -> Iterator[Finding]:
    if settings.spark.mode == "databricks":
        yield Finding("Java", Health.OK, "the cluster's own")
        return
    home = spark.java_home()
    result = subprocess.run(
        [home / "bin" / "java", "-version"], capture_output=True, text=True, check=False, timeout=60
    )
    first = (result.stderr or result.stdout).splitlines()[:1]
    health = Health.FAIL if result.returncode else Health.OK
    yield Finding("Java", health, f"{home}: {''.join(first)}", "unset JAVA_HOME, or point it at a Java 17 or 21 home")
    cached = spark.jars_cached()
    said_jars = "there" if cached else "not here yet: the first session downloads about 10 MB"
    yield Finding("Delta's jars", Health.OK if cached else Health.WARN, said_jars, "run a job once while online")


def delta_round_trip(settings: Settings) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="lastgood-doctor-") as folder:
        session = spark.session(settings.spark)
        session.range(3).write.format("delta").save(f"{folder}/t")
        seen = session.read.format("delta").load(f"{folder}/t").count()
    yield Finding(
        "Spark and Delta", Health.OK if seen == 3 else Health.FAIL, f"Spark {session.version} wrote and read a table"
    )


def storage(settings: Settings) -> Iterator[Finding]:
    store = tables_of(settings)
    if not store.in_folder:
        yield from _reached(store)
        return
    folder = Path(settings.storage)
    probe = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        yield Finding("storage", Health.FAIL, f"{folder}: {error}", "give the service's user the right to write there")
        return
    present = [table.name for table in tables.ALL if store.home(table).version() is not None]
    sentence = f"{folder}: {len(present)} of {counted(len(tables.ALL), 'table')}"
    fix = "" if present else "`lastgood job all` makes them"
    yield Finding("storage", Health.OK if present else Health.WARN, sentence, fix)


def _reached(store: tables.Store) -> Iterator[Finding]:
    """Which way the tables of an object store or a catalog are reached."""
    ways = Counter(store.home(table).way() for table in tables.ALL)
    for way, number in ways.items():
        slow = way.startswith("SQL warehouse")
        fix = "grant EXTERNAL USE SCHEMA, and turn external data access on in the metastore" if slow else ""
        missing = way == "not there yet"
        fix = "`lastgood job all` makes them" if missing else fix
        sentence = f"{store.location}: {number} of {counted(len(tables.ALL), 'table')}: {way}"
        yield Finding("storage", Health.WARN if slow or missing else Health.OK, sentence, fix)


def state(settings: Settings) -> Iterator[Finding]:
    store = open_state(settings)
    try:
        with store.read() as tx:
            problems, switch = tx.verify(), tx.kill_switch()
    finally:
        store.close()
    audit = Finding("audit log", Health.OK, "unbroken")
    yield Finding("operational state", Health.OK, "reached")
    yield (
        Finding("audit log", Health.FAIL, problems[0], "someone wrote to it: `lastgood audit verify`")
        if problems
        else audit
    )
    if switch.on:
        yield Finding("kill switch", Health.WARN, f"on ({switch.who}: {switch.why})", "`lastgood kill off`")


def secrets(settings: Settings) -> Iterator[Finding]:
    key = secret(settings.web.link_key_env)
    good = key is not None and all(len(part) >= 16 for part in key.split(","))
    sentence = "set" if good else "not set: links die with the process" if key is None else "shorter than 16 characters"
    yield Finding(
        "signing key",
        Health.OK if good else Health.WARN,
        sentence,
        f"export {settings.web.link_key_env}=$(openssl rand -hex 32)",
    )
    people = settings.web.oidc or settings.web.trust_forwarded_user or secret(settings.web.person_token_env)
    yield Finding(
        "who may decide", Health.OK if people else Health.WARN, "known" if people else "nobody: no login is configured",
        f"web.oidc, or {settings.web.person_token_env}",
    )  # fmt: skip
    pager = secret(settings.pagerduty.routing_key_env)
    yield Finding(
        "PagerDuty", Health.OK if pager else Health.WARN, "routing key set" if pager else "no routing key: nobody is paged",
        f"export {settings.pagerduty.routing_key_env}=...",
    )  # fmt: skip


def workspace(settings: Settings) -> Iterator[Finding]:
    workspace = connect(settings.workspace)
    me = workspace.me()
    yield Finding("workspace", Health.OK, f"reached as {me}")
    yield from clock(workspace.host)
    for name, endpoint in settings.endpoints.items():
        yield from _endpoint(workspace, name, endpoint, me, settings.sources)


def _shown(workspace: DatabricksWorkspace, table: str) -> bool:
    """Whether there may be such a table: also one that this principal may not see."""
    try:
        return workspace.has_table(table)
    except LastgoodError:
        return True


def clock(host: str) -> Iterator[Finding]:
    """This machine's clock against the workspace's."""
    date = httpx.get(host, timeout=10).headers.get("date")
    if date:
        off = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
        health = Health.OK if abs(off) <= SKEW_S else Health.FAIL
        yield Finding(
            "clock", health, f"{off:+.0f} s from the workspace's", "start a time service (chrony, systemd-timesyncd)"
        )


def _endpoint(
    workspace: DatabricksWorkspace, name: str, settings: EndpointSettings, me: str, sources: Sources
) -> Iterator[Finding]:
    title = f"endpoint {name}"
    try:
        endpoint: Endpoint = workspace.endpoint(name)
        level = workspace.permissions(name).get(me, "not listed (perhaps through a group)")
    except LastgoodError as error:
        yield Finding(title, Health.FAIL, str(error), "check the name and the token's rights")
        return
    versions = ", ".join(f"{e.entity_version} {endpoint.traffic.get(e.name, 0)}%" for e in endpoint.entities)
    acts = settings.mode is not Mode.OBSERVE
    fine = level == "CAN_MANAGE" or not acts
    yield Finding(
        title,
        Health.OK if fine else Health.WARN,
        f"{settings.mode}; versions {versions}; rights: {level}",
        "grant CAN_MANAGE: a rollback needs it",
    )
    if acts and len(endpoint.entities) < 2:
        yield Finding(
            f"{title}: way back",
            Health.WARN,
            "one version only",
            "keep the prior version at 0%: a rollback then takes seconds",
        )
    table = settings.payload_table
    if not table and endpoint.payload_table:
        fix = f"set endpoints.{endpoint.name}.payload_table: {endpoint.payload_table}"
        yield Finding(
            f"{title}: inference table",
            Health.WARN,
            f"the endpoint logs into {endpoint.payload_table}, which is not read",
            fix,
        )
    for key, exported in endpoint.telemetry.items():
        what = key.removesuffix("_tables") + "s"
        if exported not in getattr(sources, key) and (key == "span_tables" or _shown(workspace, exported)):
            yield Finding(
                f"{title}: {what}",
                Health.WARN,
                f"the endpoint exports {what}, by the platform's naming into {exported}, which is not read",
                f"add it to sources.{key} (where its table has another name, that one: the workspace does not say)",
            )
    if table and tables.is_path(table):
        exists = delta.version(table) is not None
        feed = exists and delta.keeps_changes(table)
        sentence = "read by its change feed" if feed else "read by its clock" if exists else "not there yet"
        if not mistake(table):
            yield Finding(
                f"{title}: inference table",
                Health.OK if exists else Health.WARN,
                f"{table}: {sentence}",
                "is it enabled on the endpoint?",
            )


def service(settings: Settings) -> Iterator[Finding]:
    url = settings.web.base_url.rstrip("/")
    try:
        health = httpx.get(f"{url}/healthz", timeout=5)
        token = secret(settings.web.metrics_token_env)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        shown = "lastgood_build_info" in httpx.get(f"{url}/metrics", headers=headers, timeout=30).text
    except httpx.HTTPError as error:
        yield Finding(
            "service",
            Health.WARN,
            f"{url}: {type(error).__name__}",
            "`lastgood serve`, and web.base_url must be how browsers reach it",
        )
        return
    alive = health.status_code == 200
    yield Finding(
        "service",
        Health.OK if alive and shown else Health.FAIL,
        f"{url}: {'answers' if alive else 'is not well'}, /metrics {'works' if shown else 'does not'}",
    )
    for reason, sentence in (health.json().get("reasons", {}) if alive else {}).items():
        yield Finding(f"cannot protect: {reason}", Health.FAIL, sentence, "see the runbook of LastgoodCannotProtect")


def calendar(settings: Settings) -> Iterator[Finding]:
    """Errors: ConfigError when the file cannot be read."""
    from lastgood.alerts.calendar import Calendar

    if settings.calendar:
        pauses = Calendar(settings.calendar)(datetime.now(UTC))
        sentence = "; ".join(f"{pause.endpoint}: {pause}" for pause in pauses) or "nothing within a day"
        yield Finding("calendar", Health.OK, f"{settings.calendar}: {sentence}")


def prometheus(url: str) -> Check:
    """Whether a Prometheus at `url` scrapes Lastgood."""

    def look(settings: Settings) -> Iterator[Finding]:
        answer = httpx.get(
            f"{url.rstrip('/')}/api/v1/query", params={"query": "lastgood_build_info"}, timeout=10
        ).json()
        seen = answer.get("data", {}).get("result", [])
        sentence = f"{len(seen)} services scraped" if seen else "it does not scrape Lastgood"
        yield Finding(
            "Prometheus", Health.OK if seen else Health.FAIL, sentence, "add a scrape job on web.port, path /metrics"
        )

    return look


def sources(settings: Settings) -> Iterator[Finding]:
    """Tables that the settings name and that can be none: misspelt, or of another kind."""
    for sentence in mistakes(settings):
        yield Finding("sources", Health.FAIL, sentence, "name a Delta table in the settings")


CHECKS: tuple[Check, ...] = (java, storage, state, sources, secrets, workspace, calendar, service)


def examine(settings: Settings, checks: tuple[Check, ...] = CHECKS) -> Iterator[Finding]:
    """Every finding of every check, in order; a check that cannot be made is a finding too."""
    for check in checks:
        try:
            yield from check(settings)
        except (LastgoodError, httpx.HTTPError, OSError, ValueError, subprocess.SubprocessError) as error:
            yield Finding(
                check.__name__.replace("_", " "),
                Health.FAIL,
                str(error) or type(error).__name__,
                "mend this, then run doctor again",
            )
