"""Tables of OpenTelemetry logs and of MLflow's annotations: what the receiver makes of the same records, and feedback on traces."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from otlp_support import pairs, value

from lastgood import tables
from lastgood.collectors.log_tables import ASSESSMENT, judged
from lastgood.collectors.otlp.rows import DETAILS, EVALUATION, logs
from lastgood.collectors.reading import Origin, candidates, collect_all
from lastgood.jobs.conform import conform
from lastgood.jobs.outcomes import outcomes
from lastgood.settings import Settings
from lastgood.tables.runs import Context

AT = datetime(2026, 1, 5, 12, tzinfo=UTC)
NS = int(AT.timestamp()) * 10**9
TRACE, SPAN = "ab" * 16, "cd" * 8
RECORDS: list[tuple[str, dict[str, Any], Any]] = [
    (DETAILS, {"gen_ai.request.model": "gpt"}, {"gen_ai.input.messages": "hello", "gen_ai.usage.input_tokens": 7}),
    (EVALUATION, {"gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": 0.25, "gen_ai.response.id": "r1"}, None),
    ("started", {"thread": "main"}, "the service has started"),
]  # fmt: skip
RESOURCE = {"lastgood.endpoint": "chat"}


def exported() -> ExportLogsServiceRequest:
    records = [
        LogRecord(
            event_name=name, trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN), time_unix_nano=NS + i, attributes=pairs(own),
            body=None if body is None else value(body),
        )
        for i, (name, own, body) in enumerate(RECORDS)
    ]  # fmt: skip
    group = ResourceLogs(scope_logs=[ScopeLogs(log_records=records)])
    group.resource.attributes.extend(pairs(RESOURCE))
    return ExportLogsServiceRequest(resource_logs=[group])


def log_table(spark: Any, version: str, records: list[tuple[str, dict[str, Any], Any]]) -> Any:
    """Records as a table of the first version (texts and MAP) or of the second (VARIANT)."""
    plain = lambda given: {k: v if isinstance(v, str) else json.dumps(v) for k, v in given.items()}  # noqa: E731
    form = plain if version == "v1" else json.dumps
    texts = [
        (name, TRACE, SPAN, NS + i, "9", json.dumps(body) if version == "v2" or isinstance(body, dict) else body, form(own), (form(RESOURCE),))
        for i, (name, own, body) in enumerate(records)
    ]  # fmt: skip
    kind = "map<string,string>" if version == "v1" else "string"
    frame = spark.createDataFrame(
        texts,
        "event_name string, trace_id string, span_id string, time_unix_nano bigint, severity_number string, body string, "
        f"attributes {kind}, resource struct<attributes:{kind}>",
    )
    if version == "v2":
        frame = frame.selectExpr(
            "* EXCEPT (attributes, body, resource)", "parse_json(attributes) AS attributes", "parse_json(body) AS body",
            "named_struct('attributes', parse_json(resource.attributes)) AS resource",
        )  # fmt: skip
    return frame


PLAIN = [name for name in tables.INBOX.columns if name not in ("received_at", "source", "raw", "attributes")]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_log_table_reads_as_the_receiver_reads_the_same_records(spark: Any, version: str) -> None:
    expected = logs(exported(), AT)
    rows = candidates(log_table(spark, version, RECORDS), Origin("logs"), Settings()).collect()
    parts = [row.asDict() for row in rows if row["source"]]
    assert len(parts) == len(expected.rows) == 1
    ours, theirs = parts[0], expected.rows[0]
    assert ours["input"] == "hello"
    assert {name: ours[name] for name in PLAIN if name != "requested_at"} == {
        name: theirs.get(name) for name in PLAIN if name != "requested_at"
    }
    assert ours["requested_at"].replace(tzinfo=UTC) == AT
    scores = [score.asDict() for row in rows for score in row["scores"]]
    own = ("request_id", "name", "value", "trace_id")
    assert [tuple(score[name] for name in own) for score in scores] == [("r1", "relevance", 0.25, TRACE)]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("form", ["body", "attributes"])
def test_assessments_among_the_log_records_are_scores(spark: Any, version: str, form: str) -> None:
    told: list[dict[str, Any]] = [
        {"assessment_id": "a", "assessment_name": "correct", "feedback": json.dumps({"value": "yes"}), "rationale": "it is"},
        {"assessment_id": "b", "assessment_name": "stars", "feedback": json.dumps({"value": 4})},
        {"assessment_id": "c", "assessment_name": "expected", "expectation": json.dumps({"value": "42"})},
        {"assessment_id": "a", "assessment_name": "correct", "feedback": json.dumps({"value": "yes"}), "deleted": "true"},
    ]  # fmt: skip
    if form == "attributes":
        told = [
            {key: each for key, each in one.items() if key != "feedback"}
            | ({"feedback.value": str(json.loads(one["feedback"])["value"])} if "feedback" in one else {})
            for one in told
        ]
    records = [(ASSESSMENT, {} if form == "body" else one, one if form == "body" else "") for one in told]
    rows = candidates(log_table(spark, version, records), Origin("logs"), Settings()).collect()
    assert {row["source"] for row in rows} == {None}, "rows that carry the scores"
    every = sorted((score for row in rows for score in row["scores"]), key=lambda score: score["at"])
    scores = [(score["name"], score["value"], score["label"], score["trace_id"]) for score in every]
    assert scores == [("correct", 1.0, "yes", TRACE), ("stars", 4.0, None, TRACE), ("correct", None, None, TRACE)]
    assert every[0]["explanation"] == "it is"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (True, (1.0, None)), (False, (0.0, None)), (3, (3.0, None)), ("0.5", (0.5, None)), ("no", (0.0, "no")), ('"Yes"', (1.0, "Yes")),
        ("excellent", (None, "excellent")), ("true", (1.0, None)), (" ", (None, None)), (None, (None, None)), ("null", (None, "null")),
        ({"a": 1}, (None, None)), ([1], (None, None)), ('{"a": 1}', (None, '{"a": 1}')), ("NaN", (None, "NaN")),
    ],
)  # fmt: skip
def test_what_a_judge_says_is_a_number_a_word_or_nothing(said: Any, meant: tuple[float | None, str | None]) -> None:
    assert judged(said) == meant


ANNOTATIONS = (
    "annotation_id string, annotation_type string, target_type string, target_id string, name string, value string, comment string, "
    "created_at timestamp, updated_at timestamp, deleted_at timestamp"
)


def annotation(ident: str, kind: str, name: str, told: Any, minutes: int, **more: Any) -> tuple[Any, ...]:
    at = AT + timedelta(minutes=minutes)
    return (
        ident, kind, more.get("target_type", "TRACE"), more.get("target", f"tr-{TRACE}"), name, json.dumps(told), more.get("why"), AT, at,
        at if more.get("deleted") else None,
    )  # fmt: skip


@pytest.mark.parametrize("feed", [True, False])
def test_feedback_on_a_trace_is_an_outcome_of_its_request_until_it_is_withdrawn(
    spark: Any, make: Callable[..., Context], tmp_path: Path, feed: bool
) -> None:
    where = str(tmp_path / "chat_otel_annotations")
    ctx = make(now=AT + timedelta(hours=1), sources={"annotation_tables": [where]})
    asked = spark.createDataFrame(
        [("chat", "r1", TRACE, AT, AT, "1", "otlp", 1.0)],
        "endpoint string, request_id string, trace_id string, requested_at timestamp, received_at timestamp, model_version string, source string, "
        "weight double",
    )
    blank = ctx.store.read(spark, tables.INBOX).limit(0)
    blank.unionByName(asked, allowMissingColumns=True).write.format("delta").mode("append").save(
        ctx.store.where(tables.INBOX)
    )

    def write(*rows: tuple[Any, ...]) -> None:
        frame = spark.createDataFrame(list(rows), ANNOTATIONS).withColumn("value", spark_expr("parse_json(value)"))
        writer = frame.write.format("delta").mode("append").option("delta.enableChangeDataFeed", str(feed).lower())
        writer.save(where)

    def settle() -> dict[str, str]:
        for _ in range(2):
            collect_all(ctx)
            conform(ctx)
            outcomes(ctx)
        (row,) = ctx.store.read(spark, tables.REQUESTS).collect()
        return dict(row["attributes"] or {})

    write(
        annotation("a", "FEEDBACK", "correct", "no", 1, why="wrong town"), annotation("b", "EXPECTATION", "town", "Bern", 1),
        annotation("c", "TAG", "team", "blue", 1), annotation("d", "FEEDBACK", "stars", 2, 1, target="of-no-trace"),
        annotation("e", "FEEDBACK", "slow", True, 1, target_type="SPAN"),
    )  # fmt: skip
    assert settle() == {"outcome.correct": "0.0"}
    kept = ctx.store.read(spark, tables.SCORES).collect()
    assert [(row["label"], row["explanation"], row["source"]) for row in kept] == [("no", "wrong town", "annotation")]
    notes = {row["note"] for row in ctx.store.read(spark, tables.RUNS).where(f"source = '{where}'").collect()}
    assert notes == {"4 of 5 rows are no messages of a call, evaluations or feedback on a trace"}
    write(annotation("a", "FEEDBACK", "correct", "yes", 5))
    assert settle() == {"outcome.correct": "1.0"}
    write(annotation("a", "FEEDBACK", "correct", "yes", 9, deleted=True))
    assert settle() == {"outcome.correct": None}
    assert ctx.store.read(spark, tables.SCORES).count() == 3


def spark_expr(text: str) -> Any:
    from pyspark.sql import functions as f

    return f.expr(text)
