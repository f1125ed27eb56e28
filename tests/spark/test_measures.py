"""Completeness, roll-ups, samples and back-fills on a real Spark session, against sums made by hand."""

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from jobs_support import START, inbox, put, row, stored

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs import touched
from lastgood.jobs.completeness import completeness
from lastgood.jobs.conform import conform
from lastgood.jobs.drift import drift
from lastgood.jobs.evidence import completeness as arrived
from lastgood.jobs.samples import samples
from lastgood.jobs.sampling import KEEP
from lastgood.jobs.windows import rollup
from lastgood.jobs.windows import windows as count_windows
from lastgood.judge.ledger import Pair
from lastgood.record import telemetry, windows
from lastgood.service import loop
from lastgood.settings import load
from lastgood.tables import Store, delta, measures
from lastgood.tables.runs import Context, bookmark

Make = Callable[..., Context]


def rows_of(ctx: Context, table: tables.Table) -> list[dict[str, Any]]:
    return delta.read(ctx.store.path(table)).to_pylist()


def test_completeness_says_what_was_seen_of_what_there_must_have_been(make: Make) -> None:
    """Minute 0: the usage table knows 40, 30 came. 1: it knows 20, nothing came. 2 (other endpoint): sampled. Last: spans and table overlap."""
    ctx = make(endpoints={"chat": {"payload_table": "/nowhere/at/all"}})
    known = [
        row(i, source="endpoint_usage", model_version="1", requested_at=START + timedelta(seconds=10))
        for i in range(40)
    ]
    known += [
        row(100 + i, source="endpoint_usage", model_version="2", requested_at=START + timedelta(seconds=70))
        for i in range(20)
    ]
    late = {"received_at": START + timedelta(seconds=90, milliseconds=100)}
    mine = [row(i, model_version="1", requested_at=START + timedelta(seconds=10), **late) for i in range(30)]
    other = [
        row(1000 + i, endpoint="rank", model_version="7", requested_at=START + timedelta(minutes=2), weight=10.0)
        for i in range(5)
    ]
    skewed = START + timedelta(seconds=3)
    table = {"source": "ai_gateway", "endpoint": "both", "model_version": "7", "requested_at": skewed, "input": "q"}
    notes = [{"attributes": [("unlogged", "MAX_RESPONSE_SIZE_EXCEEDED")]}, {"attributes": [("body_problem", "x")]}, {}]
    spans = [row(2000 + i, endpoint="both", requested_at=START) for i in range(20)]
    logged = [row(2000 + i, **table, **(notes[i] if i < 3 else {"output": "fine"})) for i in range(10)]
    put(ctx.store, [*known, *mine, *other, *spans, *logged])
    conform(ctx)
    run = completeness(ctx)
    assert run is not None
    found = {
        (one["endpoint"], one["model_version"], one["window_start"].minute): one
        for one in rows_of(ctx, tables.COMPLETENESS)
    }
    assert {key: (one["seen"], one["expected"], one["share"], one["expected_from"]) for key, one in found.items()} == {
        ("chat", "1", 0): (30, 40.0, 0.75, "usage"),
        ("chat", "2", 1): (0, 20.0, 0.0, "usage"),
        ("rank", "7", 2): (5, 50.0, 0.1, "sampling"),
        ("both", "7", 0): (10, 10.0, 1.0, "sources"),
        ("both", "2", 0): (10, None, None, None),
    }
    assert (found["chat", "1", 0]["delivery_lag_p50_ms"], found["chat", "1", 0]["delivery_lag_p95_ms"]) == (
        80_000,
        80_000,
    )
    both = found["both", "7", 0]
    assert dict(both["by_source"]) == {"otlp": 10.0, "ai_gateway": 10.0}
    assert dict(both["null_bodies"]) == {"above the log's limit": 1.0, "cannot be read": 1.0, "not logged": 1.0}
    assert both["null_body_share"] == pytest.approx(0.3)
    assert both["clock_skew_ms"] == 3000.0
    assert found["chat", "1", 0]["clock_skew_ms"] is None
    assert completeness(ctx) is None


def test_what_the_endpoint_says_of_itself_is_a_third_opinion_even_when_it_comes_late(make: Make) -> None:
    ctx = make()
    at = START + timedelta(seconds=10)
    put(ctx.store, [row(i, model_version="1" if i < 30 else "2", requested_at=at) for i in range(40)])
    conform(ctx)
    completeness(ctx)
    assert {one["expected"] for one in rows_of(ctx, tables.COMPLETENESS)} == {None}
    told = [(0, 50.0, 3.0, 1.0), (0, 50.0, 3.0, 1.0), (1, 20.0, 0.0, 0.0), (2, 0.0, 0.0, 0.0)]
    minutes = [
        {"endpoint": "chat", "minute": START + timedelta(minutes=m), "requests": n, "errors_4xx": a, "errors_5xx": b}
        for m, n, a, b in told
    ]
    schema = telemetry.arrow_schema(tables.ENDPOINT_MINUTES.fields)
    delta.append(ctx.store.path(tables.ENDPOINT_MINUTES), pa.Table.from_pylist(minutes, schema))
    assert completeness(ctx) is not None
    found = {
        (one["model_version"], one["window_start"].minute): (
            one["seen"], one["expected"], one["share"], one["expected_from"], one["endpoint_requests"], one["endpoint_errors"],
        )
        for one in rows_of(ctx, tables.COMPLETENESS)
    }  # fmt: skip
    assert found == {
        ("1", 0): (30, 37.5, 0.8, "endpoint", 50.0, 4.0),
        ("2", 0): (10, 12.5, 0.8, "endpoint", 50.0, 4.0),
        ("?", 1): (0, 20.0, 0.0, "endpoint", 20.0, 0.0),
    }
    chosen = {("chat", "2"): Pair("2", "1", START)}
    shares = arrived(ctx, chosen, START + timedelta(minutes=3))
    assert shares == {("chat", "2"): 40 / 70}, "of all that the endpoint answered"
    assert completeness(ctx) is None


def test_spans_of_a_clock_that_is_wrong_are_counted_in_the_minute_they_belong_to(make: Make) -> None:
    """Spans are stamped 90 s early. Once requests that both sources saw have shown it, spans alone are put right, and it stays known."""
    ctx = make(endpoints={"chat": {"payload_table": "/nowhere/at/all"}})
    early = timedelta(seconds=90)
    for turn in range(3):
        at = START + timedelta(minutes=10 * turn)
        both = [row(100 * turn + i, requested_at=at - early) for i in range(20)]
        both += [row(100 * turn + i, requested_at=at, source="ai_gateway", input="q") for i in range(20)]
        alone = [row(100 * turn + 50 + i, requested_at=at - early) for i in range(10)]
        put(ctx.store, [*both, *alone])
        conform(ctx)
        completeness(ctx)
        stored_at = {
            one["request_id"]: (one["requested_at"], dict(one["attributes"] or ()).get("clock_skew_ms"))
            for one in rows_of(ctx, tables.REQUESTS)
        }
        mine = [stored_at[one["request_id"]] for one in alone]
        assert set(mine) == ({(at, "90000.0")} if turn else {(at - early, None)})
        skews = {
            one["clock_skew_ms"]
            for one in rows_of(ctx, tables.COMPLETENESS)
            if abs((one["window_start"] - at).total_seconds()) < 200 and one["clock_skew_ms"] is not None
        }
        assert skews == {90_000.0}


def test_hours_and_days_are_the_sums_of_their_minutes_and_a_range_can_be_rebuilt(make: Make) -> None:
    ctx = make()
    spread = [
        one | {"requested_at": one["requested_at"] + timedelta(minutes=25 * (i % 40))}
        for i, one in enumerate(inbox(5, 200, ("1", "2")))
    ]
    late = [one | {"endpoint": "chat"} for one in inbox(6, 80, ("2",))]
    for some in (spread, late):
        put(ctx.store, some)
        for job in (conform, count_windows, rollup):
            job(ctx)
    minutes = measures.windows(ctx.store)
    for table, width in ((tables.WINDOWS_HOUR, 3600), (tables.WINDOWS_DAY, 86_400)):
        groups = defaultdict(list)
        for one in minutes:
            at = datetime.fromtimestamp(one.start.timestamp() // width * width, UTC)
            groups[one.endpoint, one.model_version, one.stratum, at].append(one)
        found = {tuple(one[name] for name in table.key): one for one in rows_of(ctx, table)}
        assert found.keys() == groups.keys()
        for key, group in groups.items():
            want, got = windows.merge(group), found[key]
            assert (got["rows"], got["requests"], got["tokens_in"]) == (want.rows, want.requests, want.tokens_in)
            for name in ("errors", "latency", "failed_latency", "ttft", "feature_age", "length", "pace"):
                assert dict(got[name]) == getattr(want, name), name
            assert {who: tuple(facts) for who, facts in got["callers"]} == want.callers
            assert tuple(got["error_requesters"]) == want.error_requesters
    everything = (tables.WINDOWS, tables.WINDOWS_HOUR, tables.WINDOWS_DAY)
    before = [stored(ctx.store, one) for one in everything]
    bookmarks = {
        job: bookmark(ctx, job, source)
        for job, source in (("windows", "requests"), ("hours", "windows"), ("days", "windows_hour"))
    }
    ctx.spark.sql(f"DELETE FROM {ctx.store.sql(tables.WINDOWS)} WHERE stratum LIKE 'client%'")
    ctx.spark.sql(f"UPDATE {ctx.store.sql(tables.WINDOWS_DAY)} SET rows = 1")
    said: list[dict[str, Any]] = []
    loop.rebuild(replace(ctx, dry_run=True), ("windows",), (START, START + timedelta(days=1)), said.append)
    assert [stored(ctx.store, one) for one in everything] != before
    assert [(one["job"], one["dry_run"]) for one in said] == [("windows", True)] * 2
    assert sum(one["windows"] for one in said if one["job"] == "windows") == len(
        {(w.endpoint, w.start) for w in minutes}
    )
    loop.rebuild(ctx, ("windows", "rollup"), (START, START + timedelta(days=1)), said.append)
    assert [stored(ctx.store, one) for one in everything] == before
    loop.rebuild(ctx, ("windows",), (START, START + timedelta(hours=2)), said.append)
    assert [stored(ctx.store, one) for one in everything] == before
    assert {
        job: bookmark(ctx, job, s)
        for job, s in (("windows", "requests"), ("hours", "windows"), ("days", "windows_hour"))
    } == bookmarks
    with pytest.raises(ConfigError, match="expected FROM before TO"):
        loop.rebuild(ctx, ("windows",), (START, START), said.append)
    with pytest.raises(ConfigError, match="job judge has no range to rebuild"):
        loop.rebuild(ctx, ("judge",), (START, START + timedelta(hours=1)), said.append)


def test_runs_that_overlapped_are_taken_in_again(make: Make) -> None:
    """Two runs began at the same version: the later to finish may have written from an older look at its source."""
    ctx = make()
    stories = {
        "chain": ([(-1, 3), (3, 5), (5, 9)], 9),
        "two at once": ([(-1, 3), (3, 5), (3, 9)], 3),
        "two at once, done again": ([(-1, 3), (3, 5), (3, 9), (3, 9)], 9),
        "back-fill between": ([(-1, 3), (3, 3), (3, 5)], 5),
        "back-fill beside a run": ([(-1, 3), (3, 5), (3, 3)], 3),
        "records of old": ([(None, 3), (None, 5)], 5),
    }
    at = START
    for name, (runs, want) in stories.items():
        for after, version in runs:
            at += timedelta(seconds=1)
            record = {"job": name, "source": "s", "version": version, "after": after, "finished_at": at}
            schema = pa.schema([one.arrow for one in tables.RUNS.fields])
            delta.append(ctx.store.path(tables.RUNS), pa.Table.from_pylist([record], schema))
        assert bookmark(ctx, name, "s") == want, name


def test_a_sample_holds_the_smallest_hashes_whatever_the_order_of_arrival(make: Make) -> None:
    ids = list(range(KEEP + 500))
    random.Random(3).shuffle(ids)
    kept = []
    for name, cut in (("one", len(ids)), ("two", 900)):
        ctx = make(name)
        for part in (ids[:cut], ids[cut:]):
            put(
                ctx.store,
                [row(i, model_version="2", output="x" * 3000, error_code="E" if i % 100 == 0 else None) for i in part],
            )
            conform(ctx)
            samples(ctx)
        found = rows_of(ctx, tables.SAMPLES)
        assert len(found) == KEEP
        assert not [one for one in found if int(one["request_id"][1:]) % 100 == 0]
        assert {len(one["output"]) for one in found} == {1000}
        requests = delta.read(ctx.store.path(tables.REQUESTS)).to_pylist()
        left_out = {one["request_id"] for one in requests if one["error_code"] is None} - {
            one["request_id"] for one in found
        }
        lowest = ctx.spark.sql(
            "SELECT min(xxhash64(id)) m FROM VALUES " + ",".join(f"('{one}')" for one in left_out) + " AS t(id)"
        ).collect()[0]["m"]
        assert max(one["hash"] for one in found) < lowest
        kept.append(stored(ctx.store, tables.SAMPLES))
    assert kept[0] == kept[1]


def test_drift_is_against_the_reference_that_was_chosen_and_a_baseline_older_than_its_schema_still_is_one(
    spark: Any, store: Store
) -> None:
    """Traffic differs by the hour of the week: against the same hours of last week nothing moved, against the hour before x did. The
    baseline was stored before requests had y, and before its table had all of today's columns."""
    rng = np.random.default_rng(3)

    def sampled(version: str, hour: datetime, mean: float, *names: str) -> list[dict[str, Any]]:
        return [
            {
                "endpoint": "chat", "model_version": version, "window_start": hour, "request_id": f"{version}{hour}{i}",
                "requested_at": hour + timedelta(seconds=10 * i), "hash": int(rng.integers(-(2**62), 2**62)),
                "features": [(name, str(round(mean + rng.normal(), 3))) for name in names],
            }
            for i in range(300)
        ]  # fmt: skip

    week, before = START - timedelta(days=7), START - timedelta(hours=1)
    rows = sampled("1", week, 0.0, "x", "y") + sampled("1", before, 3.0, "x", "y") + sampled("2", START, 0.0, "x", "y")
    delta.append(store.path(tables.SAMPLES), pa.Table.from_pylist(rows, telemetry.arrow_schema(tables.SAMPLES.fields)))
    stamp = {"baseline": 1, "set_at": START}
    old = [stamp | {name: one[name] for name in one} for one in sampled("1", week, 0.0, "x")]
    fields = [one for one in tables.BASELINES.fields if one.name in old[0]]
    delta.append(store.path(tables.BASELINES), pa.Table.from_pylist(old, telemetry.arrow_schema(tuple(fields))))
    served = [
        {"endpoint": "chat", "model_version": v, "stratum": "?/?", "window_start": at, "rows": 300, "requests": 300.0}
        for v, at in (("1", week), ("1", before), ("2", START))
    ]  # fmt: skip
    delta.append(
        store.path(tables.WINDOWS), pa.Table.from_pylist(served, telemetry.arrow_schema(tables.WINDOWS.fields))
    )
    store.ensure(spark)
    said = {}
    for prefer in ("week", "before", "baseline"):
        settings = load(storage=store.location, endpoints={"chat": {"drift_reference": prefer}})
        now = START + timedelta(hours=1)
        drift(Context(spark, store, settings, lambda now=now: now))
        found = delta.read(store.path(tables.DRIFT)).to_pylist()
        mine = [one for one in found if one["model_version"] == "2" and one["against"] == "reference"]
        said[prefer] = {(one["reference"], one["column"]): one["drifted"] for one in mine}
        spark.sql(f"DELETE FROM {store.sql(tables.DRIFT)}")
    assert said == {
        "week": {("last week", "feature.x"): False, ("last week", "feature.y"): False},
        "before": {("before", "feature.x"): True, ("before", "feature.y"): True},
        "baseline": {("baseline 1", "feature.x"): False, ("baseline 1", "feature.y:type"): True},
    }


def test_a_run_that_looked_earlier_writes_nothing_over_one_that_looked_later(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stands still before its commit; another takes in more and is recorded; the first commits and dies before its record."""
    ctx = make()
    put(ctx.store, [row(0)])
    conform(ctx)
    count_windows(ctx)
    put(ctx.store, [row(1)])
    conform(ctx)
    commit = touched.replace_rows

    def late(*given: Any) -> int:
        monkeypatch.setattr(touched, "replace_rows", commit)
        put(ctx.store, [row(2), row(3)])
        conform(ctx)
        count_windows(ctx)
        commit(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(touched, "replace_rows", late)
    with pytest.raises(KeyboardInterrupt):
        count_windows(ctx)
    assert count_windows(ctx) is None, "the bookmark has passed it"
    assert sum(window["rows"] for window in rows_of(ctx, tables.WINDOWS)) == 4
    ctx = replace(ctx, span=(START - timedelta(hours=1), START + timedelta(days=1)))
    assert count_windows(ctx) is not None, "a back-fill writes, whatever was written"
