"""Tables of real teams, collected and conformed by Spark, for `benchmarks.torture`: feeds, logs, clocks, ids and Delta's features."""

import tempfile
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from benchmarks.torture import Result
from lastgood import tables
from lastgood.collectors.reading import Origin, collect
from lastgood.errors import ConfigError
from lastgood.jobs.conform import conform
from lastgood.settings import Settings, SparkSettings
from lastgood.tables import Store, delta
from lastgood.tables.runs import Context

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
FEED = "delta.enableChangeDataFeed = true"
NOON = "timestamp'2026-03-01 12:00:00'"


class Team:
    """One team's table and Lastgood's own, on one Spark."""

    def __init__(self, spark: Any, folder: Path) -> None:
        self.spark, self.path = spark, str(folder / "payload")
        store = Store(str(folder / "data"))
        store.ensure(
            spark, tables.INBOX, tables.REQUESTS, tables.QUARANTINE, tables.RUNS, tables.SCORES, tables.FORGOTTEN
        )
        self.ctx = Context(spark, store, Settings(storage=store.location), lambda: AT + timedelta(hours=2))

    def sql(self, statement: str) -> None:
        self.spark.sql(statement.replace("@", f"delta.`{self.path}`")).collect()

    def make(self, first: int, last: int, properties: str = FEED, at: str = NOON, ids: str = "concat('r', id)") -> None:
        self.sql(
            f"CREATE OR REPLACE TABLE @ USING delta TBLPROPERTIES ({properties}) AS {select(first, last, at, ids)}"
        )

    def add(self, first: int, last: int, at: str = NOON, ids: str = "concat('r', id)") -> None:
        self.sql(f"INSERT INTO @ {select(first, last, at, ids)}")

    def collect(self) -> None:
        collect(self.ctx, Origin(self.path, "chat"))
        conform(self.ctx)

    def expect(self, column: str, wanted: set[Any]) -> None:
        """Errors: ValueError where the requests hold other values."""
        held = set(delta.read(self.ctx.store.path(tables.REQUESTS), [column])[column].to_pylist())
        if held != wanted:
            raise ValueError(f"{column}: {held}")

    def rows(self) -> tuple[int, int]:
        """(requests, rows set aside)."""
        store = self.ctx.store
        return delta.read(store.path(tables.REQUESTS)).num_rows, delta.read(store.path(tables.QUARANTINE)).num_rows


def select(first: int, last: int, at: str, ids: str) -> str:
    named = f", {ids} request_id" if ids else ""
    return f"SELECT 'chat' endpoint, '1' model_version, {at} requested_at, cast(id as double) latency_ms{named} FROM range({first}, {last})"


def _late_feed(team: Team) -> None:
    team.make(0, 5, "delta.appendOnly = false")
    team.sql(f"ALTER TABLE @ SET TBLPROPERTIES ({FEED})")
    team.collect()
    team.add(5, 8)


def _cleaned_log(team: Team) -> None:
    team.make(0, 4)
    for i in range(4, 8):
        team.add(i, i + 1)
    DeltaTable(team.path).create_checkpoint()
    for version in range(4):
        (Path(team.path) / "_delta_log" / f"{version:020}.json").unlink()


def _vacuumed(team: Team) -> None:
    team.make(0, 4)
    team.collect()
    team.add(4, 8)
    team.sql("OPTIMIZE @")
    team.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    team.sql("VACUUM @ RETAIN 0 HOURS")


def _replaced(team: Team) -> None:
    team.make(0, 4)
    team.collect()
    team.make(4, 8)


def _dropped(team: Team) -> None:
    team.make(0, 4)
    team.add(90, 90)
    team.collect()
    Path(team.path).rename(f"{team.path}-away")
    team.make(4, 8)


def _clock(at: str) -> Callable[[Team], None]:
    def act(team: Team) -> None:
        team.make(0, 6, "delta.appendOnly = false")
        team.add(6, 7, at)
        team.collect()
        team.add(7, 9)
        team.collect()

    return act


def _nameless(team: Team) -> None:
    team.make(0, 8, ids="")


def _again(team: Team) -> None:
    team.make(0, 8)
    team.collect()
    team.ctx.store.path(tables.RUNS)
    team.sql(f"DELETE FROM delta.`{team.ctx.store.path(tables.RUNS)}` WHERE job = 'collect'")


def _changed(team: Team) -> None:
    team.make(0, 8)
    team.collect()
    team.sql("UPDATE @ SET latency_ms = 1 WHERE request_id = 'r3'")
    team.sql("DELETE FROM @ WHERE request_id = 'r4'")


def _featured(properties: str, statement: str = "") -> Callable[[Team], None]:
    def act(team: Team) -> None:
        team.make(0, 5)
        team.sql(f"ALTER TABLE @ SET TBLPROPERTIES ({properties})")
        team.collect()
        if statement:
            team.sql(statement)
        team.add(5, 8)

    return act


def _added_column(team: Team) -> None:
    team.make(0, 5)
    team.collect()
    team.sql("ALTER TABLE @ ADD COLUMNS (more string)")
    team.sql(f"INSERT INTO @ SELECT *, 'x' FROM ({select(5, 8, NOON, 'concat(chr(114), id)')})")


def _nameless_again(team: Team) -> None:
    team.make(0, 8, ids="")
    team.collect()
    team.sql(f"DELETE FROM delta.`{team.ctx.store.path(tables.RUNS)}` WHERE job = 'collect'")


def _widened(team: Team) -> None:
    team.make(0, 5)
    team.sql("ALTER TABLE @ SET TBLPROPERTIES ('delta.enableTypeWidening' = 'true')")
    team.sql("ALTER TABLE @ ADD COLUMNS (tokens_in int)")
    team.collect()
    team.sql("ALTER TABLE @ ALTER COLUMN tokens_in TYPE bigint")
    team.sql(f"INSERT INTO @ SELECT *, 5000000000L FROM ({select(5, 8, NOON, 'concat(chr(114), id)')})")
    team.collect()
    team.expect("tokens_in", {None, 5_000_000_000})


def _clustered(team: Team) -> None:
    team.sql(
        f"CREATE TABLE @ USING delta CLUSTER BY (requested_at) TBLPROPERTIES ({FEED}) AS {select(0, 4, NOON, 'concat(chr(114), id)')}"
    )
    team.collect()
    team.add(4, 6)
    team.sql("OPTIMIZE @")
    team.add(6, 8)


def _dropped_column(team: Team) -> None:
    team.make(0, 5)
    team.sql(f"ALTER TABLE @ SET TBLPROPERTIES ({MAPPED})")
    team.sql("ALTER TABLE @ ADD COLUMNS (note string)")
    team.collect()
    team.sql("ALTER TABLE @ DROP COLUMN note")
    team.add(5, 8)


def _elsewhere(zone: str, at: str, wanted: set[datetime]) -> Callable[[Team], None]:
    """A session whose time zone is not UTC, for the team and for Lastgood."""

    def act(team: Team) -> None:
        team.spark.conf.set("spark.sql.session.timeZone", zone)
        try:
            team.make(0, 4, at=at)
            team.collect()
            team.add(4, 8, at)
            team.collect()
        finally:
            team.spark.conf.set("spark.sql.session.timeZone", "UTC")
        team.expect("requested_at", wanted)

    return act


BERLIN = "if(id % 2 = 0, '2025-10-26T02:30:00+02:00', '2025-10-26T02:30:00+01:00')"
"""The hour that came twice in Berlin."""
MAPPED = "delta.columnMapping.mode = 'name', delta.minReaderVersion = 2, delta.minWriterVersion = 5"
CASES: dict[str, tuple[Callable[[Team], None], tuple[int, int]]] = {
    "a feed enabled after the table was made": (_late_feed, (8, 0)),
    "a log that was cleaned": (_cleaned_log, (8, 0)),
    "a vacuum while the job paused": (_vacuumed, (8, 0)),
    "CREATE OR REPLACE": (_replaced, (8, 0)),
    "dropped and made again": (_dropped, (8, 0)),
    "one row of 2062": (_clock("timestamp'2062-01-01'"), (8, 1)),
    "one row without a time": (_clock("cast(null as timestamp)"), (8, 1)),
    "records without ids": (_nameless, (8, 0)),
    "killed before its bookmark": (_again, (8, 0)),
    "records without ids, killed before its bookmark": (_nameless_again, (8, 0)),
    "liquid clustering": (_clustered, (8, 0)),
    "a column dropped": (_dropped_column, (8, 0)),
    "a session in another zone": (_elsewhere("America/New_York", "timestamp'2026-03-01 07:00:00'", {AT}), (8, 0)),
    "times without a zone in a session in another zone": (_elsewhere("Asia/Tokyo", "timestamp_ntz'2026-03-01 12:00:00'", {AT}), (8, 0)),
    "the hour that comes twice": (_elsewhere("Europe/Berlin", BERLIN, {datetime(2025, 10, 26, h, 30, tzinfo=UTC) for h in (0, 1)}), (8, 0)),
    "changed and deleted rows": (_changed, (8, 0)),
    "deletion vectors": (_featured("delta.enableDeletionVectors = true"), (8, 0)),
    "column mapping": (_featured(MAPPED), (8, 0)),
    "column mapping, a column renamed": (_featured(MAPPED, "ALTER TABLE @ RENAME COLUMN latency_ms TO latency"), (8, 0)),
    "type widening": (_widened, (8, 0)),
    "a column added": (_added_column, (8, 0)),
}  # fmt: skip


def _run(spark: Any, act: Callable[[Team], None], wanted: tuple[int, int]) -> Result:
    with tempfile.TemporaryDirectory() as name:
        try:
            team = Team(spark, Path(name))
            act(team)
            team.collect()
            team.collect()
            requests, aside = team.rows()
        except ConfigError as error:
            return Result(False, said=str(error)[:300])
        except Exception:
            return Result(False, traceback=True, said=traceback.format_exc()[-900:])
    missing = sum(wanted) - requests - aside
    return Result(
        (requests, aside) == wanted, max(0, missing), max(0, -missing), said=f"{requests} requests, {aside} aside"
    )


def tables_of_teams() -> list[tuple[str, Result]]:
    """Every case, on one Spark."""
    from lastgood.jobs.spark import session

    spark = session(SparkSettings(driver_memory="1g"))
    spark.conf.set("spark.sql.shuffle.partitions", "2")
    return [(f"table: {name}", _run(spark, act, wanted)) for name, (act, wanted) in CASES.items()]
