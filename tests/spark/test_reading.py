"""Tables of every kind are collected: spans as the receiver reads them, usage beside payloads, versions as they were, each row once."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from jobs_support import put
from jobs_support import row as inbox_row
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from otlp_support import pairs

from lastgood import tables
from lastgood.collectors import reading
from lastgood.collectors.otlp.rows import SpanDecoder
from lastgood.collectors.reading import Origin, candidates, collect, collect_all
from lastgood.errors import ConfigError, TransientError
from lastgood.jobs.conform import conform
from lastgood.jobs.windows import windows
from lastgood.record.telemetry import arrow_schema
from lastgood.service import loop
from lastgood.settings import Settings
from lastgood.tables import Store
from lastgood.tables.entities import named
from lastgood.tables.runs import Context

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NS = int(AT.timestamp()) * 10**9
SCORED = {
    "gen_ai.evaluation.name": "relevance", "gen_ai.evaluation.score.value": 0.25, "gen_ai.evaluation.score.label": "poor",
}  # fmt: skip
CHAT = {
    "gen_ai.operation.name": "chat", "lastgood.endpoint": "chat", "model_version": "7", "gen_ai.usage.input_tokens": 12,
    "gen_ai.usage.output_tokens": 34, "gen_ai.response.finish_reasons": ["stop"], "gen_ai.request.stream": True,
    "gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]', "feature.age_ms": 1500.5,
    "gen_ai.output.messages": '[{"role": "assistant", "content": "ho"}]', "custom": "kept",
}  # fmt: skip
MLFLOW = {
    "mlflow.spanType": '"CHAT_MODEL"', "mlflow.databricks.modelServingEndpointName": '"chat"', "mlflow.traceRequestId": '"tr-9"',
    "mlflow.chat.tokenUsage": '{"input_tokens": 5, "output_tokens": 6}', "mlflow.spanInputs": '"ask"',
}  # fmt: skip
SPANS: list[dict[str, Any]] = [
    {"trace": "aa", "span": "01", "kind": "SERVER", "own": {"lastgood.endpoint": "chat", "http.response.status_code": 500}, "failed": "boom"},
    {"trace": "aa", "span": "02", "parent": "01", "kind": "CLIENT", "own": CHAT},
    {"trace": "bb", "span": "03", "kind": "CLIENT", "own": CHAT, "events": [("gen_ai.evaluation.result", 10**9, SCORED)]},
    {"trace": "cc", "span": "04", "kind": "INTERNAL", "own": MLFLOW, "events": [("mlflow.chunk.item.0", 2 * 10**8, {})]},
    {"trace": "dd", "span": "05", "kind": "CLIENT", "own": CHAT, "took": -1},
    {"trace": "ee", "span": "06", "kind": "INTERNAL", "own": {"nothing": "of ours"}},
]  # fmt: skip
RESOURCE = {"service.name": "shop", "deployment.environment.name": "prod"}


def exported() -> ExportTraceServiceRequest:
    spans = [
        Span(
            trace_id=bytes.fromhex(one["trace"] * 16), span_id=bytes.fromhex(one["span"] * 8),
            parent_span_id=bytes.fromhex(one.get("parent", "") * 8), kind=f"SPAN_KIND_{one['kind']}",
            start_time_unix_nano=NS, end_time_unix_nano=NS + one.get("took", 3 * 10**8), attributes=pairs(one["own"]),
            events=[
                Span.Event(name=name, time_unix_nano=NS + at, attributes=pairs(said)) for name, at, said in one.get("events", ())
            ],
            status=Status(code=2, message=one["failed"]) if "failed" in one else Status(),
        )
        for one in SPANS
    ]  # fmt: skip
    group = ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])
    group.resource.attributes.extend(pairs(RESOURCE))
    return ExportTraceServiceRequest(resource_spans=[group])


def as_map(given: dict[str, Any]) -> dict[str, str]:
    """As a MAP<STRING, STRING> must hold them."""
    return {name: one if isinstance(one, str) else json.dumps(one) for name, one in given.items()}


def span_table(spark: Any, attributes: str) -> Any:
    """SPANS as a table whose attributes are a `map`, a `variant` or a JSON `string`; every span delivered twice."""
    how = as_map if attributes == "map" else json.dumps
    kind = "map<string,string>" if attributes == "map" else "string"
    rows = [
        (
            one["trace"] * 16, one["span"] * 8, one["parent"] * 8 if "parent" in one else None, "chat", f"SPAN_KIND_{one['kind']}",
            NS, NS + one.get("took", 3 * 10**8), how(one["own"]),
            [(NS + at, name, how(said)) for name, at, said in one.get("events", ())],
            (one["failed"], "STATUS_CODE_ERROR") if "failed" in one else (None, "STATUS_CODE_UNSET"), (how(RESOURCE),),
        )
        for one in SPANS
    ]  # fmt: skip
    frame = spark.createDataFrame(
        rows * 2,
        f"trace_id string, span_id string, parent_span_id string, name string, kind string, start_time_unix_nano bigint, "
        f"end_time_unix_nano bigint, attributes {kind}, events array<struct<time_unix_nano:bigint,name:string,attributes:{kind}>>, "
        f"status struct<message:string,code:string>, resource struct<attributes:{kind}>",
    )
    if attributes == "variant":
        frame = frame.selectExpr(
            "* EXCEPT (attributes, events, resource)", "parse_json(attributes) AS attributes",
            "transform(events, e -> named_struct('time_unix_nano', e.time_unix_nano, 'name', e.name, 'attributes', parse_json(e.attributes))) AS events",
            "named_struct('attributes', parse_json(resource.attributes)) AS resource",
        )  # fmt: skip
    return frame.repartition(3)


@pytest.fixture
def make(spark: Any, store: Store) -> Callable[..., Context]:
    store.ensure(spark)

    def made(**settings: Any) -> Context:
        return Context(
            spark, store, Settings(storage=store.location, window_s=60, **settings), lambda: AT + timedelta(hours=1)
        )

    return made


PLAIN = [name for name in tables.INBOX.columns if name not in ("received_at", "source", "raw")]


def shown(row: Any) -> dict[str, Any]:
    found = {name: row.get(name) for name in PLAIN}
    at, rest = found["requested_at"], found["attributes"]
    # A table's texts may be JSON or not, so they are compared without quotes.
    unquoted = {name: text.strip('"') for name, text in dict(rest or ()).items()}
    return found | {"requested_at": at and at.replace(tzinfo=UTC), "attributes": unquoted}


@pytest.mark.parametrize("attributes", ["map", "variant", "string"])
def test_a_span_table_reads_as_the_receiver_reads_the_same_spans(spark: Any, attributes: str) -> None:
    expected = SpanDecoder().traces(exported(), AT)
    found = candidates(span_table(spark, attributes), Origin("spans"), Settings()).collect()
    key = lambda row: (row["trace_id"], row["span_id"])  # noqa: E731
    ours, theirs = (sorted(map(shown, rows), key=key) for rows in (expected.rows, [row.asDict() for row in found]))
    assert theirs == ours
    assert [row["model_version"] for row in ours] == [None, "7", "7", None, "7"]
    assert {row["source"] for row in found} == {"span_table"}
    scored = [score.asDict() for row in found for score in row["scores"]]
    assert [(one["request_id"], one["name"], one["value"], one["label"]) for one in scored] == [
        (expected.scores[0]["request_id"], "relevance", 0.25, "poor")
    ]


def test_spans_become_requests_and_scores_once_however_often_the_table_is_read(
    spark: Any, make: Callable[..., Context], tmp_path: Path
) -> None:
    where = str(tmp_path / "spans")
    span_table(spark, "variant").write.format("delta").save(where)
    ctx = make(sources={"span_tables": [where]}, endpoints={"chat": {"capture": "none"}})
    for _ in range(2):
        collect_all(ctx)
        conform(ctx)
    rows = ctx.store.read(spark, tables.REQUESTS).collect()
    assert sorted(row["trace_id"][:2] for row in rows) == ["aa", "bb", "cc"]
    assert {(row["input"], row["output"]) for row in rows} == {(None, None)}, "its endpoint keeps no bodies"
    assert ctx.store.read(spark, tables.SCORES).count() == 1
    rejected = ctx.store.read(spark, tables.QUARANTINE).collect()
    assert [row["reason"] for row in rejected] == ["span ends before it starts"]


def test_a_request_is_of_the_version_that_its_entity_had_then(spark: Any) -> None:
    entities = spark.createDataFrame(
        [("se", "chat", "chat-1", version, AT + timedelta(hours=hours)) for version, hours in (("1", 0), ("2", 2), ("3", 4))]
        + [("other", "shop", "shop-9", "9", AT)],
        "served_entity_id string, endpoint_name string, served_entity_name string, entity_version string, change_time timestamp",
    )  # fmt: skip
    asked = [("se", AT + timedelta(hours=hours), hours) for hours in (-5, 0, 1, 2, 3, 4, 90)]
    asked += [("other", AT, 100), ("nobody", AT, 101), ("se", None, 102)]
    rows = spark.createDataFrame(asked, "entity string, at timestamp, hours int")
    found = {row["hours"]: row["known"] and row["known"]["entity_version"] for row in named(rows, entities).collect()}
    assert found == {-5: "1", 0: "1", 1: "1", 2: "2", 3: "2", 4: "3", 90: "3", 100: "9", 101: None, 102: "3"}
    assert {row["known"] for row in named(rows, None).collect()} == {None}


USAGE = (
    "workspace_id string, client_request_id string, databricks_request_id string, requester string, status_code int, "
    "request_time timestamp, input_token_count bigint, output_token_count bigint, usage_context map<string,string>, served_entity_id string"
)
PAYLOAD = (
    "databricks_request_id string, client_request_id string, request_time timestamp, execution_duration_ms bigint, "
    "served_entity_id string, status_code int, sampling_fraction double, request string, response string, requester string"
)


def test_usage_names_the_requests_that_payload_tables_leave_out(
    spark: Any, make: Callable[..., Context], tmp_path: Path
) -> None:
    """One request in both is one row; a refused one, which payload tables do not log, is an error all the same."""
    usage, payload, entities = (str(tmp_path / name) for name in ("usage", "payload", "entities"))
    said = '{"choices": [{"message": {"content": "ho"}}], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}'
    spark.createDataFrame([("p1", None, AT, 40, "se", 200, 1.0, "{}", said, "ann")], PAYLOAD).write.format(
        "delta"
    ).save(payload)
    seen = [
        ("1", None, "p1", "ann", 200, AT, 99, 98, {"team": "search"}, "se"), ("1", None, "p2", "bob", 429, AT, 0, 0, {}, "se"),
        ("2", None, "p3", "eve", 200, AT, 1, 1, {}, "se"),
    ]  # fmt: skip
    spark.createDataFrame(seen, USAGE).write.format("delta").save(usage)
    known = "served_entity_id string, endpoint_name string, served_entity_name string, entity_version string, change_time timestamp"
    spark.createDataFrame([("se", "chat", "chat-1", "1", AT)], known).write.format("delta").save(entities)
    sources = {"usage_tables": [usage], "entities_table": entities, "workspace_id": "1"}
    ctx = make(sources=sources, endpoints={"chat": {"payload_table": payload}})
    for _ in range(2):
        collect_all(ctx)
        conform(ctx)
        windows(ctx)
    rows = {row["request_id"]: row for row in ctx.store.read(spark, tables.REQUESTS).collect()}
    assert rows.keys() == {"p1", "p2"}, "another workspace's requests are not ours"
    assert rows["p1"]["sources"] == ["ai_gateway", "endpoint_usage"]
    assert (rows["p1"]["tokens_in"], rows["p1"]["latency_ms"], rows["p1"]["team"]) == (2, 40.0, "search")
    assert (rows["p2"]["error_code"], rows["p2"]["model_version"], rows["p2"]["tokens_in"]) == ("HTTP_429", "1", None)
    counted = ctx.store.read(spark, tables.WINDOWS).selectExpr("sum(requests)", "sum(errors['HTTP_429'])").collect()[0]
    assert tuple(counted) == (2.0, 1.0)


def test_gateway_usage_is_read_with_its_tokens_attempts_and_latency(spark: Any) -> None:
    ddl = (
        "request_id string, invocation_id string, event_time timestamp, latency_ms bigint, time_to_first_byte_ms bigint, "
        "destination_name string, destination_model string, requester string, request_tags map<string,string>, input_tokens bigint, "
        "output_tokens bigint, total_tokens bigint, status_code int, routing_information struct<attempts:array<struct<priority:int>>>"
    )
    row = ("r", "i", AT, 40, 11, "chat", "2", "ann", {"team": "search"}, 5, 6, 11, 200, ([(1,), (2,)],))
    found = candidates(spark.createDataFrame([row], ddl), Origin("usage"), Settings()).collect()[0]
    assert (found["request_id"], found["endpoint"], found["model_version"], found["source"]) == (
        "r/i",
        "chat",
        "2",
        "gateway_usage",
    )
    assert (found["tokens_in"], found["tokens_out"], found["latency_ms"], found["latency_scope"]) == (
        5,
        6,
        40.0,
        "gateway",
    )
    assert (found["ttft_ms"], found["team"], found["attributes"]) == (11.0, "search", {"routing.attempts": "2"})


def test_a_table_without_change_feed_is_read_by_its_clock_and_late_rows_are_not_missed(
    spark: Any, make: Callable[..., Context], tmp_path: Path
) -> None:
    payload = str(tmp_path / "payload")

    def log(*ids: str, at: datetime = AT) -> None:
        rows = [(one, None, at, 40, "se", 200, 1.0, None, None, None) for one in ids]
        spark.createDataFrame(rows, PAYLOAD).write.format("delta").mode("append").save(payload)

    ctx, origin = make(), Origin(payload, "chat")
    log("a", "b")
    assert (collect(ctx, origin) or pytest.fail("nothing")).rows_in == 2
    log("c", at=AT - timedelta(hours=20))
    collect(ctx, origin)
    collect(ctx, origin)
    log("d", at=AT + timedelta(minutes=5))
    collect(ctx, origin)
    found = [row["request_id"] for row in ctx.store.read(spark, tables.INBOX).collect()]
    assert sorted(found) == ["a", "b", "c", "d"]


def test_what_has_no_id_is_not_taken_in_again_and_again(
    spark: Any, make: Callable[..., Context], tmp_path: Path
) -> None:
    payload, canonical = str(tmp_path / "payload"), str(tmp_path / "canonical")
    rows = [(one, None, AT, 40, "se", 200, 1.0, None, None, None) for one in ("a", None)]
    spark.createDataFrame(rows, PAYLOAD).write.format("delta").save(payload)
    ctx = make()
    for _ in range(3):
        collect(ctx, Origin(payload, "chat"))
    found = [row["request_id"] for row in ctx.store.read(spark, tables.INBOX).collect()]
    assert len(found) == 2 and set(found) == {"a", None}
    frame = spark.createDataFrame([("chat", "1", AT)], "endpoint string, model_version string, requested_at timestamp")
    frame.write.format("delta").save(canonical)
    for _ in range(2):  # alike rows are rows of their own; the second reading finds both again
        frame.union(frame).write.format("delta").mode("overwrite").save(canonical)
        collect(ctx, Origin(canonical))
    made = [row["request_id"] for row in ctx.store.read(spark, tables.INBOX).where("model_version = '1'").collect()]
    assert len(made) == len(set(made)) == 2 and all(name.startswith("row-") for name in made)


def tables_of(spark: Any) -> dict[str, Any]:
    """A table of each kind with the requests a and b."""
    canonical = "endpoint string, request_id string, model_version string, requested_at timestamp"
    gateway = (
        "request_id string, invocation_id string, event_time timestamp, destination_name string, total_tokens bigint"
    )
    legacy = "databricks_request_id string, timestamp_ms bigint, request_metadata map<string,string>"
    spans = "trace_id string, span_id string, start_time_unix_nano bigint, end_time_unix_nano bigint, attributes map<string,string>"
    marks = {"lastgood.endpoint": "chat"}
    return {
        "ai_gateway": spark.createDataFrame([(one, None, AT, 40, "se", 200, 1.0, None, None, None) for one in "ab"], PAYLOAD),
        "legacy": spark.createDataFrame([(one, NS // 10**6, {"endpoint_name": "chat"}) for one in "ab"], legacy),
        "unity_gateway": spark.createDataFrame([(one, "i", AT, "chat", None) for one in "ab"], gateway).drop("total_tokens"),
        "gateway_usage": spark.createDataFrame([(one, "i", AT, "chat", 5) for one in "ab"], gateway),
        "endpoint_usage": spark.createDataFrame([("1", None, one, "u", 200, AT, 1, 1, {}, "se") for one in "ab"], USAGE),
        "canonical": spark.createDataFrame([("chat", one, "1", AT) for one in "ab"], canonical),
        "span_table": spark.createDataFrame(
            [("1" * 32, one * 16, NS, NS, marks | {"lastgood.request_id": one}) for one in "ab"], spans
        ),
    }  # fmt: skip


@pytest.mark.parametrize("feed", [True, False], ids=["change feed", "clock"])
def test_every_collector_keeps_the_same_contract(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, feed: bool
) -> None:
    """No table yet: nothing. Not a table of requests: named. A run that dies before its bookmark, or a second one: every request once."""
    some = ("ai_gateway", "endpoint_usage", "span_table")
    for kind, frame in tables_of(spark).items():
        if not feed and kind not in some:
            continue  # how a table is read does not depend on its kind: three stand for all
        store, where = Store(str(tmp_path / f"data-{kind}")), str(tmp_path / kind)
        names = (tables.INBOX, tables.REQUESTS, tables.QUARANTINE, tables.RUNS, tables.SCORES, tables.FORGOTTEN)
        store.ensure(spark, *names, tables.STEPS)
        ctx = Context(spark, store, Settings(storage=store.location), lambda: AT + timedelta(hours=1))
        origin = Origin(where, "chat")
        assert collect(ctx, origin) is None, kind
        frame.write.format("delta").option("delta.enableChangeDataFeed", str(feed).lower()).save(where)
        with monkeypatch.context() as patch:
            patch.setattr(reading, "record", lambda *_: (_ for _ in ()).throw(TransientError("the disk is gone")))
            with pytest.raises(TransientError):
                collect(ctx, origin)
        for _ in range(2):
            collect(ctx, origin)
        conform(ctx)
        found = store.read(spark, tables.REQUESTS).collect()
        assert sorted(row["request_id"][0] for row in found) == ["a", "b"], kind
        assert {tuple(row["sources"]) for row in found} == {(kind,)}
    spark.range(1).write.format("delta").option("delta.enableChangeDataFeed", str(feed).lower()).save(
        str(tmp_path / "other")
    )
    with pytest.raises(ConfigError, match=r"other: not a table of requests: expected .* found columns id"):
        collect(ctx, Origin(str(tmp_path / "other"), "chat"))


def test_a_table_that_cannot_be_read_is_named_and_holds_up_nothing(
    spark: Any, make: Callable[..., Context], tmp_path: Path
) -> None:
    """A table of something else, one whose column has another type, one whose endpoint and table are gone: the others' rows come in,
    and the other jobs run."""
    where = {name: str(tmp_path / name) for name in ("other", "retyped", "gone", "fine")}
    spark.range(1).write.format("delta").save(where["other"])
    canonical = (
        "SELECT 'chat' endpoint, '1' model_version, timestamp'2026-03-01 12:00:00' requested_at, 5.0D latency_ms"
    )
    spark.sql(f"{canonical}, 'a' request_id, array('x') features").write.format("delta").save(where["retyped"])
    spark.sql(f"{canonical}, 'b' request_id").write.format("delta").save(where["fine"])
    ctx = make(endpoints={name: {"payload_table": path} for name, path in where.items()})
    said: list[dict[str, Any]] = []
    with pytest.raises(ConfigError, match="other: not a table of requests") as found:
        loop.run_all(ctx, ["collect", "conform", "windows"], said.append)
    assert "retyped: " in str(found.value)
    assert "features" in str(found.value)
    assert "give the column the documented type" in str(found.value)
    assert [(one["job"], one.get("rows_in")) for one in said] == [("collect", None), ("conform", 1), ("windows", 1)]
    assert said[0]["error"] == str(found.value)
    assert [row["request_id"] for row in ctx.store.read(spark, tables.REQUESTS).collect()] == ["b"]


def test_a_request_of_what_no_registry_has_is_of_the_version_that_the_configuration_named_then(
    spark: Any, make: Callable[..., Context]
) -> None:
    """External models, feature specs and models paid by token: a span or row names the served entity, the ledger its version (NAME@HASH)."""
    ctx = make()
    told = [
        {"endpoint": "chat", "served_entity": "gpt", "model_version": version, "traffic": 100, "config_version": n,
         "observed_at": AT + timedelta(minutes=after)}
        for n, (version, after) in enumerate((("gpt@11111111", -60), ("gpt@22222222", 10)))
    ]  # fmt: skip
    ctx.store.home(tables.DEPLOYMENTS).append(pa.Table.from_pylist(told, arrow_schema(tables.DEPLOYMENTS.fields)))
    put(
        ctx.store,
        [
            inbox_row(i, model_version=None, served_entity=entity, requested_at=AT + timedelta(minutes=after), source=source)
            for i, (entity, after, source) in enumerate(
                (("gpt", 0, "otlp"), ("gpt", 20, "span_table"), ("gpt", 20, "ai_gateway"), ("other", 20, "otlp"))
            )
        ],
    )  # fmt: skip
    conform(ctx)
    named_then = {row["request_id"]: row["model_version"] for row in ctx.store.read(spark, tables.REQUESTS).collect()}
    assert list(dict(sorted(named_then.items())).values()) == ["gpt@11111111", "gpt@22222222", "gpt@22222222", None]
