"""One contract for every home of a table: a folder, an S3 address, a catalog name with lent credentials, a SQL warehouse; and their faults."""

import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from databricks.sdk.errors import PermissionDenied, TooManyRequests
from s3_support import S3

from benchmarks.check import make as make_payload
from lastgood import tables
from lastgood.cli.check import check
from lastgood.errors import ConfigError, DeniedError, TransientError
from lastgood.record.telemetry import arrow_schema
from lastgood.settings import Settings
from lastgood.tables import delta
from lastgood.tables.homes import CHECK_S, TableHome
from lastgood.workspace.local import LocalCatalog, LocalConfig, Running, serve
from lastgood.workspace.local.statements import WAREHOUSE
from lastgood.workspace.stores import tables_of

AT = datetime(2026, 1, 5, 12, tzinfo=UTC)
SCHEMA = arrow_schema(tables.VERDICTS.fields)
HOMES = ("folder", "s3", "catalog", "warehouse")


def verdicts(*numbers: int) -> pa.Table:
    rows = [
        {"endpoint": f"e{n % 2}", "candidate": str(n), "state": "Healthy", "judged_at": AT + timedelta(minutes=n)} for n in numbers
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, SCHEMA)


def candidates(rows: pa.Table) -> list[str]:
    return sorted(rows["candidate"].to_pylist())


@dataclass
class Place:
    """A table's home as a client has it; `owned`: the same table as its owner (the jobs' Spark) writes it."""

    kind: str
    store: tables.Store
    owned: delta.Where
    space: Running | None = None
    settings: Settings | None = None
    clock: list[float] = field(default_factory=lambda: [0.0])

    def home(self) -> TableHome:
        return self.store.home(tables.VERDICTS)

    def write(self, *numbers: int) -> None:
        delta.append(self.owned, verdicts(*numbers))

    def set(self, **settings: Any) -> None:
        assert self.space is not None
        headers = {"authorization": f"Bearer {self.space.token}"}
        httpx.put(f"{self.space.url}/local/catalog", json=settings, headers=headers, timeout=30).raise_for_status()

    def later(self, seconds: float = CHECK_S) -> None:
        """Time passes for what is remembered of the table."""
        self.clock[0] += seconds


@pytest.fixture
def make(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Place]]:
    monkeypatch.setenv("LOCAL", LocalConfig.token)
    spaces: list[Any] = []

    def make(kind: str, schema: str = "main.lastgood") -> Place:
        if kind == "folder":
            store = tables.Store(str(tmp_path / "data"))
            return Place(kind, store, store.path(tables.VERDICTS))
        s3: S3 = request.getfixturevalue("s3")
        address = f"{s3.bucket()}/lg"
        owned = delta.Located(f"{address}/verdicts", s3.own)
        if kind == "s3":
            place = Place(kind, tables.Store(address, options=s3.own), owned)
            own: Any = place.home()
            own.clock = lambda: place.clock[0]
            return place
        catalog = LocalCatalog({schema: address}, s3.own, external={"verdicts"}, external_access=kind == "catalog")
        context = serve(LocalConfig(catalog=catalog))
        spaces.append(context)
        space = context.__enter__()
        space.service.statements.chunk_rows, space.service.statements.running = 2, 1
        settings = Settings(
            storage=schema,
            workspace={"host": space.url, "token_env": "LOCAL", "retry_timeout_s": 2},
            tables={"options": s3.options, "warehouse_id": WAREHOUSE},
        )
        place = Place(kind, tables_of(settings), owned, space, settings)
        home: Any = place.home()
        home.clock = home._stored.clock = home._warehouse.clock = lambda: place.clock[0]
        return place

    yield make
    for context in spaces:
        context.__exit__(None, None, None)


@pytest.fixture(params=HOMES)
def place(request: pytest.FixtureRequest, make: Callable[[str], Place]) -> Place:
    return make(request.param)


def test_a_table_that_is_not_there_is_empty_and_not_an_error(place: Place) -> None:
    home = place.home()
    assert (home.version(), home.identity(), home.app_version("a"), home.newest("judged_at"), home.facts()) == (
        None,
    ) * 5
    assert home.read(["endpoint"]).num_rows == 0


def test_rows_are_read_by_column_filter_and_version(place: Place) -> None:
    place.write(1, 2)
    place.write(3)
    home = place.home()
    assert home.version() == 1
    assert candidates(home.read()) == ["1", "2", "3"]
    assert home.read(["endpoint", "candidate"]).column_names == ["endpoint", "candidate"]
    assert candidates(home.read(filters=[("judged_at", ">", AT + timedelta(minutes=1)), ("endpoint", "=", "e1")])) == [
        "3"
    ]
    assert candidates(home.read(["candidate"], [("judged_at", "<=", AT + timedelta(minutes=2))])) == ["1", "2"]
    assert candidates(home.read(filters=[("candidate", "in", ["3", "1", "7"])])) == ["1", "3"]
    assert candidates(home.read(version=0)) == ["1", "2"]
    assert home.newest("judged_at") == AT + timedelta(minutes=3)
    assert home.identity() == delta.identity(place.owned)
    assert {key: (home.facts() or {})[key] for key in ("version", "rows")} == {"version": 1, "rows": 3}


def test_no_rows_have_the_columns_that_rows_would_have(place: Place) -> None:
    place.write(1, 2)
    place.later()
    home, nobody = place.home(), [("endpoint", "=", "nobody")]
    assert home.read(filters=nobody).schema.names == SCHEMA.names
    few = home.read(["candidate", "judged_at", "e_value"], nobody)
    assert (few.num_rows, few.schema.names) == (0, ["candidate", "judged_at", "e_value"])
    assert (
        pa.concat_tables([few, home.read(["candidate", "judged_at", "e_value"])], promote_options="default").num_rows
        == 2
    )


def test_what_changed_is_read_by_version(place: Place) -> None:
    for number in range(4):
        place.write(number)
    changed = place.home().changes(1, 2)
    assert sorted((row["candidate"], row["_change_type"], row["_commit_version"]) for row in changed) == [
        ("1", "insert", 1), ("2", "insert", 2),
    ]  # fmt: skip
    with pytest.raises(TransientError):
        place.home().changes(7, 9)


def test_an_update_is_two_images_and_a_delete_one(place: Place) -> None:
    place.write(1, 2)
    table = delta.open_table(place.owned)
    table.update(updates={"state": "'Page'"}, predicate="candidate = '1'")
    table.delete("candidate = '2'")
    changed = place.home().changes(1, 2)
    assert sorted((row["_change_type"], row["candidate"], row["state"]) for row in changed) == [
        ("delete", "2", "Healthy"), ("update_postimage", "1", "Page"), ("update_preimage", "1", "Healthy"),
    ]  # fmt: skip


def test_rows_are_appended_and_seen(place: Place) -> None:
    place.write(0)
    home = place.home()
    assert home.version() == 0
    assert home.append(verdicts(1, 2))
    assert (home.version(), candidates(home.read())) == (1, ["0", "1", "2"])


def test_an_applications_version_is_stored_once(place: Place) -> None:
    place.write(0)
    home = place.home()
    if place.kind == "warehouse":
        with pytest.raises(DeniedError, match="exactly once"):
            home.append(verdicts(1), app=("spool", 1))
        return
    assert [home.append(verdicts(1), app=("spool", 1)) for _ in range(2)] == [True, False]
    assert (home.app_version("spool"), candidates(home.read())) == (1, ["0", "1"])


def test_who_takes_another_version_for_the_newest_stores_nothing(place: Place) -> None:
    """A listing that was stale: what its reader takes for new is there already."""
    place.write(0)
    home = place.home()
    if place.kind == "warehouse":
        return
    assert all(home.append(verdicts(i), app=("spool", i, i - 1)) for i in (1, 2))
    with pytest.raises(TransientError, match="committed version 2, not 1"):
        home.append(verdicts(3), app=("spool", 3, 1))
    assert not home.append(verdicts(3), app=("spool", 2, 1))
    assert candidates(place.home().read()) == ["0", "1", "2"]


def test_a_table_made_anew_is_another_one(place: Place) -> None:
    for number in range(5):
        place.write(number)
    home = place.home()
    before = home.version(), home.identity()
    _removed(place.owned)
    place.write(9)
    place.later(max(CHECK_S, 10_000))
    assert home.identity() != before[1]
    assert (home.version(), candidates(home.read())) == (0, ["9"])


def _removed(owned: delta.Where) -> None:
    if isinstance(owned, delta.Located):
        store = delta.objects(owned)
        for listed in obstore.list(store):
            obstore.delete(store, [meta["path"] for meta in listed])
    else:
        shutil.rmtree(owned)


def test_two_writers_at_once_lose_nothing_and_double_nothing(place: Place) -> None:
    place.write(0)
    if place.kind == "warehouse":
        return  # its writers are the platform's own
    other = tables.Store(place.store.location, place.store.catalog, place.store.options)

    def write(side: tuple[TableHome, int]) -> None:
        home, base = side
        for number in range(6):
            while True:
                try:
                    home.append(verdicts(base + number), app=(f"writer {base}", number + 1))
                    break
                except TransientError:
                    time.sleep(0.01)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, [(place.home(), 100), (other.home(tables.VERDICTS), 200)]))
    assert candidates(place.home().read()) == sorted(["0", *(str(base + n) for base in (100, 200) for n in range(6))])


REMOTE = ("s3", "catalog")


@pytest.mark.parametrize("kind", REMOTE)
def test_polling_an_unchanged_table_is_one_small_request(make: Callable[[str], Place], s3: S3, kind: str) -> None:
    place = make(kind)
    place.write(1)
    home = place.home()
    home.version()
    calls = _calls(place)
    for wait in (0.0, 5.0, CHECK_S, 5.0):
        s3.asked()
        before = calls()
        place.later(wait)
        assert home.version() == 0
        asked = [request for request in s3.asked() if request["lent"] or kind == "s3"]
        assert len(asked) + calls() - before == 1
        assert all(request["method"] == "HEAD" for request in asked)


def _calls(place: Place) -> Callable[[], int]:
    """How often the workspace was called so far."""
    count = [0]
    if place.space:
        chaos = place.space.service.chaos
        meet = chaos.meet

        async def counted(*given: Any) -> Any:
            count[0] += 1
            return await meet(*given)

        chaos.meet = counted  # type: ignore[method-assign]
    return lambda: count[0]


def test_credentials_are_renewed_before_they_end(make: Callable[[str], Place]) -> None:
    place = make("catalog")
    place.write(1)
    home: Any = place.home()
    wall = [time.time()]
    home.wall = lambda: wall[0]
    assert place.space is not None
    catalog = place.space.service.catalog
    home.read()
    home.read()
    assert catalog.lent == 1
    wall[0] += catalog.lease_s - 200
    home.read()
    assert catalog.lent == 2


def test_credentials_that_end_in_the_middle_of_a_read_are_renewed_and_the_read_is_whole(
    make: Callable[[str], Place], s3: S3
) -> None:
    place = make("catalog")
    for number in range(3):
        place.write(number)
    home = place.home()
    home.version()
    s3.fail({"kind": "expired", "method": "GET", "path": ".parquet", "after": 1})
    assert candidates(home.read()) == ["0", "1", "2"]
    assert place.space is not None
    assert place.space.service.catalog.lent == 2


def test_credentials_whose_end_nobody_noticed_are_replaced(make: Callable[[str], Place]) -> None:
    place = make("catalog")
    place.write(1)
    place.set(lease_s=0.01)
    home: Any = place.home()
    home.wall = lambda: 0.0  # the clock of this machine is wrong: they seem good for ever
    with pytest.raises(DeniedError):  # each lasts 10 ms: the storage has seen two of them end
        place.store.catalog.query = _no_warehouse  # type: ignore[union-attr, method-assign]
        time.sleep(0.02)
        home.read()
    place.set(lease_s=3600)
    place.later(10_000)
    assert candidates(home.read()) == ["1"]


def _no_warehouse(*_: Any) -> pa.Table:
    raise DeniedError("no warehouse")


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("fault", ["slow_down", "throttled"])
def test_a_storage_that_asks_for_patience_gets_it(make: Callable[[str], Place], s3: S3, kind: str, fault: str) -> None:
    place = make(kind)
    place.write(1)
    home = place.home()
    s3.fail({"kind": fault, "method": "GET", "times": 2})
    assert candidates(home.read()) == ["1"]


@pytest.mark.parametrize("kind", REMOTE)
def test_an_append_whose_answer_is_lost_is_stored_once(make: Callable[[str], Place], s3: S3, kind: str) -> None:
    place = make(kind)
    place.write(0)
    home = place.home()
    s3.fail({"kind": "lost", "method": "PUT", "path": "_delta_log"})
    for _ in range(3):
        try:
            home.append(verdicts(1), app=("spool", 1))
        except TransientError:
            continue
    assert candidates(home.read()) == ["0", "1"]


def test_a_storage_that_refuses_is_said_and_not_taken_for_an_empty_table(make: Callable[[str], Place], s3: S3) -> None:
    place = make("s3")
    place.write(1)
    s3.fail({"kind": "denied", "times": 1000})
    home = place.home()
    for call in (home.version, home.read, home.facts, home.identity):
        with pytest.raises(DeniedError, match="refuses the credentials"):
            call()


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ({"external_access": False}, "external data access is disabled on the metastore"),
        ({"denied": ["EXTERNAL_USE_SCHEMA"]}, "does not have EXTERNAL USE SCHEMA"),
        ({"kinds": {"verdicts": "VIEW"}}, "no table whose files can be read"),
    ],
)
def test_where_no_credentials_are_lent_a_warehouse_answers_and_why_is_said(
    make: Callable[[str], Place], setting: dict[str, Any], why: str
) -> None:
    place = make("catalog")
    place.write(1)
    place.set(**setting)
    home = place.home()
    assert candidates(home.read()) == ["1"]
    assert home.way().startswith("SQL warehouse, asked every 1800 s, because ")
    assert why in home.way()
    place.set(external_access=True, denied=[], kinds={})
    place.later(10_000)
    assert home.way() == "lent credentials (external table)"


def test_a_storage_that_refuses_lent_credentials_leaves_the_warehouse(make: Callable[[str], Place], s3: S3) -> None:
    place = make("catalog")
    place.write(1)
    s3.fail({"kind": "denied", "times": 1000, "lent": True})
    home = place.home()
    assert candidates(home.read()) == ["1"]


def test_a_warehouse_is_asked_as_seldom_as_the_policy_allows(make: Callable[[str], Place]) -> None:
    place = make("warehouse")
    place.write(1)
    home = place.home()
    assert place.space is not None
    executed = place.space.service.statements.executed
    for _ in range(20):
        assert home.version() == 0
        place.later(60)
    assert len([s for s in executed if s.startswith("DESCRIBE HISTORY")]) == 1
    place.write(2)
    place.later(1800)
    assert home.version() == 1


def test_without_any_right_the_missing_grants_are_said(make: Callable[[str], Place]) -> None:
    place = make("catalog")
    place.write(1)
    place.set(denied=["SELECT"])
    with pytest.raises(ConfigError, match=r"GRANT USE CATALOG.*SELECT ON SCHEMA `main`\.`lastgood`"):
        place.home().read()


def test_a_managed_table_is_read_with_lent_credentials_and_written_by_the_warehouse(
    make: Callable[[str], Place],
) -> None:
    place = make("catalog")
    place.write(0)
    place.set(external=[])
    home = place.home()
    assert home.way() == "lent credentials (managed table)"
    home.append(verdicts(1))
    assert home.way() == "lent credentials (managed table)"
    assert candidates(home.read()) == ["0", "1"]


@pytest.mark.parametrize("kind", ["catalog", "warehouse"])
def test_a_workspace_that_is_busy_or_down_is_a_transient_error(make: Callable[[str], Place], kind: str) -> None:
    place = make(kind)
    place.write(1)
    home = place.home()
    assert place.space is not None
    headers = {"authorization": f"Bearer {place.space.token}"}
    for status in ("429", "500"):
        rules = {"rules": [{"kind": status, "times": 1000}]}
        httpx.put(f"{place.space.url}/local/chaos", json=rules, headers=headers, timeout=30)
        with pytest.raises(TransientError):
            home.read()
        place.later()
    httpx.put(
        f"{place.space.url}/local/chaos", json={"rules": [{"kind": "429", "times": 1}]}, headers=headers, timeout=30
    )
    assert candidates(home.read()) == ["1"]


def test_a_slow_storage_stops_no_other_thread(make: Callable[[str], Place], s3: S3) -> None:
    """delta-rs' own change feed holds Python's lock while it waits: the service's event loop would stand still."""
    place = make("s3")
    place.write(1)
    place.write(2)
    home = place.home()
    home.version()
    s3.fail({"kind": "delay", "times": 1000, "delay_s": 0.3})
    turns, done = [0], threading.Event()

    def turn() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=turn)
    thread.start()
    seen = []
    for work in (
        home.version,
        home.read,
        lambda: home.changes(1, 1),
        lambda: home.newest("judged_at"),
        lambda: home.app_version("a"),
    ):
        before = turns[0]
        work()
        seen.append(turns[0] - before)
    done.set()
    thread.join()
    assert min(seen) > 10


def test_credentials_are_never_logged_nor_shown(
    make: Callable[[str], Place], s3: S3, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    place = make("catalog")
    place.write(1)
    home: Any = place.home()
    home.read()
    lease = home._leases[False][0]
    secrets = [lease.options[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")]
    s3.fail({"kind": "expired", "times": 1000})
    place.set(external_access=False)
    shown = [repr(home), repr(lease), repr(home._place(False)), str(home._place(False))]
    try:
        home.read()
    except (TransientError, DeniedError) as error:
        shown.append(str(error))
    s3.fail()
    place.set(external_access=False)
    home.way()
    text = "\n".join([caplog.text, *shown])
    assert not [secret for secret in secrets if secret in text]
    assert "/local/results/" not in caplog.text


def test_a_catalog_name_makes_no_folder(
    make: Callable[[str], Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(storage="main.lastgood")
    with pytest.raises(ConfigError, match="state_url"):
        _ = settings.state
    with pytest.raises(ConfigError, match="workspace"):
        tables.Store("main.lastgood").home(tables.VERDICTS)
    assert list(tmp_path.iterdir()) == []


def test_a_payload_table_is_checked_wherever_it_is_and_without_spark(place: Place, tmp_path: Path) -> None:
    """The same figures as of the file that the rows came from."""
    file = tmp_path / "support.parquet"
    make_payload(file, 3_000)
    rows = pq.read_table(file)
    beside = str(place.owned).replace("verdicts", "support_payload")
    delta.append(delta.Located(beside, place.owned.options) if isinstance(place.owned, delta.Located) else beside, rows)
    if place.space:
        place.space.service.statements.chunk_rows = 1_000
    name = place.store.where(replace(tables.VERDICTS, name="support_payload"))
    settings = place.settings or Settings(tables={"options": dict(place.store.options)})
    got, expected = check(name, settings, "support"), check(str(file), settings, "support")
    assert got["endpoints"] == expected["endpoints"]
    assert (got["rows"], got["notes"], got["rejected"]) == (3_000, expected["notes"], expected["rejected"])
    how = {"s3": "object store", "catalog": "lent credentials", "warehouse": "SQL warehouse"}
    assert how.get(place.kind, "Delta, version 0") in got["read"]


def test_a_check_of_a_table_that_is_not_there_says_so(make: Callable[[str], Place]) -> None:
    with pytest.raises(ConfigError, match=r"main\.lastgood\.nothing: there is no such table"):
        check("main.lastgood.nothing", make("catalog").settings or Settings())


@pytest.mark.parametrize("kind", ["catalog", "warehouse"])
@pytest.mark.parametrize("schema", ["my-catalog.team-a", "main.größe", "2024.1st"])
def test_a_name_of_any_letters_is_read_written_and_followed(make: Callable[..., Place], kind: str, schema: str) -> None:
    place = make(kind, schema)
    place.write(1)
    home = place.home()
    assert candidates(home.read(["candidate"], [("endpoint", "=", "e1")])) == ["1"]
    home.append(verdicts(2))
    assert home.version() == 1
    assert [row["candidate"] for row in home.changes(1, 1)] == ["2"]
    assert home.newest("judged_at") == AT + timedelta(minutes=2)
    facts = home.facts()
    assert facts is not None
    assert facts["rows"] == 2
    assert place.store.named(f"`{'`.`'.join(schema.split('.'))}`.verdicts").version() == 1


def test_more_rows_than_a_statement_takes_parameters_go_in_at_once_and_unchanged(make: Callable[..., Place]) -> None:
    """A statement takes 256 parameters: three rows of eleven columns were too many for two of them."""
    place = make("warehouse")
    place.write(1)
    rows = pa.Table.from_pylist(
        [
            {
                "endpoint": "e'\\\"{", "candidate": f"v{n}", "e_value": (math.inf, 0.1, None)[n % 3], "reason": "`:p1`\n",
                "judged_at": AT + timedelta(microseconds=n),
            }
            for n in range(600)
        ],
        SCHEMA,
    )  # fmt: skip
    place.home().append(rows)
    stored = place.home().read(filters=[("candidate", "!=", "1")])
    by_candidate = [("candidate", "ascending")]
    assert stored.select(SCHEMA.names).sort_by(by_candidate).to_pylist() == rows.sort_by(by_candidate).to_pylist()
    assert place.home().version() == 1, "one commit: half of it is never seen"


@pytest.mark.parametrize("kind", ["catalog", "warehouse"])
def test_a_warehouse_that_is_gone_is_said_and_not_taken_for_an_empty_table(
    make: Callable[..., Place], kind: str
) -> None:
    place = make(kind)
    place.write(1)
    place.set(external_access=False)
    settings = place.store.catalog._settings  # type: ignore[union-attr]
    object.__setattr__(settings.tables, "warehouse_id", "deleted-yesterday")
    for ask in (place.home().version, place.home().read, place.home().facts, lambda: place.home().append(verdicts(2))):
        with pytest.raises(ConfigError, match="no SQL warehouse deleted-yesterday"):
            ask()


def test_a_result_that_was_cut_off_is_an_error(make: Callable[..., Place]) -> None:
    place = make("warehouse")
    place.write(1)
    assert place.space is not None
    place.space.service.statements.truncated = True
    with pytest.raises(TransientError, match="larger than it returns"):
        place.home().read()


def test_a_table_that_is_made_anew_between_two_looks_is_found(make: Callable[..., Place], s3: S3) -> None:
    """The catalog is asked once a minute; credentials for the table of before are refused as not there."""
    place = make("catalog")
    place.write(1)
    home = place.home()
    assert candidates(home.read()) == ["1"]
    store = delta.objects(place.owned)  # type: ignore[arg-type]
    for batch in obstore.list(store):
        for meta in batch:
            obstore.delete(store, meta["path"])
    place.write(2)
    assert place.space is not None
    place.space.service.catalog._ids.clear()
    home._leases.clear()  # type: ignore[attr-defined]
    assert candidates(home.read()) == ["2"]


def test_a_region_that_could_not_be_asked_once_is_asked_again(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, every read of a bucket elsewhere would fail until the next start."""
    place = make("catalog")
    place.write(1)
    catalog: Any = place.store.catalog
    own = catalog._settings.tables
    object.__setattr__(own, "options", {name: text for name, text in own.options.items() if name != "AWS_REGION"})
    entry, metastores = catalog.entry("main.lastgood.verdicts"), catalog._connected._sdk.metastores
    with monkeypatch.context() as busy:
        busy.setattr(metastores, "summary", Mock(side_effect=TooManyRequests("slow down")))
        with pytest.raises(TransientError, match="metastore"):
            catalog.lend(entry.table_id, False)
    assert catalog.lend(entry.table_id, False).options["AWS_REGION"] == "us-east-1"


def test_who_may_not_see_the_metastore_is_lent_credentials_without_a_region(
    make: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make("catalog")
    place.write(1)
    catalog: Any = place.store.catalog
    entry, metastores = catalog.entry("main.lastgood.verdicts"), catalog._connected._sdk.metastores
    object.__setattr__(catalog._settings.tables, "options", {})
    monkeypatch.setattr(metastores, "summary", Mock(side_effect=PermissionDenied("no")))
    assert "AWS_REGION" not in catalog.lend(entry.table_id, False).options


def test_a_vacuum_removes_what_the_change_feed_kept_of_deleted_rows(tmp_path: Path) -> None:
    """The feed's files are in no tombstone: they stayed for ever, and what was deleted in them."""
    table, rows = tmp_path / "t", pa.table({"who": ["ann", "bob"]})
    delta.append(table, rows)
    delta.open_table(table).delete("who = 'ann'")
    kept = list((table / "_change_data").glob("*.parquet"))
    assert kept
    delta.vacuum(table, 168)
    assert list((table / "_change_data").glob("*.parquet")) == kept, "a week of changes can be read"
    for path in table.rglob("*"):
        os.utime(path, (time.time() - 8 * 86_400,) * 2)
    delta.append(table, rows.slice(1))
    delta.open_table(table).delete("who = 'nobody'")
    delta.vacuum(table, 168)
    assert not list((table / "_change_data").glob("*.parquet"))
    assert sorted(delta.read(table)["who"].to_pylist()) == ["bob", "bob"]
