"""Requests -> per version and hour the KEEP answered ones with the smallest hashes of their id (pure), without Spark.

`jobs/samples.py` draws the same rows with Spark: what is sorted and cut by group is an engine's work. The hash is Spark's xxhash64 of a
text (XXH64, seed 42), so that both keep the same requests; tests/spark/test_onemachine.py holds them together.
"""

from collections.abc import Mapping, Sequence

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
        """Rows of `samples` from the next requests. Failed requests and those of no known version have nothing to compare."""
        usable = pc.and_(pc.is_null(requests["error_code"]), pc.is_valid(requests["model_version"]))
        at = np.flatnonzero(usable.to_numpy())
        hour = requests["requested_at"].cast(pa.int64()).to_numpy()[at] // HOUR_US
        endpoint, endpoints = codes(requests["endpoint"])
        version, versions = codes(requests["model_version"])
        keys, group = np.unique(np.stack([endpoint[at], version[at], hour]), axis=1, return_inverse=True)
        kept = [self._take(key, at[group == i], hashed, endpoints, versions) for i, key in enumerate(keys.T)]
        rows = np.sort(np.concatenate(kept)) if kept else np.zeros(0, np.int64)
        return shaped(requests.take(pa.array(rows)), hashed[rows])

    def _take(self, key: Sequence[int], rows: Ints, hashed: Ints, endpoints: pa.Array, versions: pa.Array) -> Ints:
        name = (endpoints[int(key[0])].as_py(), versions[int(key[1])].as_py(), int(key[2]))
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
