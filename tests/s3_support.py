"""An S3 server for tests: its address, an empty bucket each time, what is asked of it, and its faults."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

OWN = {"AWS_ACCESS_KEY_ID": "owner", "AWS_SECRET_ACCESS_KEY": "owner-secret"}


@dataclass(frozen=True)
class S3:
    """A running server. `options` reach it without keys, `own` with the owner's."""

    url: str

    @property
    def options(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}

    @property
    def own(self) -> dict[str, str]:
        return self.options | OWN

    def bucket(self) -> str:
        """The address of a new bucket."""
        import boto3

        name = f"lg{uuid.uuid4().hex[:12]}"
        keys = {"aws_access_key_id": OWN["AWS_ACCESS_KEY_ID"], "aws_secret_access_key": OWN["AWS_SECRET_ACCESS_KEY"]}
        boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", **keys).create_bucket(Bucket=name)
        return f"s3://{name}"

    def asked(self) -> list[dict[str, Any]]:
        """Requests since the last call of this."""
        told: list[dict[str, Any]] = httpx.get(f"{self.url}/_gate", timeout=30).json()
        return told

    def fail(self, *rules: dict[str, Any]) -> None:
        """Put these faults in force, in place of earlier ones."""
        httpx.put(f"{self.url}/_gate", json={"rules": rules}, timeout=30).raise_for_status()


@contextmanager
def s3_server() -> Iterator[S3]:
    """Serve until the block ends."""
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield S3(json.loads(process.stdout.readline())["url"])
        finally:
            process.stdin.close()
            process.terminate()
