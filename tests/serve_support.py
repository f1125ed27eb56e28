"""`lastgood serve` as a process of its own, for tests."""

import json
import subprocess
import sys
from pathlib import Path

from waiting import HANG_S


class Service:
    """A process of the service; ends with the test."""

    def __init__(self, config: Path, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "lastgood", "serve", "--config", str(config), "--poll-s", "0.5"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert self.process.stdout is not None
        said = json.loads(self.process.stdout.readline())
        self.url, self.grpc, self.http = (
            f"http://127.0.0.1:{said['web']}",
            int(said["grpc"]),
            f"http://127.0.0.1:{said['http']}",
        )

    def end(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=HANG_S)
