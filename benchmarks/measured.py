"""A command's wall time, CPU time and peak memory, its children included."""

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

import psutil


@dataclass(frozen=True)
class Cost:
    """Seconds and MiB (sum of resident sizes of the process tree, so shared pages count more than once)."""

    wall_s: float
    cpu_s: float
    peak_rss_mb: float


def run(command: Sequence[str], stdout: IO[bytes] | None = None) -> Cost:
    """Run to the end. Errors: CalledProcessError when it fails."""
    started, peak = time.monotonic(), 0.0
    cpu: dict[int, float] = {}
    process = subprocess.Popen(command, stdout=stdout)
    tree = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            members = (tree, *tree.children(recursive=True))
            peak = max(peak, sum(one.memory_info().rss for one in members) / 2**20)
            cpu |= {one.pid: sum(one.cpu_times()[:2]) for one in members}
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(round(time.monotonic() - started, 1), round(sum(cpu.values()), 1), round(peak))


def machine() -> str:
    """What committed results say they were measured on."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
