"""Canonical requests in a Delta table, as the jobs' benchmarks need them: rows by the day, seeded."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lastgood import tables
from lastgood.record.telemetry import arrow_schema
from lastgood.tables import delta

START = datetime(2026, 1, 5, tzinfo=UTC)
CHUNK = 500_000
Strings = npt.NDArray[np.str_]


def requests(n: int, first: int, start: datetime, seconds: float, seed: int, features: int = 0) -> pa.Table:
    """`n` rows by time: 4 endpoints, 2 versions, 2,000 requesters, 2% errors; bodies not captured; `features` tabular inputs."""
    rng = np.random.default_rng(seed)
    micros = int(start.timestamp() * 1e6) + np.sort(rng.random(n) * seconds * 1e6).astype(np.int64)
    failed = rng.random(n) < 0.02
    latency, out = rng.lognormal(6, 0.6, n), rng.integers(1, 800, n)
    made = {
        "endpoint": np.array(["chat", "search", "rank", "summary"])[rng.integers(4, size=n)],
        "request_id": pa.array(np.char.add("r", np.arange(first, first + n).astype(str))),
        "model_version": np.array(["6", "7"])[rng.integers(2, size=n)],
        "requested_at": pa.array(micros, pa.timestamp("us", "UTC")),
        "latency_ms": latency, "latency_scope": pa.repeat("client", n), "ttft_ms": latency * rng.uniform(0.05, 0.3, n),
        "tokens_in": rng.integers(20, 3000, n), "tokens_out": pa.array(out, mask=failed),
        "status_code": pa.array(np.where(failed, 500, 200), pa.int32()), "feature_age_ms": rng.lognormal(12, 1, n),
        "error_code": pa.array(np.where(rng.random(n) < 0.7, "HTTP_500", "TIMEOUT"), mask=~failed),
        "requester": np.char.add("user-", np.minimum(rng.zipf(1.3, n), 2000).astype(str)), "weight": np.ones(n),
        "sources": pa.array([["otlp"]]).take(pa.array(np.zeros(n, np.int64))),
        "received_at": pa.array(micros + 2_000_000, pa.timestamp("us", "UTC")), "provenance": pa.repeat("0", n),
    }  # fmt: skip
    if features:
        names = np.tile([f"x{i}" for i in range(features)], n)
        values = np.round(rng.normal(size=n * features), 4).astype(str)
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * features)
        made["features"] = pa.MapArray.from_arrays(offsets, pa.array(names), pa.array(values))
    schema = arrow_schema(tables.REQUESTS.fields)
    columns = [pa.array(made[f.name]).cast(f.type) if f.name in made else pa.nulls(n, f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def fill(
    store: tables.Store, days: int, per_day: int, first_day: int = 0, made: Callable[..., pa.Table] = requests
) -> Path:
    """Append days of requests, in commits of at most CHUNK rows."""
    path = Path(store.path(tables.REQUESTS))
    for day in range(first_day, first_day + days):
        parts = -(-per_day // CHUNK)
        for part in range(parts):
            n = per_day // parts
            begin = START + timedelta(days=day, seconds=86_400 * part / parts)
            delta.append(path, made(n, (day * parts + part) * n, begin, 86_400 / parts, seed=day * 1000 + part))
    return path
