"""The whole of Lastgood, as a newcomer starts it: processes, HTTP, Spark, a bad version."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import SPARK_FOR_TESTS
from soak import seed
from waiting import HANG_S


def demo(folder: Path, *options: str) -> dict[str, Any]:
    outcome = folder / "outcome.json"
    command = [
        sys.executable,
        "-m",
        "lastgood",
        "demo",
        "--out",
        str(folder / "demo"),
        "--json",
        str(outcome),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    told: dict[str, Any] = json.loads(outcome.read_text())
    return told


ENDS = {
    "errors": True, "latency": True, "quality": True, "none": False, "drift": False, "stale-features": False,
}  # fmt: skip
"""Fault -> whether version 3 is guilty, so that its traffic moves back."""


@pytest.mark.soak
@pytest.mark.usefixtures("java")
@pytest.mark.parametrize("fault", ENDS)
def test_a_guilty_version_is_rolled_back_by_itself_and_another_is_left_alone(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the suite test_whole.py plays the errors, with a person; the other faults are the judge's tests there."""
    for name in SPARK_FOR_TESTS:
        monkeypatch.delenv(name)
    told = demo(tmp_path, "--fault", fault, "--seed", str(seed(7) % 10_000))
    assert told["rolled_back"] is ENDS[fault], told
    assert told["requests_lost"] == 0
    assert told["spans"] == told["requests"] > 0
    assert told["inference_rows"] == told["inference_rows_logged"] > 0
    if ENDS[fault]:
        assert (told["bad_version"], told["serving_version"], told["verdict"]) == ("3", "2", "RollBack")
        assert told["first_bad_request_at"] < told["verdict_at"] < told["rolled_back_at"] < told["verified_at"]


def test_an_unknown_fault_is_one_sentence() -> None:
    command = [sys.executable, "-m", "lastgood", "demo", "--fault", "gremlins"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --fault gremlins: expected one of")
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("java")
def test_two_at_once_interrupted_twice_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SPARK_FOR_TESTS:
        monkeypatch.delenv(name)
    command = [sys.executable, "-m", "lastgood", "demo", "--port", "0"]
    demos = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    addresses = {next(line for line in demo.stdout or () if line.startswith("watch it live: ")) for demo in demos}
    assert len(addresses) == 2
    parts = [part for demo in demos for part in psutil.Process(demo.pid).children(recursive=True)]
    for number in (signal.SIGINT, signal.SIGTERM):
        for demo in demos:
            demo.send_signal(number)
    for demo in demos:
        demo.communicate()
    _, alive = psutil.wait_procs(parts, timeout=HANG_S)
    assert not alive
    assert list(tmp_path.iterdir()) == []
