"""`lastgood check` as a user runs it, on tables of their own."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.json as pj
import pyarrow.parquet as pq
import pytest
from cli_support import lastgood
from conftest import SPARK_FOR_TESTS

from benchmarks.check import make


@pytest.mark.usefixtures("java")
def test_an_inference_table_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own with a Spark as users have it: compiled plans, adaptive."""
    for name in SPARK_FOR_TESTS:
        monkeypatch.delenv(name)
    table, page = tmp_path / "support.parquet", tmp_path / "report.html"
    make(table, 6_000)
    command = [sys.executable, "-m", "lastgood", "check", str(table), "--json", "-", "--html", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    raw = pq.read_table(table).to_pandas()
    (endpoint,) = found["endpoints"]
    assert endpoint["endpoint"] == "support"
    for version, rows in raw.groupby("served_entity_id"):
        figures = endpoint["versions"][version]
        assert figures["requests"] == len(rows)
        assert figures["error_codes"] == {"INTERNAL_ERROR": (rows.status_code == 500).sum()}
        exact = rows.execution_duration_ms.quantile(0.95)
        assert figures["p95_ms"] == pytest.approx(exact, rel=0.03)
        assert figures["error_rate_low"] < figures["error_rate"] < figures["error_rate_high"]
    assert {row["column"] for row in endpoint["drift"]} >= {"tokens_in", "output_chars"}
    assert endpoint["verdict"]["candidate"] in ("a", "b")
    assert "<svg" in page.read_text()


@pytest.mark.usefixtures("spark")
def test_bad_rows_are_named_and_the_rest_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "endpoint": "e",
            "model_version": "1",
            "requested_at": f"2026-01-05T00:{i % 60:02d}:00Z",
            "latency_ms": 20.0 + i,
            "request_id": f"r{i}",
        }
        for i in range(200)
    ]
    rows[3]["latency_ms"] = -5.0
    rows[4]["requested_at"] = "1970-01-01T00:00:00Z"
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert pj.read_json(file).num_rows == len(rows)
    code, out, err = lastgood(capsys, "check", str(file), "--json", "-")
    assert code == 0, err[-2000:]
    found = json.loads(out)
    assert found["rejected"] == {"latency is negative or not a number": 1, "request time is too long ago": 1}
    assert found["endpoints"][0]["versions"]["1"]["requests"] == len(rows) - 2


@pytest.mark.usefixtures("spark")
def test_a_wrong_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "orders.csv"
    file.write_text("order,price\n1,2\n")
    code, _, err = lastgood(capsys, "check", str(file))
    assert code == 2
    last = err.strip().splitlines()[-1]
    assert re.match(r"error: \S+: not a table of requests: expected canonical records", last)
    assert "found columns order, price" in last
    assert "Traceback" not in err
