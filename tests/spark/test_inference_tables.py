"""The three generations of inference tables, canonical records, and any file a person points at."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lastgood.collectors.inference_tables import candidates, detect
from lastgood.collectors.reading import read_any
from lastgood.errors import ConfigError

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = json.dumps({"messages": [{"role": "user", "content": "hi"}], "metadata": {"team": "search"}})
USED = {"prompt_tokens": 2, "completion_tokens": 3}
SAID = json.dumps({"choices": [{"message": {"content": "ho"}, "finish_reason": "stop"}], "usage": USED})
FAILED = json.dumps({"error_code": "INTERNAL_ERROR", "message": "m"})
SHARED = "status_code int, sampling_fraction double, request string, response string"
TABLES: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "legacy": (
        f"databricks_request_id string, client_request_id string, timestamp_ms bigint, execution_time_ms bigint, "
        f"request_metadata map<string,string>, {SHARED}",
        [
            (id_, mine, int(AT.timestamp() * 1000), 40, {"endpoint_name": "chat", "model_name": "m", "model_version": "2"}, *rest)
            for id_, mine, *rest in (
                ("p1", "mine", 200, 0.1, ASKED, SAID), ("p2", "", 500, None, ASKED, FAILED), ("p3", None, 200, 1.0, None, SAID),
            )
        ],
    ),
    "ai_gateway": (
        f"databricks_request_id string, client_request_id string, request_time timestamp, execution_duration_ms bigint, "
        f"served_entity_id string, requester string, logging_error_codes array<string>, {SHARED}",
        [
            (id_, mine, AT, 40, "se-2", "a@example.com", codes, *rest)
            for id_, mine, codes, *rest in (
                ("p1", "mine", [], 200, 0.1, ASKED, SAID), ("p2", None, None, 500, 1.0, ASKED, FAILED),
                ("p3", None, ["MAX_REQUEST_SIZE_EXCEEDED"], 200, 1.0, None, SAID),
            )
        ],
    ),
    "unity_gateway": (
        f"request_id string, invocation_id string, event_time timestamp, latency_ms bigint, time_to_first_byte_ms bigint, "
        f"destination_name string, destination_model string, logging_error_codes array<string>, client_request_id string, {SHARED}",
        [
            (id_, "i", AT, 40, 11, "chat", "2", codes, mine, *rest)
            for id_, mine, codes, *rest in (
                ("p1", "mine", [], 200, 0.1, ASKED, SAID), ("p2", None, None, 500, 1.0, ASKED, FAILED),
                ("p3", None, ["MAX_REQUEST_SIZE_EXCEEDED"], 200, 1.0, None, SAID),
            )
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("generation", TABLES)
def test_generation_is_detected_and_mapped(spark: Any, generation: str) -> None:
    ddl, rows = TABLES[generation]
    frame = spark.createDataFrame(rows, ddl)
    assert detect(frame.columns) == generation
    entities = None
    if generation == "ai_gateway":
        known = "served_entity_id string, endpoint_name string, served_entity_name string, entity_version string, change_time timestamp"
        versions = [("2", AT), ("1", datetime(2020, 1, 1, tzinfo=UTC))]
        entities = spark.createDataFrame([("se-2", "chat", "chat-2", *one) for one in versions], known)
    tail = "/i" if generation == "unity_gateway" else ""
    found = {row["request_id"]: row for row in candidates(frame, None, entities).collect()}
    assert found.keys() == {"mine", f"p2{tail}", f"p3{tail}"}
    first, failed, huge = found["mine"], found[f"p2{tail}"], found[f"p3{tail}"]
    assert (first["endpoint"], first["model_version"], first["source"], first["latency_ms"]) == (
        "chat",
        "2",
        generation,
        40.0,
    )
    assert (first["input"], first["output"], first["tokens_in"], first["tokens_out"], first["team"]) == (
        "hi",
        "ho",
        2,
        3,
        "search",
    )
    assert first["weight"] == pytest.approx(10.0)
    assert first["requested_at"].replace(tzinfo=UTC) == AT
    assert first["latency_scope"] == ("gateway" if generation == "unity_gateway" else "model")
    assert first["ttft_ms"] == (11.0 if generation == "unity_gateway" else None)
    assert (failed["error_code"], failed["status_code"], failed["weight"], failed["output"]) == (
        "INTERNAL_ERROR",
        500,
        1.0,
        None,
    )
    assert (huge["input"], huge["output"], huge["error_code"]) == (None, "ho", None)
    assert huge["attributes"] == (None if generation == "legacy" else {"unlogged": "MAX_REQUEST_SIZE_EXCEEDED"})


def test_missing_optional_columns_are_unknown(spark: Any) -> None:
    frame = spark.createDataFrame(
        [("p", AT, 5)], "databricks_request_id string, request_time timestamp, execution_duration_ms int"
    )
    row = candidates(frame, "chat").collect()[0]
    assert (row["endpoint"], row["request_id"], row["latency_ms"], row["weight"]) == ("chat", "p", 5.0, 1.0)
    assert row["model_version"] is row["status_code"] is row["error_code"] is row["input"] is row["requester"] is None


def test_a_table_of_something_else_names_what_was_expected_and_found() -> None:
    with pytest.raises(
        ConfigError, match=r"expected canonical records .*ai_gateway: databricks_request_id.* found columns a, b"
    ):
        detect(["b", "a"])


def test_files_of_every_kind_are_read_alike_and_garbage_is_named(spark: Any, tmp_path: Path) -> None:
    ddl = "endpoint string, model_version string, requested_at string, latency_ms double"
    rows = spark.createDataFrame([("chat", "2", "2026-03-01T12:00:00Z", 5.0)], ddl).coalesce(1)
    made = {kind: str(tmp_path / kind) for kind in ("delta", "parquet")}
    for kind, path in made.items():
        rows.write.format(kind).save(path)
    (tmp_path / "x.jsonl").write_text(
        '{"endpoint":"chat","model_version":"2","requested_at":"2026-03-01T12:00:00Z","latency_ms":5.0}\n'
    )
    (tmp_path / "x.csv").write_text("endpoint,model_version,requested_at,latency_ms\nchat,2,2026-03-01T12:00:00Z,5.0\n")
    for path in (*made.values(), str(tmp_path / "x.jsonl"), str(tmp_path / "x.csv")):
        row = candidates(read_any(spark, path)).collect()[0]
        assert (row["endpoint"], row["model_version"], row["latency_ms"], row["source"]) == (
            "chat",
            "2",
            5.0,
            "canonical",
        ), path
        assert row["requested_at"].replace(tzinfo=UTC) == AT
    (tmp_path / "x.parquet").write_bytes(b"garbage")
    (tmp_path / "garbage").write_bytes(b"\x00\xff\x01")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("x.parquet", "garbage", "empty", "folder", "missing", "no.such_table"):
        where = name if name == "no.such_table" else str(tmp_path / name)
        with pytest.raises(ConfigError, match=name):
            read_any(spark, where)


def test_columns_of_other_types_and_missing_ones_are_read_as_far_as_they_go(spark: Any) -> None:
    """VARIANT where MAP was, numbers and times as text, no latency, bodies that are VARIANT: what cannot be read is unknown."""
    rows = spark.sql("""SELECT 'p1' databricks_request_id, '1772366400000' timestamp_ms,
        parse_json('{"endpoint_name": "chat", "model_version": "2"}') request_metadata, '200' status_code, 'much' sampling_fraction,
        parse_json('{"prompt": "hi"}') request, '{"generated_text": "ho"}' response
        UNION ALL SELECT 'p2', 'yesterday', parse_json('[]'), 'no', NULL, parse_json('7'), 'x'
        UNION ALL SELECT 'p3', '9223372036854775807', NULL, '1e30', 'NaN', NULL, NULL
        UNION ALL SELECT 'p4', '-9223372036854775808', NULL, '-1', 'Infinity', NULL, NULL""")
    first, second, third, fourth = candidates(rows).orderBy("request_id").collect()
    assert (third["requested_at"], third["status_code"], third["weight"]) == (None, None, 1.0)
    assert (fourth["requested_at"], fourth["weight"]) == (None, 1.0)
    assert (first["endpoint"], first["model_version"], first["requested_at"].timestamp()) == ("chat", "2", 1772366400)
    assert (first["status_code"], first["weight"], first["latency_ms"], first["input"], first["output"]) == (
        200,
        1.0,
        None,
        "hi",
        "ho",
    )
    assert (second["requested_at"], second["status_code"], second["endpoint"]) == (None, None, None)


def test_a_body_taken_apart_is_read_and_an_unknown_schema_version_is_set_aside(spark: Any) -> None:
    rows = spark.sql("""SELECT id invocation_id, id request_id, timestamp'2026-03-01 12:00:00' event_time, 'chat' destination_name,
        map('prompt', 'hi') request, named_struct('generated_text', 'ho') response, version schema_version
        FROM VALUES ('a', NULL), ('b', '1'), ('c', 'v1.4'), ('d', '2.0'), ('e', 'next') AS t(id, version)""")
    found = candidates(rows).orderBy("request_id").collect()
    assert {(one["input"], one["output"]) for one in found} == {("hi", "ho")}
    assert [one["reject_reason"] for one in found[:3]] == [None] * 3
    for one, version in zip(found[3:], ("2.0", "next"), strict=True):
        said = f"schema_version {version} is not known: update Lastgood, or add it to sources.schema_versions"
        assert one["reject_reason"] == said
    assert candidates(rows, versions=["1", "2"]).where("reject_reason IS NULL").count() == 4
