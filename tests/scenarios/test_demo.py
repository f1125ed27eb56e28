"""The whole of Lastgood, as a newcomer starts it: processes, HTTP, Spark, a bad version."""

import json
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
