"""`lastgood judge`: files of every kind give the same answer, and bad ones one sentence."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from judge_support import requests, windows
from typer.testing import CliRunner

from lastgood import tables
from lastgood.cli.app import app
from lastgood.errors import ConfigError
from lastgood.judge import History, judge
from lastgood.judge.records import Records
from lastgood.record import telemetry
from lastgood.service.replay import evidence, records
from lastgood.settings import Policy
from lastgood.tables import delta
from lastgood.tables.files import moments, text


def table(given: Records) -> pa.Table:
    """Canonical records of two versions."""
    return pa.table(
        {
            "endpoint": ["chat"] * len(given.at),
            "model_version": [str(2 if a else 1) for a in given.arm],
            "requested_at": pa.array((given.at * 1e6).astype("int64"), pa.timestamp("us", tz="UTC")),
            "latency_ms": given.latency_ms,
            "error_code": pa.array(["HTTP_500" if c >= 0 else None for c in given.code]),
            "requester": [f"u{w}" for w in given.who],
            "tokens_in": given.tokens_in.astype("int64"),
            "tokens_out": given.tokens_out.astype("int64"),
        }
    )


def run(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def write(kind: str, given: pa.Table, folder: Path) -> Path:
    path = folder / f"records.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(given, path)
    elif kind == "csv":
        pyarrow.csv.write_csv(given, path)
    elif kind == "jsonl":
        given.to_pandas().to_json(path, orient="records", lines=True, date_format="iso", date_unit="us")
    else:
        delta.append(path, given)
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl", "delta"])
def test_every_kind_of_file_gives_the_same_changes(kind: str, tmp_path: Path) -> None:
    given = table(requests(1, minutes=40, errors=6, onset=15))
    told = []
    for one in ("parquet", kind):
        out = tmp_path / f"{one}.json"
        code, shown = run(
            "judge",
            "replay",
            write(one, given, tmp_path),
            "--endpoint",
            "chat",
            "--new",
            "2",
            "--prior",
            "1",
            "--json",
            out,
        )
        told.append(json.loads(out.read_text()))
        assert code == 0
        assert "RollBack: version 2 fails" in " ".join(shown.split())
    assert [(c["time"], c["verdict"], c["reason"]) for c in told[0]] == [
        (c["time"], c["verdict"], c["reason"]) for c in told[1]
    ]
    last = told[0][-1]
    assert last["verdict"] == "RollBack"
    assert datetime.fromisoformat(last["time"]) > datetime.fromisoformat(last["since"])
    assert last["e_values"]["errors"] > 100


def test_least_columns_are_enough_and_healthy_history_is_left_alone(tmp_path: Path) -> None:
    given = table(requests(2, minutes=30)).select(
        ["endpoint", "model_version", "requested_at", "latency_ms", "error_code"]
    )
    out = tmp_path / "out.json"
    run(
        "judge",
        "replay",
        write("csv", given, tmp_path),
        "--endpoint",
        "chat",
        "--new",
        "2",
        "--prior",
        "1",
        "--json",
        out,
    )
    assert "RollBack" not in {one["verdict"] for one in json.loads(out.read_text())}


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_window_counts_are_replayed_like_the_records_they_were_made_of(kind: str, tmp_path: Path) -> None:
    given = requests(1, minutes=40, errors=6, onset=15)
    rows = [
        {name: getattr(one, name) for name in ("endpoint", "model_version", "stratum", "rows", "requests", "tokens_in")}
        | {"window_start": one.start, "error_requesters": list(one.error_requesters)}
        | {name: list(getattr(one, name).items()) for name in ("errors", "latency", "length", "pace", "failed_latency", "callers")}
        for one in windows(given)
    ]  # fmt: skip
    kept = [one for one in tables.WINDOWS.fields if one.name in rows[0]]
    path = write(kind, pa.Table.from_pylist(rows, telemetry.arrow_schema(kept)), tmp_path)
    told = []
    for one, more in ((path, ()), (write("csv", table(given), tmp_path), ("--window", 60))):
        out = tmp_path / "out.json"
        assert run("judge", "replay", one, "--endpoint", "chat", *more, "--json", out)[0] == 0
        told.append(json.loads(out.read_text()))
    assert [one["verdict"] for one in told[0]] == [one["verdict"] for one in told[1]]
    assert [one["time"] for one in told[0]] == [one["time"] for one in told[1]]
    assert told[0][-1]["verdict"] == "RollBack"
    assert told[0][-1]["e_values"] == pytest.approx(told[1][-1]["e_values"])


def test_requesters_that_are_blank_are_nobody_and_codes_below_400_are_no_failures() -> None:
    given = table(requests(2, minutes=2))
    who = pa.array(["", "-", "null"] * (len(given) // 3))
    codes = pa.array(["200", "302", "ok"] * (len(given) // 3))
    given = given.set_column(5, "requester", who).set_column(4, "error_code", codes)
    found = records(given, "chat", "2", "1")
    assert set(found.who) == set(found.code) == {-1}
    assert set(records(given.set_column(4, "error_code", pa.array(["404"] * len(given))), "chat", "2", "1").code) == {0}


def test_the_band_around_a_quantile_is_in_the_trail_and_in_the_sentence(tmp_path: Path) -> None:
    path = write("parquet", table(requests(1, minutes=40, latency=1.6)), tmp_path)
    given = evidence(path, "chat", "2", "1", 60, Policy())
    said = judge(given, Policy(), History(), given.windows.until(39))
    value, low, high = said.figures["trail"]["quantiles"]["latency p95"]["new"]
    assert low < value < high < 2 * low
    assert "version 2 has p95 latency" in said.reason
    assert " ms (between " in said.reason


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.set_column(1, "model_version", pa.array(["7"] * len(t))), "two versions are compared, found 7"),
        (lambda t: t.drop_columns(["requested_at"]), "no column requested_at"),
        (lambda t: t.set_column(1, "model_version", pa.array(["7"] * len(t))), "version 2 and 1 wanted, found 7"),
        (lambda t: t.set_column(3, "latency_ms", pa.array(["fast"] * len(t))), "latency_ms: expected numbers"),
        (lambda t: t.set_column(2, "requested_at", pa.array(["noon"] * len(t))), "requested_at: expected times"),
    ],
)
def test_a_wrong_file_is_one_sentence(change: Any, said: str, tmp_path: Path) -> None:
    path = write("parquet", change(table(requests(3, minutes=1))), tmp_path)
    with pytest.raises(ConfigError, match=said):
        named = () if "two versions" in said else ("--new", "2", "--prior", "1")
        run("judge", "replay", path, "--endpoint", "chat", *named)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        run("judge", "replay", tmp_path / "none.parquet", "--endpoint", "chat", "--new", "2", "--prior", "1")


def test_times_are_read_in_every_unit_and_versions_as_numbers() -> None:
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    seconds = at.timestamp()
    for column in (
        pa.chunked_array([[seconds]]), pa.chunked_array([[int(seconds * 1e3)]]), pa.chunked_array([[int(seconds * 1e6)]]),
        pa.chunked_array([[at]]), pa.chunked_array([[at.isoformat()]]),
    ):  # fmt: skip
        assert moments(column).tolist() == [seconds]
    for column in ([2.0, None], [2, None], ["2 ", "-"], [2.0, float("nan")]):
        index, names = text(pa.chunked_array([column]))
        assert (index.tolist(), names) == ([0, -1], ["2"])


def test_windows_before_the_new_version_came_are_left_out(tmp_path: Path) -> None:
    given = requests(4, minutes=30)
    late = given.take((given.arm == 0) | (given.at > given.at.min() + 600))
    path = write("parquet", table(late), tmp_path)
    cols = evidence(path, "chat", "2", "1", 60, Policy()).windows
    assert len(cols.times) == 20
    assert cols.callers.t.min() == 0


def test_calibrate_says_the_rate_with_its_interval(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    path = write("parquet", table(requests(5, minutes=15)), tmp_path)
    code, shown = run("judge", "calibrate", path, "--endpoint", "chat", "--splits", "20", "--json", out)
    assert code == 0
    found = json.loads(out.read_text())
    assert set(found) == {"request", "requester"}
    assert all(one["rollbacks"] == 0 and one["high"] > 0 for one in found.values())
    assert "too few splits to tell" in " ".join(shown.split())


def test_calibrate_says_when_pods_are_too_few_for_the_splits_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    given = requests(5, minutes=5, pods=3)
    path = write("parquet", table(given).append_column("pod", [[f"pod-{one}" for one in given.pod]]), tmp_path)
    code, shown = run("judge", "calibrate", path, "--endpoint", "chat", "--splits", "60", "--json", out)
    assert code == 0
    assert json.loads(out.read_text())["pod"]["splits"] == 6
    assert "by pod: only 6 distinct splits of 3 pods exist" in " ".join(shown.split())
    assert "by requester: only" not in shown


def test_power_says_how_long_and_draws_it(tmp_path: Path) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "power.png"
    code, shown = run(
        "judge", "power", "--per-minute", 600, "--minutes", 60, "--runs", 30, "--json", out, "--plot", plot
    )
    assert code == 0
    found = json.loads(out.read_text())
    assert found["errors x4"]["within"] == 1.0
    assert found["errors x4"]["median"] < found["errors x2"]["median"] or found["errors x2"]["median"] is None
    assert "nine times in ten" in shown
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert json.loads(out.read_text())["latency x1.3"]["median"] <= 6
