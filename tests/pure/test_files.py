"""Files as other people write them: every reading gives the same requests, or one sentence says what is wrong."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
import pytest
from judge_support import requests

from lastgood.errors import ConfigError
from lastgood.judge.records import Records
from lastgood.service.replay import read, records

GIVEN = requests(1, minutes=5, failing=0.1)
BAD = GIVEN.code >= 0
SECONDS = np.floor(GIVEN.at)
FRAME = pd.DataFrame(
    {
        "endpoint": "chat", "model_version": np.where(GIVEN.arm == 1, "2", "1"), "requested_at": pd.to_datetime(SECONDS, unit="s", utc=True),
        "latency_ms": np.round(GIVEN.latency_ms, 3), "error_code": np.where(BAD, "HTTP_500", None), "requester": GIVEN.who,
        "tokens_in": GIVEN.tokens_in.astype(int), "tokens_out": GIVEN.tokens_out.astype(int), "body": 'two\nlines, "quoted"',
    }
)  # fmt: skip
WORDS = FRAME.requested_at.dt.strftime("%Y-%m-%dT%H:%M:%S")


def write(frame: pd.DataFrame, kind: str, folder: Path) -> Path:
    path = folder / f"log.{kind}"
    if kind == "parquet":
        frame.astype({"error_code": str} if "x" in frame.error_code.values else {}).to_parquet(path)
    elif kind.startswith(("csv", "tsv")):
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    else:
        frame.to_json(path, orient="records", lines=kind == "jsonl", date_format="iso", date_unit="us")
    return path


def same(found: Records) -> None:
    assert np.allclose(found.at, SECONDS)
    assert (found.arm == GIVEN.arm).all()
    assert ((found.code >= 0) == BAD).all()
    assert (
        np.sort(np.unique(found.who, return_counts=True)[1]) == np.sort(np.bincount(GIVEN.who)[np.unique(GIVEN.who)])
    ).all()
    assert np.allclose(found.latency_ms, GIVEN.latency_ms, atol=1e-3)
    assert (found.tokens_in == GIVEN.tokens_in).all()


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "tsv", "jsonl", "json"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"error_code": np.where(BAD, "503", "")},
        {"error_code": np.where(BAD, "TIMEOUT", "OK")},
        {"error_code": np.where(BAD, "500 Internal Server Error", "200 OK")},
        {"error_code": np.where(BAD, 500, 200)},
        {"error_code": np.where(BAD, 1, 0)},
        {"error_code": np.where(BAD, 500.0, np.nan)},
        {"error_code": BAD},
        {"error_code": [("x" if i % 2 else 500) if one else 0 for i, one in enumerate(BAD)]},
        {"requested_at": WORDS},
        {"requested_at": WORDS.str.replace("T", " ") + " UTC"},
        {"requested_at": FRAME.requested_at.dt.tz_convert("Asia/Tokyo").dt.strftime("%Y-%m-%dT%H:%M:%S.000+09:00")},
        {"requested_at": FRAME.requested_at.dt.strftime("%a, %d %b %Y %H:%M:%S GMT")},
        {"requested_at": SECONDS},
        {"requested_at": (SECONDS * 1e3).astype(int)},
        {"requested_at": (SECONDS * 1e6).astype(int)},
        {"requested_at": (SECONDS * 1e9).astype(int)},
        {"requested_at": [f"{one:.1f}" for one in SECONDS]},
        {"requested_at": FRAME.requested_at.dt.tz_localize(None)},
        {"requester": 1e9 + GIVEN.who},
        {"requester": [f"user {one} " for one in GIVEN.who]},
        {"model_version": (1 + GIVEN.arm).astype(float)},
        {"latency_ms": FRAME.latency_ms.astype(str)},
    ],
    ids=lambda change: (
        "; ".join(f"{name}={value[0] if len(value) else ''}" for name, value in change.items()) or "as it is"
    ),
)
def test_however_it_is_written_it_reads_the_same(change: dict[str, Any], kind: str, tmp_path: Path) -> None:
    frame = FRAME.assign(**change)
    same(records(read(write(frame, kind, tmp_path)), "chat", "2", "1"))


def arrow(**columns: Any) -> pa.Table:
    plain = pa.Table.from_pandas(FRAME, preserve_index=False)
    for name, column in columns.items():
        plain = plain.set_column(plain.column_names.index(name), name, column(plain[name]))
    return plain


@pytest.mark.parametrize(
    "table",
    [
        arrow(**dict.fromkeys(("endpoint", "model_version", "error_code", "requester", "latency_ms", "requested_at"), pc.dictionary_encode)),
        arrow(**{name: lambda c: c.cast(pa.large_string()) for name in ("endpoint", "model_version", "error_code")}),
        arrow(**{name: lambda c: c.cast(pa.string_view()) for name in ("endpoint", "model_version", "error_code")}),
        arrow(requested_at=lambda c: pa.array((SECONDS * 1e9).astype("int64") + 1, pa.timestamp("ns"))),
        arrow(requested_at=lambda c: c.cast(pa.timestamp("s"))),
        arrow(latency_ms=lambda c: pc.round(c, 3).cast(pa.decimal128(12, 3))),
        arrow(latency_ms=lambda c: pc.multiply(c, 1000).cast(pa.int64(), safe=False).cast(pa.duration("us"))),
    ],
    ids=["dictionaries", "large strings", "string views", "nanoseconds", "seconds", "decimals", "durations"],
)  # fmt: skip
def test_every_arrow_type_reads_the_same(table: pa.Table, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(table, tmp_path / "log.parquet", row_group_size=100)
    same(records(read(tmp_path / "log.parquet"), "chat", "2", "1"))


def test_a_code_that_first_shows_late_in_a_csv_or_is_of_two_kinds_in_json_is_read(tmp_path: Path) -> None:
    row = '{"endpoint":"chat","model_version":%d,"requested_at":%d,"latency_ms":5,"error_code":%s}'
    late = [(1 + i % 2, i, "null" if i < 40_000 else "500" if i % 2 else '"SLOW"') for i in range(40_010)]
    (tmp_path / "log.jsonl").write_text("\n".join(row % one for one in late))
    lines = [f"chat,{v},{at},5,{json.loads(code) or ''}" for v, at, code in late]
    (tmp_path / "log.csv").write_text("endpoint,model_version,requested_at,latency_ms,error_code\n" + "\n".join(lines))
    for name in ("log.jsonl", "log.csv"):
        found = records(read(tmp_path / name), "chat", "2", "1")
        assert (len(found.at), int((found.code >= 0).sum())) == (40_010, 10)


def test_requests_without_a_time_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = FRAME.assign(requested_at=WORDS.where(np.arange(len(FRAME)) % 10 > 0))
    found = records(read(write(frame, "csv", tmp_path)), "chat", "2", "1")
    assert len(found.at) == len(FRAME) * 9 // 10
    assert "60 of 600 requests have no requested_at" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"requested_at": "03/04/2026 10:00"}, "requested_at: expected times in ISO 8601 or numbers since 1970"),
        ({"requested_at": [*WORDS[:-1], "yesterday"]}, "requested_at: expected times .*yesterday"),
        ({"requested_at": None}, "no request has a requested_at"),
        ({"latency_ms": "12,5"}, "latency_ms: expected numbers, found '12,5'"),
        ({"endpoint": "other"}, "no requests to endpoint chat, found other"),
        ({"model_version": "2"}, "version 2 and 1 wanted, found 2"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        records(read(write(FRAME.assign(**change), "csv", tmp_path)), "chat", "2", "1")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("log.csv", b"", "holds no rows that can be read"),
        (
            "log.csv",
            b"endpoint,model_version,requested_at\nchat,2\n",
            "row 2 has 2 fields, the header 3",
        ),
        ("log.csv", b"endpoint,model_version,requested_at\n\xe4,2,1\n", "byte 36 is not UTF-8"),
        ("log.csv", b"when,what\n1,2\n", "no column endpoint, model_version, requested_at; there are when, what"),
        ("log.jsonl", b'{"endpoint": "chat"\n', "row 1 is not a JSON object on a line of its own"),
        ("log.json", b"[1, 2]", "holds no rows that can be read"),
        ("log.parquet", b"PAR1", "could not be read"),
        ("log.xlsx", b"PK", "no column endpoint, model_version, requested_at; there are PK"),
    ],
)
def test_a_broken_file_is_one_sentence(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        read(tmp_path / name)


def test_one_version_named_twice_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="2 was named twice"):
        records(arrow(), "chat", "2", "2")


def test_a_partitioned_folder_reads_the_same(tmp_path: Path) -> None:
    pyarrow.parquet.write_to_dataset(arrow(), tmp_path, partition_cols=["model_version"])
    found = records(read(tmp_path), "chat", "2", "1")
    assert (len(found.at), int((found.code >= 0).sum())) == (len(FRAME), int(BAD.sum()))
    assert datetime.fromtimestamp(found.at.min(), UTC).year == 2026
