"""Evidence about the evidence: labels that come late and are corrected, and how old the sources of features are."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lastgood import tables
from lastgood.collectors.freshness import freshness
from lastgood.collectors.labels import collect_all
from lastgood.errors import ConfigError, TransientError
from lastgood.jobs.conform import conform
from lastgood.jobs.evidence import waiting
from lastgood.jobs.windows import windows
from lastgood.record import telemetry
from lastgood.record.telemetry import arrow_schema
from lastgood.record.windows import bucket
from lastgood.settings import Settings
from lastgood.tables import Store, delta
from lastgood.tables.runs import Context
from lastgood.workspace import SourceState

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def make(spark: Any, store: Store) -> Callable[..., Context]:
    store.ensure(spark)
    return lambda **settings: Context(spark, store, Settings(storage=store.location, **settings), lambda: NOW)


def said(ctx: Context) -> list[tuple[Any, ...]]:
    rows = ctx.store.read(ctx.spark, tables.SCORES).collect()
    return sorted((row["request_id"], row["name"], row["value"], row["label"]) for row in rows)


def test_labels_of_files_and_tables_are_taken_once_and_corrections_are_added(
    make: Callable[..., Context], tmp_path: Path
) -> None:
    file, table = tmp_path / "labels.csv", str(tmp_path / "thumbs")
    file.write_text("id,right,when\nr1,true,2026-03-01T00:00:00Z\nr2,false,2026-03-01T00:00:00Z\nr3,,\n,true,\n")
    sources = [
        {"table": str(file), "name": "correct", "endpoint": "chat", "request_id": "id", "value": "right", "at": "when"},
        {"table": table, "name": "thumbs", "label": "thumb"},
        {"table": str(tmp_path / "none yet"), "name": "later", "value": "v"},
    ]
    ctx = make(sources={"labels": sources})
    ddl = "endpoint string, request_id string, thumb string"
    ctx.spark.createDataFrame([("chat", "r1", "up")], ddl).write.format("delta").save(table)
    assert [run.rows_in for run in collect_all(ctx)] == [2, 1]
    assert collect_all(ctx) == []
    assert said(ctx) == [("r1", "correct", 1.0, None), ("r1", "thumbs", None, "up"), ("r2", "correct", 0.0, None)]
    file.write_text(file.read_text() + "r2,true,2026-03-09T00:00:00Z\n")
    assert [run.rows_in for run in collect_all(ctx)] == [1]
    of_r2 = ctx.store.read(ctx.spark, tables.SCORES).where("request_id = 'r2'").orderBy("at").collect()
    assert [(row["value"], row["at"].day, row["endpoint"]) for row in of_r2] == [(0.0, 1, "chat"), (1.0, 9, "chat")]


def test_of_labels_without_a_time_the_last_holds_and_a_change_is_a_correction(
    make: Callable[..., Context], tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("request_id,label\nr1,yes\nr1,no\nr2,no\nr2,yes\nr3,yes\n")
    ctx = make(sources={"labels": [{"table": str(file), "name": "label", "label": "label"}]})
    assert [run.rows_in for run in collect_all(ctx)] == [3]
    assert said(ctx) == [("r1", "label", None, "no"), ("r2", "label", None, "yes"), ("r3", "label", None, "yes")]
    for label in ("yes", "no"):
        file.write_text(f"request_id,label\nr1,{label}\nr2,yes\nr3,yes\n")
        assert [run.rows_in for run in collect_all(ctx)] == ([1])
    assert collect_all(ctx) == []
    newest = ctx.store.read(ctx.spark, tables.SCORES).where("request_id = 'r1'").orderBy("received_at").collect()
    assert [row["label"] for row in newest] == ["no", "yes", "no"]


def test_a_label_source_without_its_columns_is_named(make: Callable[..., Context], tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("a,b\n1,2\n")
    for column, match in (
        ({"value": "v"}, "no column request_id, v"),
        ({"request_id": "a"}, "need a column of values"),
    ):
        ctx = make(sources={"labels": [{"table": str(tmp_path / "l.csv"), "name": "n"} | column]})
        with pytest.raises(ConfigError, match=match):
            collect_all(ctx)


class Stores:
    """Status APIs of two stores."""

    def metrics(self, name: str) -> str:
        raise NotImplementedError

    def source(self, kind: str, name: str) -> SourceState:
        if kind == "vector_index":
            raise TransientError("vector_index docs: 503")
        return SourceState("ONLINE", NOW - timedelta(hours=3), 7)


def test_sources_of_features_are_asked_and_one_that_cannot_be_is_a_row_too(
    make: Callable[..., Context], tmp_path: Path
) -> None:
    where = str(tmp_path / "features")
    features = [
        {"name": where, "event_time": "seen_at"}, {"name": where}, {"name": str(tmp_path / "gone")},
        {"kind": "online_table", "name": "m.s.online"}, {"kind": "vector_index", "name": "m.s.docs"},
    ]  # fmt: skip
    ctx = make(endpoints={"chat": {"features": features}})
    events = [(NOW - timedelta(hours=hours),) for hours in (30, 26)]
    ctx.spark.createDataFrame(events, "seen_at timestamp").write.format("delta").save(where)
    freshness(ctx, Stores)
    rows = ctx.store.read(ctx.spark, tables.FRESHNESS).collect()
    found = [
        (row["kind"], row["as_of"] and row["as_of"].replace(tzinfo=UTC), row["rows"], row["state"]) for row in rows
    ]
    assert {row["checked_at"].replace(tzinfo=UTC) for row in rows} == {NOW}
    assert found[0] == ("feature_table", NOW - timedelta(hours=26), None, "ONLINE")
    committed = found[1][1]
    assert committed is not None
    assert abs(committed - datetime.now(UTC)) < timedelta(minutes=10)
    assert found[3] == ("online_table", NOW - timedelta(hours=3), 7, "ONLINE")
    assert [(kind, as_of) for kind, as_of, *_ in (found[2], found[4])] == [
        ("feature_table", None),
        ("vector_index", None),
    ]
    assert all(row[3].startswith("cannot be asked: ") for row in (found[2], found[4]))


def test_a_request_that_does_not_say_gets_the_age_its_sources_had_then(make: Callable[..., Context]) -> None:
    """Checks at 8:00 (data of 7:00 and of 2:00) and at 10:00 (all fresh); a source that cannot be asked says nothing."""
    ctx = make(endpoints={"chat": {"features": [{"name": "t"}]}})
    hour = NOW.replace(hour=0)
    checks = [
        ("chat", "feature_table", "a", hour + timedelta(hours=7), 8), ("chat", "online_table", "b", hour + timedelta(hours=2), 8),
        ("chat", "feature_table", "a", hour + timedelta(hours=10), 10), ("chat", "online_table", "b", None, 10),
        ("shop", "feature_table", "a", hour, 8),
    ]  # fmt: skip
    said = [
        {"endpoint": e, "kind": k, "name": n, "as_of": at, "state": "", "checked_at": hour + timedelta(hours=h)}
        for e, k, n, at, h in checks
    ]
    delta.append(ctx.store.path(tables.FRESHNESS), pa.Table.from_pylist(said, arrow_schema(tables.FRESHNESS.fields)))
    asked = [("before any check", 7, None), ("old", 9, None), ("fresh", 11, None), ("says itself", 9, 5.0)]
    rows = [
        {"endpoint": "chat", "request_id": name, "model_version": "1", "requested_at": hour + timedelta(hours=h), "latency_ms": 1.0,
         "feature_age_ms": age, "source": "otlp", "received_at": hour + timedelta(hours=12), "weight": 1.0}
        for name, h, age in asked
    ]  # fmt: skip
    delta.append(ctx.store.path(tables.INBOX), pa.Table.from_pylist(rows, arrow_schema(telemetry.INBOX)))
    conform(ctx)
    windows(ctx)
    found: dict[int, float] = {}
    for row in ctx.store.read(ctx.spark, tables.WINDOWS).collect():
        found |= row["feature_age"] or {}
    hours = {3_600_000.0 * 7, 3_600_000.0}
    assert found == dict.fromkeys([bucket(5.0), *map(bucket, hours)], 1.0)


def test_windows_in_which_failures_wait_for_their_version_are_known_for_an_hour(make: Callable[..., Context]) -> None:
    ctx = make()
    schema = arrow_schema(tables.WINDOWS.fields)
    rows = [
        {"endpoint": "chat", "model_version": version, "stratum": "?/?", "window_start": NOW - ago, "rows": 3, "requests": 3.0, "errors": errors}
        for version, ago, errors in (
            ("?", timedelta(minutes=10), [("HTTP_500", 1.0)]), ("?", timedelta(hours=2), [("HTTP_500", 1.0)]),
            ("?", timedelta(minutes=9), []), ("2", timedelta(minutes=8), [("HTTP_500", 1.0)]),
        )
    ]  # fmt: skip
    delta.append(ctx.store.path(tables.WINDOWS), pa.Table.from_pylist(rows, schema))
    assert waiting(ctx, NOW) == {"chat": [NOW - timedelta(minutes=10)]}
