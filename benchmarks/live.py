"""Real requests to an endpoint, all the time -> window counts in the windows table: what jobs would write, within a second."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pyarrow as pa

from lastgood import tables
from lastgood.record.telemetry import arrow_schema
from lastgood.record.windows import Counts, bucket
from lastgood.tables import delta


class Live:
    """`per_s` requests a second until `stop`; counts go by the served entity the answer names (`name-VERSION`)."""

    def __init__(self, url: str, token: str, endpoint: str, store: tables.Store, per_s: float = 40) -> None:
        self._client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=10)
        self._endpoint, self._path, self._per_s = endpoint, store.path(tables.WINDOWS), per_s
        self._seen: list[tuple[datetime, str, int, float]] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._send, self._count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)
        self._client.close()

    def _send(self) -> None:
        with ThreadPoolExecutor(8) as pool:
            while not self._stop.wait(1 / self._per_s):
                pool.submit(self._one)

    def _one(self) -> None:
        at, started = datetime.now(UTC), time.monotonic()
        answer = self._client.post(
            f"/serving-endpoints/{self._endpoint}/invocations", json={"prompt": "What is a list?"}
        )
        version = answer.headers.get("served-model-name", "?").rsplit("-", 1)[-1]
        with self._lock:
            self._seen.append((at, version, answer.status_code, (time.monotonic() - started) * 1000))

    def _count(self) -> None:
        """Every second's requests, once the second is over and its answers have come."""
        while not self._stop.wait(0.5):
            until = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=1)
            with self._lock:
                due = [one for one in self._seen if one[0] < until]
                self._seen = [one for one in self._seen if one[0] >= until]
            if due:
                write(self._path, counted(self._endpoint, due))


def write(path: str, counts: Sequence[Counts]) -> None:
    """Append counts to a windows table."""
    schema = arrow_schema(tables.WINDOWS.fields)
    rows = [vars(one) | {"window_start": one.start} for one in counts]
    named = [
        {k: list(v.items()) if isinstance(v, dict) else v for k, v in r.items() if k in schema.names} for r in rows
    ]
    delta.append(path, pa.Table.from_pylist(named, schema))


def counted(endpoint: str, seen: list[tuple[datetime, str, int, float]]) -> list[Counts]:
    """One Counts per second and version."""
    groups: dict[tuple[datetime, str], list[tuple[int, float]]] = {}
    for at, version, status, ms in seen:
        groups.setdefault((at.replace(microsecond=0), version), []).append((status, ms))
    found = []
    for (start, version), answers in groups.items():
        errors: dict[str, float] = {}
        latency: dict[int, float] = {}
        for status, ms in answers:
            if status != 200:
                errors[str(status)] = errors.get(str(status), 0.0) + 1
            latency[bucket(ms)] = latency.get(bucket(ms), 0.0) + 1
        n = len(answers)
        found.append(Counts(endpoint, version, "client/64", start, n, float(n), errors, latency))
    return found
