"""`/metrics` beside the tables that Spark writes: totals follow late rows and changed versions, never shrink, survive a restart."""

import math
import random
import re
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from lastgood import tables
from lastgood.dashboards import aibi, from_tables
from lastgood.dashboards.exemplars import Exemplars
from lastgood.dashboards.exporter import Exporter, Operations
from lastgood.jobs.conform import conform
from lastgood.jobs.judge import run_judge
from lastgood.jobs.windows import quality, windows
from lastgood.record import telemetry
from lastgood.record.exported import BY_NAME, CATALOGUE, SERIES
from lastgood.record.windows import bucket, quantile
from lastgood.settings import load
from lastgood.tables import Store, delta, measures
from lastgood.tables.runs import Context

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def rows(seed: int, n: int, version: str | None, source: str) -> list[dict[str, Any]]:
    r = random.Random(seed)
    return [
        {
            "endpoint": "chat", "request_id": f"r{i}", "model_version": version, "requested_at": START + timedelta(seconds=i),
            "latency_ms": r.lognormvariate(5, 1), "feature_age_ms": 1e6 * r.random(), "source": source, "weight": 1.0,
            "received_at": START + timedelta(hours=1), "status_code": r.choice([200, 200, 500]), "tokens_in": r.randrange(50),
            "tokens_out": 7, "output": r.choice(["fine", ""]), "input": "q", "requester": f"u{i % 5}", "latency_scope": "client",
        }
        for i in r.sample(range(2 * n), n)
    ]  # fmt: skip


def scraped(exporter: Exporter) -> dict[str, dict[tuple[str, ...], float]]:
    """sample name -> label values -> value, through the text a scraper gets."""
    found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for family in text_string_to_metric_families(exporter.text(generate_latest, "text").decode()):
        for one in family.samples:
            names = (*SERIES[one.name].labels, *(("le",) if "le" in one.labels else ()))
            assert set(one.labels) == set(names)
            found[one.name][tuple(one.labels[name] for name in names)] = one.value
    return found


@pytest.fixture
def context(spark: Any, store: Store) -> Callable[[], Context]:
    store.ensure(spark)
    settings = load(storage=store.location, window_s=60)
    return lambda: Context(spark, store, settings, lambda: START + timedelta(hours=1))


def test_totals_follow_the_windows_and_never_shrink(
    context: Callable[[], Context], store: Store, tmp_path: Path
) -> None:
    ctx, ledger = context(), tmp_path / "ledger.json"
    exporter = Exporter(store, ledger)
    before: dict[str, dict[tuple[str, ...], float]] = {}
    steps = (rows(1, 200, None, "otlp"), rows(2, 100, "2", "otlp"), rows(3, 200, "3", "ai_gateway"))
    for i, given in enumerate(steps):
        delta.append(store.path(tables.INBOX), pa.Table.from_pylist(given, telemetry.arrow_schema(telemetry.INBOX)))
        for job in (conform, windows, quality):
            job(ctx)
        if i == 1:
            exporter = Exporter(store, ledger)  # a restart
        exporter.refresh()
        now = scraped(exporter)
        for name, values in before.items():
            if name.endswith(("_total", "_bucket", "_count", "_sum")):
                assert all(now[name][labels] >= value for labels, value in values.items()), name
        before = now
    counts = [one for one in measures.windows(store) if one.model_version == "3"]
    sums = {
        "lastgood_requests_total": sum(one.requests for one in counts),
        "lastgood_tokens_in_total": sum(one.tokens_in for one in counts),
    }
    sums["lastgood_bad_answers_total"] = sum(one.quality.get("bad", 0.0) for one in counts)
    assert {name: before[name]["chat", "3"] for name in sums} == sums
    failed = sum(one.errors.get("HTTP_500", 0.0) for one in counts)
    assert before["lastgood_errors_total"]["chat", "3", "HTTP_500"] == failed
    latency: dict[int, float] = defaultdict(float)
    for one in counts:
        for index, number in one.latency.items():
            latency[index] += number
    median = quantile(latency, 0.5)
    assert median is not None
    edges = {
        float(key[2]): value
        for key, value in before["lastgood_request_duration_seconds_bucket"].items()
        if key[1] == "3"
    }
    within = min(edge for edge, value in edges.items() if value >= sum(latency.values()) / 2)
    assert median / 1000 <= within
    assert before["lastgood_request_duration_seconds_count"]["chat", "3"] == sum(latency.values())


def test_every_sample_is_of_the_catalogue_and_verdicts_and_runs_are_told(
    context: Callable[[], Context], store: Store
) -> None:
    ctx = context()
    delta.append(
        store.path(tables.INBOX),
        pa.Table.from_pylist(rows(1, 50, "1", "otlp"), telemetry.arrow_schema(telemetry.INBOX)),
    )
    for job in (conform, windows, quality):
        job(ctx)
    (said,) = run_judge(ctx)
    told = Operations(
        {"chat": 1}, {("chat", "Done"): 2}, {"chat": 60.0}, {"chat": 90.0}, True, 3, {"slack": 1}, {"no_verdict": True}, {"verdict": 1},
        {"silence": 1},
    )  # fmt: skip
    exporter = Exporter(store, None, lambda: told, lambda: {"accepted": 5, "spool_bytes": 7})
    exporter.refresh()
    found = scraped(exporter)
    assert set(found) <= set(SERIES)
    silent = {one.name for one in CATALOGUE} - {SERIES[name].name for name in found}
    assert silent == {
        "lastgood_drift_distance", "lastgood_drifted", "lastgood_first_token_seconds", "lastgood_feature_source_timestamp_seconds",
        "lastgood_source_reads_whole", "lastgood_source_rows_passed_over", "lastgood_agent_runs", "lastgood_agent_runs_looped",
        "lastgood_agent_runs_step_limited", "lastgood_tool_calls", "lastgood_tool_errors", "lastgood_completeness", "lastgood_cost_7_days",
        "lastgood_exports_refused", "lastgood_contents_rare",
        *(one.name for one in CATALOGUE if one.name.startswith(("lastgood_scorer_", "lastgood_estimated_"))),
    }  # fmt: skip
    assert found["lastgood_verdict"]["chat", "1"] == said.state.severity
    assert found["lastgood_kill_switch"][()] == 1
    assert found["lastgood_rollbacks"]["chat", "Done"] == 2
    assert found["lastgood_spans_accepted_total"][()] == 5
    assert set(found["lastgood_job_run_seconds"]) == {("conform",), ("windows",), ("quality",)}
    newest = max(one.start for one in measures.windows(store)).timestamp()
    assert found["lastgood_newest_window_timestamp_seconds"]["chat",] == newest
    assert BY_NAME["lastgood_verdict"].doc.startswith("Newest verdict")


def test_counting_begins_with_the_newest_day_and_reads_no_row_twice(store: Store) -> None:
    """A service that starts beside a table with a history, and what it reads of tables that only grow."""
    path, runs = store.path(tables.WINDOWS), store.path(tables.RUNS)
    schema = telemetry.arrow_schema(tables.WINDOWS.fields)

    def window(day: int, requests: float) -> None:
        row = {"endpoint": "chat", "model_version": "2", "stratum": "?/?", "window_start": START + timedelta(days=day)}
        delta.append(path, pa.Table.from_pylist([row | {"rows": 1, "requests": requests}], schema))

    def run(seconds: float, at: int) -> None:
        row = {"job": "windows", "finished_at": START + timedelta(minutes=at), "seconds": seconds}
        delta.append(runs, pa.Table.from_pylist([row], telemetry.arrow_schema(tables.RUNS.fields)))

    for day, requests in ((-300, 1000.0), (-1, 20.0), (0, 3.0)):
        window(day, requests)
    run(7.0, 0)
    exporter = Exporter(store)
    exporter.refresh()
    assert scraped(exporter)["lastgood_requests_total"] == {("chat", "2"): 23.0}
    window(-2, 100.0)  # late, and counted
    run(5.0, -5)
    exporter.refresh()
    assert scraped(exporter)["lastgood_requests_total"] == {("chat", "2"): 123.0}
    assert scraped(exporter)["lastgood_job_run_seconds"] == {("windows",): 7.0}
    run(9.0, 5)
    exporter.refresh()
    assert scraped(exporter)["lastgood_job_run_seconds"] == {("windows",): 9.0}


def test_the_number_of_series_is_bounded_and_the_bound_is_seen(store: Store) -> None:
    schema = telemetry.arrow_schema(tables.WINDOWS.fields)
    delta.create(store.path(tables.WINDOWS), schema)
    given = [
        {
            "endpoint": "chat",
            "model_version": str(i),
            "stratum": "s",
            "window_start": START,
            "rows": i,
            "requests": float(i),
        }
        for i in range(1, 8)
    ]
    delta.append(store.path(tables.WINDOWS), pa.Table.from_pylist(given, schema))
    exporter = Exporter(store, None, max_versions=3)
    exporter.refresh()
    found = scraped(exporter)
    assert set(found["lastgood_requests_total"]) == {("chat", "5"), ("chat", "6"), ("chat", "7")}
    assert found["lastgood_series_dropped"][()] == 4


def test_tools_beyond_the_bound_are_counted_as_other_and_a_tool_never_moves_between_series(store: Store) -> None:
    schema = telemetry.arrow_schema(tables.TOOL_WINDOWS.fields)
    runs = {
        "endpoint": "chat",
        "model_version": "7",
        "agent": "a",
        "window_start": START,
        "runs": 9.0,
        "looped": 2.0,
        "step_limited": 0.0,
    }
    for table in (tables.AGENT_WINDOWS, tables.TOOL_WINDOWS):
        delta.create(store.path(table), telemetry.arrow_schema(table.fields))
    delta.append(
        store.path(tables.AGENT_WINDOWS),
        pa.Table.from_pylist([runs | {"tokens_in": 5.0}], telemetry.arrow_schema(tables.AGENT_WINDOWS.fields)),
    )
    exporter = Exporter(store)
    for minute, names in enumerate((range(30), range(25, 40))):
        given = [
            {"endpoint": "chat", "model_version": "7", "tool": f"t{i}", "window_start": START + timedelta(minutes=minute), "calls": float(i + 1), "errors": 1.0}
            for i in names
        ]  # fmt: skip
        delta.append(store.path(tables.TOOL_WINDOWS), pa.Table.from_pylist(given, schema))
        exporter.refresh()
    shown = scraped(exporter)
    calls, errors = shown["lastgood_tool_calls_total"], shown["lastgood_tool_errors_total"]
    most = {("chat", "7", name) for name in (*(f"t{i}" for i in range(10, 30)), "other")}
    assert set(calls) == set(errors) == most
    assert calls["chat", "7", "t29"] == 60 and calls["chat", "7", "other"] == sum(range(1, 11)) + sum(range(31, 41))
    assert sum(errors.values()) == 45
    assert (
        shown["lastgood_agent_runs_total"]["chat", "7"] == 9
        and shown["lastgood_agent_runs_looped_total"]["chat", "7"] == 2
    )
    assert shown["lastgood_tokens_in_total"]["chat", "7"] == 0, "tokens of runs are counted with their requests"


def test_a_source_of_features_that_cannot_be_asked_keeps_what_it_last_said(store: Store) -> None:
    def ask(hour: int, as_of: datetime | None, state: str) -> None:
        row = {
            "endpoint": "chat", "kind": "online_table", "name": "m.s.t", "as_of": as_of, "state": state,
            "checked_at": START + timedelta(hours=hour),
        }  # fmt: skip
        schema = telemetry.arrow_schema(tables.FRESHNESS.fields)
        delta.append(store.path(tables.FRESHNESS), pa.Table.from_pylist([row], schema))

    exporter, key = Exporter(store), ("chat", "online_table", "m.s.t")
    for hour, as_of, state in (
        (1, START, "ONLINE"),
        (2, None, "cannot be asked: 503"),
        (0, START - timedelta(hours=9), "late"),
    ):
        ask(hour, as_of, state)
        exporter.refresh()
    assert scraped(exporter)["lastgood_feature_source_timestamp_seconds"] == {key: START.timestamp()}


def test_slow_requests_carry_their_newest_trace(store: Store) -> None:
    schema = telemetry.arrow_schema(tables.WINDOWS.fields)
    window = {
        "endpoint": "chat", "model_version": "2", "stratum": "s", "window_start": START, "rows": 2, "requests": 2.0,
        "latency": [(bucket(30.0), 1.0), (bucket(4000.0), 1.0)],
    }  # fmt: skip
    delta.create(store.path(tables.WINDOWS), schema)
    delta.append(store.path(tables.WINDOWS), pa.Table.from_pylist([window], schema))
    exemplars = Exemplars()
    requests = [
        {"endpoint": "chat", "model_version": "2", "trace_id": trace, "latency_ms": ms, "requested_at": START}
        for trace, ms in (("aa", 4000.0), ("bb", 3900.0), ("cc", 0.5), (None, 30.0), ("dd", math.nan), ("ee", 700.0))
    ]
    exemplars.take(pa.Table.from_pylist(requests, telemetry.arrow_schema(telemetry.INBOX)))
    exporter = Exporter(store, exemplars=exemplars)
    exporter.refresh()
    text = exporter.text(openmetrics.generate_latest, "openmetrics").decode()
    found = {
        one.labels["le"]: (one.exemplar.labels["trace_id"], one.exemplar.value)
        for family in parse_openmetrics(text) for one in family.samples
        if one.name == "lastgood_request_duration_seconds_bucket" and one.exemplar
    }  # fmt: skip
    assert found == {"5.0": ("bb", 3.9)}, "the newest of a bucket that the counts know"


def test_every_query_of_the_databricks_dashboard_runs_and_its_figures_are_the_windows(
    context: Callable[[], Context], store: Store, spark: Any
) -> None:
    ctx, now = context(), datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    given = [
        {**row, "requested_at": now - timedelta(seconds=i % 600), "received_at": now}
        for i, row in enumerate(rows(1, 200, "2", "otlp"))
    ]
    delta.append(store.path(tables.INBOX), pa.Table.from_pylist(given, telemetry.arrow_schema(telemetry.INBOX)))
    for job in (conform, windows, quality):
        job(ctx)
    found = {}
    for chart in aibi.CHARTS:
        query = re.sub(r"`T`\.`(\w+)`", lambda name: f"delta.`{store.location}/{name[1]}`", aibi.sql(chart, "T"))
        table = spark.sql(query)
        assert {*chart.y, *((chart.x, chart.colour) if chart.x else ())} <= set(table.columns), chart.name
        found[chart.name] = table.collect()
        asked = re.sub(
            r"`T`\.`(\w+)`", lambda name: f"delta.`{store.location}/{name[1]}`", from_tables.query(chart, "T")
        )
        assert set(spark.sql(asked).columns) == ({"time", "metric", "value"} if chart.x else set(chart.y)), chart.name
    assert sum(row["value"] for row in found["requests"]) == 200
    failed = sum(row["status_code"] == 500 for row in given)
    hours = {row["hour"]: row["value"] for row in found["requests"]}
    assert sum(row["value"] * hours[row["hour"]] for row in found["errors"]) == pytest.approx(failed)
    for row in found["p95"]:
        mine = sorted(
            r["latency_ms"]
            for r in given
            if r["requested_at"].replace(minute=0, second=0) == row["hour"].replace(tzinfo=UTC)
        )
        assert row["ms"] == pytest.approx(mine[math.ceil(0.95 * len(mine)) - 1], rel=0.03)
