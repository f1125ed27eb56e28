"""The whole of Lastgood, as a newcomer starts it: processes, HTTP, Spark, a bad version."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


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
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(outcome.read_text())
    return found


@pytest.mark.usefixtures("java")
def test_a_failing_version_is_rolled_back_and_nothing_is_lost(tmp_path: Path) -> None:
    found = demo(tmp_path, "--fault", "errors", "--mode", "approve")
    assert found["rolled_back"], found
    assert (found["bad_version"], found["serving_version"], found["verdict"]) == ("3", "2", "RollBack")
    assert found["first_bad_request_at"] < found["verdict_at"] < found["rolled_back_at"] < found["verified_at"]
    assert "fails" in found["reason"]
    assert found["requests_lost"] == 0
    assert found["spans"] == found["inference_rows"] == found["requests"] > 0
    page = Path(found["report"]).read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["']?http|<script|@import""", page), "the report must load nothing"


@pytest.mark.usefixtures("java")
def test_a_healthy_version_is_left_alone(tmp_path: Path) -> None:
    found = demo(tmp_path, "--fault", "none")
    assert not found["rolled_back"], found
    assert found["verdict"] in ("Healthy", "Inconclusive"), found
    assert found["requests_lost"] == 0


def test_an_unknown_fault_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lastgood", "demo", "--fault", "gremlins"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --fault gremlins: expected one of")
    assert "Traceback" not in done.stderr
