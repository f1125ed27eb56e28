"""`lastgood check` as a user runs it, on tables of their own."""

import json
import random
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.json as pj
import pyarrow.parquet as pq
import pytest
from cli_support import lastgood
from conftest import SPARK_FOR_TESTS

from benchmarks.check import make
from lastgood.cli.check import check
from lastgood.collectors.inference_tables import detect
from lastgood.dashboards.report import COLOURS, timeline, widened
from lastgood.errors import ConfigError
from lastgood.record.verdict import State
from lastgood.record.windows import Counts
from lastgood.settings import load


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


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        (["Timestamp", "version", "status"], "rename Timestamp to requested_at, version to model_version, status to status_code, and add endpoint"),
        (["endpoint", "model_version", "ts"], "rename ts to requested_at"),
        (["requested_at", "model_version", "status_code"], "; add endpoint"),
        (["a", "b"], "found columns a, b"),
    ],
)  # fmt: skip
def test_a_log_of_ones_own_is_told_which_columns_to_rename(columns: list[str], remedy: str) -> None:
    with pytest.raises(ConfigError) as refused:
        detect(columns)
    assert str(refused.value).endswith(remedy)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a table where version 3 fails and is asked longer questions."""
    folder = tmp_path_factory.mktemp("page")
    rng, rows = random.Random(4), []
    for i in range(4_800):
        new = i > 2_400 and rng.random() < 0.5
        failed = rng.random() < (0.08 if new else 0.005)
        asked = f"Refund for jane.doe{i}@example.com " + "please " * rng.randint(1, 40 if i > 2_400 else 10)
        rows.append({
            "endpoint": "support", "model_version": "3" if new else "2", "request_id": f"r{i}", "latency_ms": rng.lognormvariate(5, 0.4),
            "requested_at": (datetime(2026, 1, 5, tzinfo=UTC) + timedelta(seconds=4 * i)).isoformat(),
            "error_code": "TIMEOUT" if failed else None, "input": asked, "output": None if failed else "It was made on Monday." if i % 9 else "",
        })  # fmt: skip
    file, out = folder / "rows.jsonl", folder / "report.html"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    check(str(file), load(storage=str(folder / "store")), html=out)
    return out.read_text()


def test_the_report_answers_first(page: str) -> None:
    """A sentence that says what to do, the figure it rests on, and its picture, before any table."""
    sentence, number, picture, table = (
        page.index(part) for part in ('class="headline"', 'class="number"', "<svg", "<table")
    )
    assert sentence < number < picture < table
    assert re.search(r"support: Put version 2 back\. Version 3 fails", page)
    assert re.search(r'class="number">\d+\.\d+%</b> errors of version 3; version 2: \d', page)


def test_the_report_stands_alone(page: str) -> None:
    assert len(page.encode()) < 150_000
    assert not re.search(r"<script|<link|src=|@import|url\((?!#)|javascript:", page)


def test_the_verdict_strip_shows_how_the_verdict_came_about(page: str) -> None:
    """Before there was enough of version 3 the judge could not know; then it did."""
    picture = page[page.index("<svg") : page.index("</svg>")]
    assert all(COLOURS[state] in picture for state in (State.INCONCLUSIVE, State.ROLL_BACK))


def test_failing_and_odd_requests_are_shown_redacted(page: str) -> None:
    assert "failed: TIMEOUT" in page
    assert "answer: empty" in page
    assert "[EMAIL]" in page
    assert "example.com" not in page


def test_drift_is_told_in_words_with_a_bar_and_drawn(page: str) -> None:
    assert re.search(r"(clearly|very) different <b>drifted</b></td><td><svg class=\"bar\"", page)
    assert "input_chars: version 3 against the day before it came" in page
    assert 'class="theirs"' in page


def test_a_point_rests_on_enough_requests() -> None:
    """15 requests a minute become windows of five minutes; no request is lost, and a short table is left as it is."""
    start = datetime(2026, 1, 5, tzinfo=UTC)
    minutes = [Counts("e", "1", "", start + timedelta(minutes=i), 15, 15.0) for i in range(120)]
    wide = widened(minutes)
    assert {window.start.minute % 5 for window in wide} == {0}
    assert sum(window.requests for window in wide) == sum(window.requests for window in minutes)
    assert widened(minutes[:5]) == minutes[:5]


def test_a_single_request_has_an_axis_of_an_hour_and_no_warning(tmp_path: Path) -> None:
    """matplotlib drew years around it, and said so on the terminal."""
    file, out = tmp_path / "tiny.csv", tmp_path / "report.html"
    heads = "endpoint,model_version,request_id,requested_at,latency_ms,error_code"
    file.write_text(f"{heads}\nchat,1,a,2026-11-01T12:00:00Z,100,\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check(str(file), load(storage=str(tmp_path / "store")), html=out)
    report = out.read_text()
    assert "11:30" in report and "12:30" in report and "2028" not in report


def test_the_axis_shows_all_moments_where_a_metric_knows_a_single_one() -> None:
    """One answer was judged in an hour of windows: matplotlib saw a single moment, drew years around it and warned."""
    start = datetime(2026, 1, 5, tzinfo=UTC)
    windows = [Counts("e", "1", "", start + timedelta(minutes=i), 15, 15.0) for i in range(60)]
    windows[30] = replace(windows[30], quality={"answers": 10.0, "bad": 1.0})
    drawn = timeline(windows, (), [(start + timedelta(minutes=50), "deployed")], panels=["bad_answers"])
    assert "00:30" in drawn and "2020" not in drawn


def test_an_axis_of_any_length_has_its_ticks_without_a_warning() -> None:
    """For 2.5 to 5 minutes, hours and days matplotlib had no step and warned: a demo of three minutes ended with a traceback."""
    start = datetime(2026, 1, 5, tzinfo=UTC)
    lengths = [timedelta(seconds=1.5**power) for power in range(6, 49)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for length in lengths:
            windows = [Counts("e", "1", "", start + length * i / 10, 15, 15.0, errors={"503": 3.0}) for i in range(11)]
            assert "<svg" in timeline(windows, (), [(start, "deployed")], panels=["error_rate"])
