"""Tables that the settings name: one that can be none is said at the start and by doctor, not passed over in silence."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lastgood.cli.doctor import Health, sources
from lastgood.collectors.inference_tables import Shape, shaped
from lastgood.collectors.reading import check, mistake
from lastgood.errors import ConfigError
from lastgood.service import loop
from lastgood.settings import Settings

TABLE = pa.table({"x": [1]})


def named(tmp_path: Path, *names: str) -> Settings:
    return Settings(
        storage=str(tmp_path / "data"),
        endpoints={f"e{i}": {"payload_table": str(tmp_path / name)} for i, name in enumerate(names)},
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("parquet", "is no Delta table, .*write it as Delta"), ("log.csv", "is no Delta table"),
        ("nowhere/chat_payload", "there is no folder .*nowhere; is it misspelt"),
        ("chat_paylaod", "there is no such table, but .*chat_payload; is it misspelt"),
    ],
)  # fmt: skip
def test_a_table_that_can_be_none_is_an_error_at_the_start(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "parquet").mkdir()
    pq.write_table(TABLE, tmp_path / "parquet" / "a.parquet")
    (tmp_path / "log.csv").write_text("x")
    write_deltalake(str(tmp_path / "chat_payload"), TABLE)
    settings = named(tmp_path, name)
    for start in (check, loop.context):
        with pytest.raises(ConfigError, match=said):
            start(settings)
    (finding,) = sources(settings)
    assert finding.health is Health.FAIL


def test_a_table_that_is_there_or_may_become_one_is_none(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "chat_payload"), TABLE)
    check(named(tmp_path, "chat_payload", "chat2_payload", "elsewhere"))
    assert mistake("main.logs.chat_payload") is None
    assert mistake("s3://bucket/chat_payload") is None


@pytest.mark.parametrize(
    ("stated", "code", "text"),
    [
        ("HTTP_500", "HTTP_500", None), ("503", "HTTP_503", None), ("500 Internal Server Error", "HTTP_500", "500 Internal Server Error"),
        ("openai.RateLimitError", "RateLimitError", None), ("rate-limited", "rate_limited", None), ("TIMEOUT", "TIMEOUT", None),
        ("the order 118-221 of ann@example.com was not found", "ERROR", "the order 118-221 of ann@example.com was not found"),
        ("ValueError: no such order", "ValueError", "ValueError: no such order"), ("req_8812734", "ERROR", None), (None, None, None),
        ("[/chat] timeout", "TIMEOUT", "[/chat] timeout"), ("Connection reset by peer", "UNAVAILABLE", "Connection reset by peer"),
    ],
)  # fmt: skip
def test_codes_of_rows_are_words_of_the_vocabulary_that_spans_have(
    stated: str | None, code: str | None, text: str | None
) -> None:
    row = {"endpoint": "chat", "request_id": "1", "error_code": stated, "attributes": [("kept", "1")]}
    fields = {
        "endpoint": pa.string(),
        "request_id": pa.string(),
        "error_code": pa.string(),
        "attributes": pa.map_(pa.string(), pa.string()),
    }
    batch = pa.RecordBatch.from_pylist([row], pa.schema(list(fields.items())))
    (made,) = shaped(batch, Shape("canonical"), datetime(2026, 3, 1, tzinfo=UTC)).to_pylist()
    assert made["error_code"] == code
    assert dict(made["attributes"]) == {"kept": "1"} | ({"error_text": text} if text else {})
