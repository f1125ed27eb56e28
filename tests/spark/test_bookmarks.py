"""Sources as they are: feeds that begin late or are gone, tables that are replaced, clocks that lie, rows without ids. Each row once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from jobs_support import put, row
from soak import scaled

from lastgood import tables
from lastgood.collectors import reading
from lastgood.collectors.reading import Origin, collect, collect_all
from lastgood.errors import ConfigError
from lastgood.jobs import maintain
from lastgood.jobs.conform import conform
from lastgood.jobs.windows import windows
from lastgood.settings import Settings
from lastgood.tables import Store, delta
from lastgood.tables.health import health
from lastgood.tables.runs import Context, bookmark

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
FEED = "TBLPROPERTIES (delta.enableChangeDataFeed = true)"


TABLES = (
    tables.INBOX, tables.REQUESTS, tables.QUARANTINE, tables.RUNS, tables.WINDOWS, tables.FRESHNESS, tables.FORGOTTEN, tables.SALTS,
)  # fmt: skip


@pytest.fixture
def ctx(spark: Any, store: Store) -> Context:
    store.ensure(
        spark,
        *TABLES,
        tables.SCORES,
    )
    return Context(spark, store, Settings(storage=store.location), lambda: AT + timedelta(hours=2))


def rows(spark: Any, first: int, last: int, at: str = "timestamp'2026-03-01 12:00:00'") -> Any:
    return spark.sql(
        f"SELECT 'chat' endpoint, '1' model_version, {at} requested_at, 5.0D latency_ms, concat('r', id) request_id FROM range({first}, {last})"
    )


def make(spark: Any, path: str, first: int, last: int, feed: bool = True) -> None:
    rows(spark, first, last).createOrReplaceTempView("given")
    spark.sql(f"CREATE OR REPLACE TABLE delta.`{path}` USING delta {FEED if feed else ''} AS SELECT * FROM given")


def add(spark: Any, path: str, first: int, last: int) -> None:
    rows(spark, first, last).write.format("delta").mode("append").save(path)


def taken(ctx: Context) -> list[str]:
    """Ids in the inbox, each as often as it is there."""
    return sorted(r["request_id"] for r in delta.read(ctx.store.path(tables.INBOX)).to_pylist())


def ids(*spans: tuple[int, int]) -> list[str]:
    return sorted(f"r{i}" for first, last in spans for i in range(first, last))


def read(ctx: Context, path: str) -> Any:
    return collect(ctx, Origin(path, "chat"))


def test_a_feed_enabled_after_the_table_was_made(ctx: Context, tmp_path: Path) -> None:
    path = str(tmp_path / "late")
    make(ctx.spark, path, 0, 5, feed=False)
    ctx.spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES (delta.enableChangeDataFeed = true)")
    run = read(ctx, path)
    assert "read whole" in run.note
    add(ctx.spark, path, 5, 8)
    assert read(ctx, path).note is None
    assert taken(ctx) == ids((0, 8))
    assert read(ctx, path) is None
    (job,) = [j for j in health(ctx.store, AT)["jobs"] if j["job"] == "collect"]
    assert job["read_whole"] == 1


def test_what_was_deleted_before_the_table_was_attached_stays_deleted(ctx: Context, tmp_path: Path) -> None:
    path = str(tmp_path / "erased")
    make(ctx.spark, path, 0, 5)
    ctx.spark.sql(f"DELETE FROM delta.`{path}` WHERE request_id = 'r1'").collect()
    run = read(ctx, path)
    assert (run.note, run.passed_over) == (None, 0)
    add(ctx.spark, path, 5, 7)
    read(ctx, path)
    assert taken(ctx) == ids((0, 1), (2, 7))


def test_a_log_that_was_cleaned_before_the_table_was_attached(ctx: Context, tmp_path: Path) -> None:
    path = str(tmp_path / "old")
    make(ctx.spark, path, 0, 1)
    for i in range(1, 12):
        add(ctx.spark, path, i, i + 1)
    for version in range(10):
        (Path(path) / "_delta_log" / f"{version:020}.json").unlink()
    ctx.spark.sql("CLEAR CACHE")
    run = read(ctx, path)
    assert "read whole" in run.note
    assert taken(ctx) == ids((0, 12))


def test_a_vacuum_while_the_job_paused(ctx: Context, tmp_path: Path) -> None:
    path = str(tmp_path / "vacuumed")
    make(ctx.spark, path, 0, 3)
    read(ctx, path)
    add(ctx.spark, path, 3, 6)
    ctx.spark.sql(f"OPTIMIZE delta.`{path}`").collect()
    ctx.spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
    ctx.spark.sql(f"VACUUM delta.`{path}` RETAIN 0 HOURS").collect()
    run = read(ctx, path)
    assert "its change feed cannot be read" in run.note
    assert taken(ctx) == ids((0, 6))
    add(ctx.spark, path, 6, 7)
    assert read(ctx, path).note is None
    assert taken(ctx) == ids((0, 7))


@pytest.mark.parametrize("how", ["dropped", "replaced"])
def test_a_table_that_is_made_anew(ctx: Context, tmp_path: Path, how: str) -> None:
    path = tmp_path / "anew"
    make(ctx.spark, str(path), 0, 5)
    for i in range(5, 9):
        add(ctx.spark, str(path), i, i + 1)
    read(ctx, str(path))
    if how == "dropped":
        path.rename(tmp_path / "away")
    make(ctx.spark, str(path), 20, 25)
    read(ctx, str(path))
    add(ctx.spark, str(path), 25, 27)
    read(ctx, str(path))
    assert taken(ctx) == ids((0, 9), (20, 27))


def test_changed_and_deleted_rows_of_a_source_are_counted(ctx: Context, tmp_path: Path) -> None:
    path = str(tmp_path / "changed")
    make(ctx.spark, path, 0, 10)
    read(ctx, path)
    ctx.spark.sql(f"UPDATE delta.`{path}` SET latency_ms = 9 WHERE request_id < 'r3'").collect()
    ctx.spark.sql(f"DELETE FROM delta.`{path}` WHERE request_id = 'r9'").collect()
    run = read(ctx, path)
    assert (run.rows_in, run.passed_over) == (0, 4)
    (job,) = [j for j in health(ctx.store, AT)["jobs"] if j["job"] == "collect"]
    assert job["passed_over"] == 4


CLOCKS = {
    "2062": "timestamp'2062-03-01 12:00:00'", "null": "cast(null as timestamp)", "no time": "'yesterday'", "1970": "timestamp'1970-01-01'",
}  # fmt: skip


@pytest.mark.parametrize("how", CLOCKS)
def test_a_time_that_cannot_be_moves_no_bookmark_and_is_set_aside(ctx: Context, tmp_path: Path, how: str) -> None:
    path = str(tmp_path / "clock")
    kind = "string" if how == "no time" else "timestamp"
    day = "cast('2026-03-01 12:00:00' as string)" if kind == "string" else "timestamp'2026-03-01 12:00:00'"
    rows(ctx.spark, 0, 6, day).write.format("delta").save(path)
    rows(ctx.spark, 6, 7, CLOCKS[how]).write.format("delta").mode("append").save(path)
    read(ctx, path)
    rows(ctx.spark, 7, 9, day).write.format("delta").mode("append").save(path)
    read(ctx, path)
    read(ctx, path)
    odd = [] if how == "1970" else ["r6"]  # before the day that is read again, but for the first time
    assert [i for i in taken(ctx) if i != "r6"] == [i for i in ids((0, 9)) if i != "r6"]
    assert taken(ctx).count("r6") == 1 or odd == []
    conform(ctx)
    held = delta.read(ctx.store.path(tables.QUARANTINE)).to_pylist()
    assert len(held) == 1
    assert "time" in held[0]["reason"]
    assert delta.read(ctx.store.path(tables.REQUESTS)).num_rows == 8


def test_records_without_ids_killed_before_the_bookmark_are_the_same_rows(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "nameless")
    frame = ctx.spark.sql(
        "SELECT 'chat' endpoint, '1' model_version, timestamp'2026-03-01 12:00:00' requested_at, cast(id div 2 as double) latency_ms FROM range(5)"
    )
    frame.write.format("delta").option("delta.enableChangeDataFeed", "true").save(path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reading, "record", killed)
        with pytest.raises(KeyboardInterrupt):
            read(ctx, path)
    read(ctx, path)
    conform(ctx)
    kept = delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()
    assert sorted(r["latency_ms"] for r in kept) == [0.0, 0.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_what_is_no_delta_table_is_an_error_not_silence(ctx: Context, tmp_path: Path, form: str) -> None:
    path = str(tmp_path / form)
    rows(ctx.spark, 0, 3).write.format(form).save(path)
    bad = Context(
        ctx.spark,
        ctx.store,
        Settings(storage=ctx.store.location, endpoints={"chat": {"payload_table": path}}),
        ctx.clock,
    )
    with pytest.raises(ConfigError, match=f"{form}: is no Delta table"):
        collect_all(bad)


def test_bookmarks_do_not_depend_on_what_retention_deletes(spark: Any, store: Store) -> None:
    """Three years in steps, `maintain`'s retention after each; `make soak` takes smaller steps."""
    store.ensure(
        spark,
        *TABLES,
        tables.COMPLETENESS,
    )
    step = timedelta(days=max(7, 156 // scaled(1)))
    now, seen = AT, 0
    while now < AT + timedelta(days=3 * 365):
        ctx = Context(spark, store, Settings(storage=store.location), lambda at=now: at)
        put(store, [row(seen, requested_at=now - timedelta(minutes=5), received_at=now)])
        seen += 1
        assert conform(ctx) is not None
        assert windows(ctx) is not None
        assert conform(ctx) is None
        for table in (tables.INBOX, tables.RUNS):
            maintain._expire(ctx, table)
        assert bookmark(ctx, "windows", "requests") == store.version(spark, tables.REQUESTS)
        now += step
    assert delta.read(store.path(tables.REQUESTS)).num_rows == seen
    assert sum(delta.read(store.path(tables.WINDOWS))["rows"].to_pylist()) == seen


def test_a_bookmark_that_was_lost_is_made_good_once(ctx: Context) -> None:
    """The inbox's log begins after the bookmark: the table is read whole, and the run says so."""
    for i in range(12):
        put(ctx.store, [row(i)])
    conform(ctx)
    path = Path(ctx.store.path(tables.RUNS))
    ctx.spark.sql(f"DELETE FROM delta.`{path}`").collect()
    DeltaTable(ctx.store.path(tables.INBOX)).create_checkpoint()
    log = Path(ctx.store.path(tables.INBOX)) / "_delta_log"
    for version in range(5):
        (log / f"{version:020}.json").unlink()
    run = conform(ctx)
    assert run is not None
    assert "read whole" in str(run.note)
    assert delta.read(ctx.store.path(tables.REQUESTS)).num_rows == 12
