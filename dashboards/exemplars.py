"""Requests as the receiver commits them -> the newest trace of each latency bucket, for OpenMetrics exemplars."""

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client.samples import Exemplar

from lastgood.record.exported import BUCKETS_S

MAX_VERSIONS = 10_000
EDGES = np.array([*BUCKETS_S, math.inf])
Version = tuple[str, str]


@dataclass
class Exemplars:
    """`take` is a receiver's sink (any thread); `of` gives upper edge in seconds -> exemplar of one version."""

    _found: dict[Version, dict[float, Exemplar]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, table: pa.Table) -> None:
        """Remember the last request of each endpoint, version and bucket in a commit (inbox columns)."""
        names = ("endpoint", "model_version", "trace_id", "latency_ms", "requested_at")
        rows = table.select(names)
        rows = rows.filter(pc.and_(pc.is_valid(rows["trace_id"]), pc.is_finite(rows["latency_ms"])))
        if not rows.num_rows:
            return
        bucket = np.searchsorted(EDGES, rows["latency_ms"].to_numpy() / 1000)
        keys = rows.select(names[:2]).append_column("bucket", pa.array(bucket))
        last = keys.append_column("row", pa.array(np.arange(rows.num_rows))).group_by(
            ["endpoint", "model_version", "bucket"]
        )
        index = last.aggregate([("row", "max")])["row_max"]
        with self._lock:
            if len(self._found) > MAX_VERSIONS:  # names come from senders
                self._found.clear()
            for row, edge in zip(rows.take(index).to_pylist(), EDGES[bucket[index.to_numpy()]], strict=True):
                labels = {"trace_id": row["trace_id"]}
                made = Exemplar(
                    labels, row["latency_ms"] / 1000, row["requested_at"] and row["requested_at"].timestamp()
                )
                self._found.setdefault((row["endpoint"], row["model_version"] or "?"), {})[float(edge)] = made

    def of(self, version: Version) -> Mapping[float, Exemplar]:
        with self._lock:
            return dict(self._found.get(version, {}))
