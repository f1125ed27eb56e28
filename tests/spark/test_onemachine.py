"""`lastgood check` without Spark gives what it gives with Spark: windows, quality, drift, reasons, on random tables of every shape."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from soak import scaled

from lastgood.cli import scan
from lastgood.cli.check_paths import Facts, Job, on_one_machine, with_spark
from lastgood.jobs.sampling import hashes
from lastgood.settings import load

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORDS = ["the", "model", "answers", "a", "question", "about", "lists", "and", "tuples", "with", "some", "detail"]


class Silent:
    """Tells nobody what is being done."""

    def __call__(self, what: str) -> None: ...

    def rows(self, more: int, of: int | None) -> None: ...


def texts(rng: random.Random) -> str:
    kinds = [
        lambda: " ".join(rng.choices(WORDS, k=rng.randint(0, 40))),
        lambda: "I'm sorry, I can't help with that",
        lambda: "<|im_start|>" + rng.choice(WORDS),
        lambda: "Das ist eine Übung über größere Maße " * rng.randint(1, 3),
        lambda: "это ответ на другом языке, совсем не на том " * 2,
        lambda: "  \n",
        lambda: json.dumps({"a": rng.random()}),
    ]
    return rng.choice(kinds)()


def chat(rng: random.Random) -> tuple[Any, Any]:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": texts(rng)}]}
    if rng.random() < 0.2:
        asked["response_format"] = {"type": "json_schema", "json_schema": {"schema": {"required": ["a"]}}}
    if rng.random() < 0.1:
        asked["metadata"] = {"team": "search"}
    message: dict[str, Any] = {"role": "assistant", "content": texts(rng)}
    if rng.random() < 0.1:
        message = {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    usage = {"prompt_tokens": rng.randint(1, 900), "completion_tokens": rng.randint(1, 300)}
    reason = rng.choice(["stop", "length", "LENGTH", None])
    whole = {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}
    if rng.random() < 0.1:
        chunks = [
            {"choices": [{"delta": {"content": texts(rng)}}]},
            {"choices": [{"delta": {}, "finish_reason": "stop"}]},
        ]
        return asked, chunks[: rng.randint(1, 2)]
    return asked, whole


def tabular(rng: random.Random) -> tuple[Any, Any]:
    record = {
        "age": rng.gauss(40, 9),
        "city": rng.choice(["Ulm", "Bonn", None]),
        "odd": rng.choice([1, "x", float("nan")]),
    }
    return {"dataframe_records": [record]}, {"predictions": [rng.random()]}


def logged(rng: random.Random, rows: int) -> pa.Table:
    """An AI Gateway table with failures, sampled and repeated requests, rows that cannot be records."""
    made = []
    for i in range(rows):
        request, response = chat(rng) if rng.random() < 0.7 else tabular(rng)
        failed = rng.random() < 0.1
        odd = rng.random()
        made.append({
            "databricks_request_id": f"r{i if rng.random() < 0.95 else rng.randint(0, rows)}",
            "client_request_id": rng.choice([None, None, None, f"c{i}"]),
            "request_time": START + timedelta(seconds=rng.uniform(0, 7_200)) if odd > 0.02 else None,
            "status_code": rng.choice([500, 503, 429]) if failed else 200,
            "sampling_fraction": rng.choice([1.0, 1.0, 0.1, None]),
            "execution_duration_ms": rng.lognormvariate(4, 1) if odd < 0.98 else -1.0,
            "request": json.dumps(request) if rng.random() < 0.95 else "{broken",
            "response": json.dumps({"error_code": "INTERNAL_ERROR"} if failed else response) if rng.random() < 0.95 else None,
            "logging_error_codes": rng.choice([None, [], ["MAX_REQUEST_SIZE_EXCEEDED"]]),
            "served_entity_id": rng.choice(["se-1", "se-2"]) if rng.random() < 0.98 else None,
            "requester": rng.choice([None, *(f"u{n}" for n in range(9))]),
        })  # fmt: skip
    return pa.Table.from_pylist(made)


def canonical(rng: random.Random, rows: int) -> pa.Table:
    """A person's own records, with a map of attributes, ages of features, and scores."""
    made = []
    for i in range(rows):
        made.append({
            "endpoint": rng.choice(["chat", "score", ""]), "request_id": f"r{i // rng.choice([1, 1, 1, 2])}",
            "model_version": rng.choice(["1.1", "1.10", None]),
            "requested_at": START + timedelta(seconds=rng.uniform(0, 7_200)),
            "latency_ms": rng.choice([None, rng.lognormvariate(4, 1), float("nan")]), "ttft_ms": rng.choice([None, 3.0]),
            "tokens_in": rng.choice([None, rng.randint(0, 5_000)]), "tokens_out": rng.choice([None, rng.randint(0, 900), -1]),
            "error_code": rng.choice([None, None, "", "TIMEOUT"]), "status_code": rng.choice([None, 200, 504]),
            "feature_age_ms": rng.choice([None, 5.0, 1e7]), "output": rng.choice([None, texts(rng)]),
            "input": rng.choice([None, texts(rng)]), "finish_reason": rng.choice([None, "length"]),
            "attributes": rng.choice([
                None, [("eval.helpful", "0.5"), ("outcome.correct", "1"), ("label.truth", "yes")], [("eval.helpful", "no")],
            ]),
            "weight": rng.choice([1.0, 10.0, 1 / 3]), "requester": rng.choice([None, "u1", "u2"]),
        })  # fmt: skip
    kind = pa.map_(pa.string(), pa.string())
    table = pa.Table.from_pylist([{**row, "attributes": None} for row in made])
    place = table.schema.get_field_index("attributes")
    return table.set_column(place, "attributes", pa.array([row["attributes"] for row in made], kind))


def both(spark: Any, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Facts, Facts]:
    monkeypatch.setattr("lastgood.jobs.spark.session", lambda _: spark)
    facts = []
    for name, way in (("one", on_one_machine), ("spark", with_spark)):
        folder = tmp_path / name
        folder.mkdir()
        result = way(Job(str(path), load(None), "support", folder, Silent(), page=True))
        assert result is not None
        facts.append(result)
    return facts[0], facts[1]


@pytest.mark.parametrize("shape", [logged, canonical])
@pytest.mark.parametrize("seed", range(scaled(2)))
def test_the_figures_are_those_of_spark(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Any, seed: int
) -> None:
    path = tmp_path / "support.parquet"
    pq.write_table(shape(random.Random(seed), 1_500), path, row_group_size=400)
    ours, sparks = both(spark, path, tmp_path, monkeypatch)
    assert dict(ours.reasons) == dict(sparks.reasons)
    assert ours.reasons
    key = ("endpoint", "model_version", "stratum", "start")
    by_key = [{tuple(getattr(w, k) for k in key): w for w in facts.windows} for facts in (ours, sparks)]
    assert by_key[0].keys() == by_key[1].keys()
    for name, window in by_key[0].items():
        assert window == by_key[1][name], name
    assert ours.chosen.keys() == sparks.chosen.keys()
    drift = [
        {(r["endpoint"], r["model_version"], r["against"], r["column"]): (r["n_current"], r["n_reference"], r["drifted"]) for r in facts.drifted}
        for facts in (ours, sparks)
    ]  # fmt: skip
    assert drift[0] == drift[1]
    distances = [
        sorted((r["column"], r["against"], round(r["distance"], 9)) for r in facts.drifted) for facts in (ours, sparks)
    ]
    assert distances[0] == distances[1]
    assert sparks.bins == ours.bins and bool(ours.bins) is bool(ours.drifted)
    shown = [[{k: v for k, v in row.items() if k != "rank"} for row in facts.examples] for facts in (ours, sparks)]
    assert {row["kind"] for row in shown[0]} >= {"failed", "slow"}
    assert shown[0] == shown[1]


def test_processes_that_share_a_table_count_what_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet, CSV and JSON lines; requests that occur twice in different pieces."""
    table = logged(random.Random(9), 3_000).drop_columns(["logging_error_codes"])
    monkeypatch.setattr("lastgood.collectors.files.PIECE", 20_000)
    facts = {}
    for form in ("parquet", "csv", "jsonl"):
        path = tmp_path / f"support.{form}"
        if form == "parquet":
            pq.write_table(table, path, row_group_size=500)
        elif form == "csv":
            table.to_pandas().to_csv(path, index=False)
        else:
            path.write_text("".join(json.dumps(row, default=str) + "\n" for row in table.to_pylist()))
        for workers in (1, 2):
            monkeypatch.setattr(scan, "workers_for", lambda _, n=workers: n)
            folder = tmp_path / f"{form}{workers}"
            folder.mkdir()
            facts[form, workers] = on_one_machine(Job(str(path), load(None), "support", folder, Silent()))
    first = facts["parquet", 1]
    assert first is not None
    for name, other in facts.items():
        assert other is not None
        assert other.windows == first.windows, name
        assert dict(other.reasons) == dict(first.reasons), name
        assert [r["distance"] for r in other.drifted] == [r["distance"] for r in first.drifted], name


def test_the_hash_of_an_id_is_sparks(spark: Any) -> None:
    ids = [None, "", "r1", "ä" * 50, "x" * 31, "y" * 32, "z" * 33, "0123456789abcdef" * 9]
    from pyspark.sql import functions as f

    frame = spark.createDataFrame([(i, text) for i, text in enumerate(ids)], "i int, id string")
    theirs = [row["h"] for row in frame.withColumn("h", f.xxhash64("id")).orderBy("i").collect()]
    assert hashes(pa.array(ids))[1:].tolist() == theirs[1:]


def test_drift_without_spark_is_the_jobs(spark: Any, tmp_path: Path) -> None:
    """The same columns, samples and distances from a folder of requests, read straight or by way of the hourly samples."""
    from benchmarks.drift import START as FIRST
    from benchmarks.drift import make
    from lastgood import tables
    from lastgood.jobs import local_drift
    from lastgood.jobs.drift import drift
    from lastgood.tables import delta
    from lastgood.tables.runs import Context

    make(str(tmp_path / "bench"), 30_000)
    now = FIRST + timedelta(days=2)
    store = tables.Store(str(tmp_path / "bench" / "data"))
    store.ensure(spark)
    settings = load(storage=store.location)
    drift(Context(spark, store, settings, lambda: now))
    theirs = delta.read(store.path(tables.DRIFT)).to_pylist()
    ours = local_drift.measure(store, settings, "chat", now)
    assert len(ours) == len(theirs) >= 20
    by_key = [
        {(r["model_version"], r["against"], r["column"]): r | {"computed_at": None} for r in rows}
        for rows in (ours, theirs)
    ]
    for key, row in by_key[0].items():
        other = by_key[1][key]
        assert {n: v for n, v in row.items() if not isinstance(v, float)} == {
            n: v for n, v in other.items() if not isinstance(v, float)
        }
        for name, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(other[name], nan_ok=True), (key, name)
    page = tmp_path / "report.html"
    assert local_drift.evidently_html(store, settings, "chat", now, page)["reference"] == "before"
    assert page.stat().st_size > 0
