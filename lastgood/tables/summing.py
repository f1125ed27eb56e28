"""Rows of a table in Arrow -> sums by group, maps summed key by key."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa


def lists(rows: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    """The columns' values, row by row."""
    return zip(*(rows[name].to_pylist() for name in names), strict=True)


def sums(rows: pa.Table, name: str, by: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """(the group's values, key, sum) of a column of maps from a key to a number. A map that is null is empty."""
    column = rows[name].combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts, first = [], 0
    for chunk in chunks:
        offsets = chunk.offsets.to_numpy()
        count = int(offsets[-1] - offsets[0])
        at = pa.array(np.repeat(np.arange(first, first + len(chunk)), np.diff(offsets)))
        keys, weights = (side.slice(offsets[0], count) for side in (chunk.keys, chunk.items))
        groups = {group: rows[group].combine_chunks().take(at) for group in by}
        parts.append(pa.table(groups | {"key": keys, "weight": weights}))
        first += len(chunk)
    if parts:
        summed = pa.concat_tables(parts).group_by([*by, "key"]).aggregate([("weight", "sum")])
        yield from lists(summed, *by, "key", "weight_sum")
