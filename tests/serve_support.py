"""`lastgood serve` as a process of its own, for tests."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


class Service:
    """A process of the service; ends with the test."""

    def __init__(self, config: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "lastgood", "serve", "--config", str(config), "--poll-s", "0.5"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.url, self.grpc = f"http://127.0.0.1:{said['web']}", int(said["grpc"])

    def end(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)


def until(done: Callable[[], bool], what: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.2)
