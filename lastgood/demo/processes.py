"""The demo's parts as processes of their own: start, read their JSON lines, notice their death, end them."""

import contextlib
import json
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

import psutil

from lastgood.errors import TransientError


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Process:
    """A part of Lastgood in a process of its own; its JSON lines are read as they come, its log goes to a file."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name, self._log = log.stem, log
        self._file: IO[bytes] = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._file,
            env=environment,
            text=True,
        )
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            with contextlib.suppress(ValueError):
                self.lines.put(json.loads(line))

    def alive(self) -> None:
        """Errors: TransientError with the end of its log when it has died."""
        if self.process.poll() is not None:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
            raise TransientError(
                f"the {self.name} process ended with {self.process.returncode}; {self._log} ends:\n{tail}"
            )

    def ready(self, timeout_s: float) -> dict[str, Any]:
        """The first line it prints."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                return self.lines.get(timeout=0.2)
            self.alive()
        raise TransientError(f"the {self.name} process was not ready after {timeout_s:.0f} s; see {self._log}")

    def end(self, timeout_s: float = 60) -> None:
        """SIGTERM, and SIGKILL where that takes too long."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(timeout_s)
        if self.process.stdout and not self._reader.is_alive():
            self.process.stdout.close()
        self._file.close()


def resident_mb() -> float:
    """Resident memory of this process and all its children, MiB."""
    own, total = psutil.Process(), 0
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20
