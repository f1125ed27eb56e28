"""Requests -> per version and hour the KEEP answered ones with the smallest hashes of their id (pure), without Spark.

`jobs/samples.py` draws the same rows with Spark: what is sorted and cut by group is an engine's work. The hash is Spark's xxhash64 of a
text (XXH64, seed 42), so that both keep the same requests; tests/spark/test_onemachine.py holds them together.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh64_intdigest

from lastgood import tables
from lastgood.jobs.counting import codes
from lastgood.record.telemetry import arrow_schema

KEEP = 2_000
TEXT_CHARS = 1_000
SEED = 42
SCHEMA = arrow_schema(tables.SAMPLES.fields)
HOUR_US = 3_600_000_000
Ints = npt.NDArray[np.int64]


def hashes(ids: pa.Array) -> Ints:
    """Spark's xxhash64 of each text; 0 for null."""
    texts = ids.cast(pa.binary()).to_pylist()
    unsigned = [0 if text is None else xxh64_intdigest(text, SEED) for text in texts]
    return np.array(unsigned, np.uint64).view(np.int64)


def smallest(group: Ints, hashed: Ints, keep: int = KEEP) -> Ints:
    """Rows with the `keep` smallest hashes of each group; -1 is no group. In order of group and hash."""
    order = np.lexsort((hashed, group))
    order = order[group[order] >= 0]
    ordered = group[order]
    first = np.searchsorted(ordered, ordered, side="left")
    return order[np.arange(len(order)) - first < keep]


def shaped(answered: pa.Table, hashed: Ints) -> pa.Table:
    """Requests in the record's columns, with the hashes of their ids -> rows of `samples`."""
    at = answered["requested_at"].cast(pa.int64()).to_numpy()
    made = {
        "requested_at": answered["requested_at"].cast(SCHEMA.field("requested_at").type),
        "window_start": pa.array(at // HOUR_US * HOUR_US).cast(pa.timestamp("us", "UTC")),
        "hash": pa.array(hashed),
        "input_chars": pc.utf8_length(answered["input"]).cast(pa.int64()),
        "output_chars": pc.utf8_length(answered["output"]).cast(pa.int64()),
        "input": pc.utf8_slice_codeunits(answered["input"], 0, TEXT_CHARS),
        "output": pc.utf8_slice_codeunits(answered["output"], 0, TEXT_CHARS),
    }
    columns = [made[name] if name in made else answered[name] for name in SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


class Sampler:
    """Rows that may be among the KEEP smallest of their version and hour, batch by batch; holds hashes, no rows."""

    def __init__(self, keep: int = KEEP) -> None:
        self.keep = keep
        self._held: dict[tuple[str, str, int], Ints] = {}

    def take(self, requests: pa.Table, hashed: Ints) -> pa.Table:
        """Rows of `samples` from the next requests."""
        rows = self.rows(requests, hashed)
        return shaped(requests.take(pa.array(rows)), hashed[rows])

    def rows(self, requests: pa.Table, hashed: Ints) -> Ints:
        """Which of the next requests. Failed ones and those of no known version have nothing to compare."""
        usable = pc.and_(pc.is_null(requests["error_code"]), pc.is_valid(requests["model_version"]))
        at = np.flatnonzero(usable.to_numpy())
        hour = requests["requested_at"].cast(pa.int64()).to_numpy()[at] // HOUR_US
        endpoint, endpoints = codes(requests["endpoint"])
        version, versions = codes(requests["model_version"])
        first = int(hour.min(initial=0))
        width = int(hour.max(initial=0)) - first + 1
        cell = (endpoint[at] * max(1, len(versions)) + version[at]) * width + hour - first
        order = np.argsort(cell, kind="stable")
        starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
        kept = []
        for rows in np.split(at[order], starts[1:]):
            if len(rows):
                name = (endpoints[int(endpoint[rows[0]])].as_py(), versions[int(version[rows[0]])].as_py())
                stamp = requests["requested_at"][int(rows[0])].cast(pa.int64()).as_py() // HOUR_US
                kept.append(self._take((*name, stamp), rows, hashed))
        return np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)

    def _take(self, name: tuple[str, str, int], rows: Ints, hashed: Ints) -> Ints:
        before = self._held.get(name, np.zeros(0, np.int64))
        if len(before) == self.keep:
            rows = rows[hashed[rows] < before[-1]]
        both = np.sort(np.concatenate([before, hashed[rows]]))[: self.keep]
        self._held[name] = both
        return rows[hashed[rows] <= both[-1]] if len(both) else rows


def names(table: pa.Table, column: str, wanted: Mapping[str, int]) -> Ints:
    """The number of each row's text in `wanted`; -1 for others."""
    code, distinct = codes(table[column])
    number = np.array([*(wanted.get(name, -1) for name in distinct.to_pylist()), -1], np.int64)
    return number[code]
