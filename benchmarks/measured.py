"""A command's wall time, CPU time and peak memory, its children included."""

import contextlib
import os
import platform
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO

import psutil


@dataclass(frozen=True)
class Cost:
    """Seconds and MiB (sum of resident sizes of the process tree, so shared pages count more than once).

    A child that was forked a moment ago and is not yet a program of its own has its parent's address space and is not counted: a JVM
    that runs `chmod` would be two.
    """

    wall_s: float
    cpu_s: float
    peak_rss_mb: float


def run(command: Sequence[str], stdout: IO[bytes] | None = None) -> Cost:
    """Run to the end. Errors: CalledProcessError when it fails."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=stdout)
    meter = Meter(process.pid)
    while process.poll() is None:
        meter.sample()
        time.sleep(0.2)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(round(time.monotonic() - started, 1), round(meter.cpu_s, 1), round(meter.peak))


def machine() -> str:
    """What committed results say they were measured on."""
    memory = psutil.virtual_memory().total / 2**30
    return f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Meter:
    """CPU seconds and peak memory of a process and its children, sampled."""

    def __init__(self, pid: int) -> None:
        self._root, self._cpu, self.peak = psutil.Process(pid), dict[int, float](), 0.0
        self.now = [0.0]

    def sample(self) -> None:
        """`now` becomes the MiB of the process and of each of its children, of those with one address space once (see Cost)."""
        found: dict[int, float] = {}
        with contextlib.suppress(psutil.Error):
            for one in (self._root, *self._root.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = one.cpu_times()
                    self._cpu[one.pid] = times.user + times.system
                    size = one.memory_info()
                    found[size.vms] = size.rss / 2**20
        self.now = list(found.values())
        self.peak = max(self.peak, sum(self.now))

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu.values())
