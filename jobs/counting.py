"""Keyed requests -> window counts -> sums of window counts, as Arrow columns (pure): what Spark runs in its Python workers.

Both results have the columns of tables.WINDOWS, and sums of windows are windows: parts of a window counted apart, minutes of an hour
and hours of a day are added up by the same function.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import sha256

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.record.fault import FAULTS, fault
from lastgood.record.telemetry import KINDS, TOKENS, arrow_schema
from lastgood.record.windows import (
    CALLER_FACTS,
    CAP_REQUESTERS,
    GROWTH,
    KEPT_REQUESTERS,
    OUTSIDE,
    SIZE_EDGES,
    START_TOKENS,
    TINY,
    ZERO,
)

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
KEY = ("endpoint", "model_version", "stratum", "window_start")
HISTOGRAMS = {
    "latency": "latency_ms", "ttft": "ttft_ms", "feature_age": "feature_age_ms", "length": "tokens_out", "pace": "pace",
    "failed_latency": "latency_ms",
}  # fmt: skip
OF_SUCCESSES = ("ttft", "length", "pace")
SCHEMA = arrow_schema(tables.WINDOWS.fields)
ROWS = 250_000
"""Requests counted at once: enough to outweigh the cost of a call, little enough to stay in memory."""
GRAIN = 2.0**20
"""Weights are multiples of 1 / GRAIN, so that their sums do not depend on the order of adding (and are off by a millionth at most)."""
SCORE_GRAIN = 2.0**16
DENSE = 4
HASH_CHARS = 12
HOUR_US, BATCH = 3_600_000_000, 5_000
PACKED = "bucket bigint, part binary"


def sparse(k: Ints, key: Ints, weight: Floats | None) -> tuple[Ints, Ints, Floats]:
    """Sums of weight (None: 1 each) by (k, key), sorted by both."""
    if not len(k):
        return k, key, np.zeros(0)
    low = int(key.min())
    width = int(key.max()) - low + 1
    cell = k * width + (key - low)
    size = int(cell.max()) + 1
    if size <= DENSE * len(cell) + 2**16:
        sums = np.bincount(cell, weight, size)
        cells = np.flatnonzero(sums)
        sums = sums[cells]
    elif weight is None:
        cells, sums = np.unique(cell, return_counts=True)
    else:
        cells, place = np.unique(cell, return_inverse=True)
        sums = np.bincount(place, weight)
    return cells // width, cells % width + low, sums.astype(np.float64)


def codes(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """(number of its value per row, -1 for null; the values in order)."""
    encoded = (
        column.combine_chunks().dictionary_encode()
        if isinstance(column, pa.ChunkedArray)
        else column.dictionary_encode()
    )
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    rank = np.empty(len(order) + 1, np.int64)
    rank[order] = np.arange(len(order))
    rank[-1] = -1
    return rank[encoded.indices.fill_null(len(order)).to_numpy().astype(np.int64)], encoded.dictionary.take(order)


def grouped(table: pa.Table) -> tuple[Ints, dict[str, pa.Array]]:
    """(window number of every row, the key columns of the windows), windows in order of their key."""
    cell, radix, values = np.zeros(table.num_rows, np.int64), [], []
    for name in KEY:
        code, distinct = codes(table[name])
        cell = cell * max(1, len(distinct)) + code
        radix.append(max(1, len(distinct)))
        values.append(distinct)
    cells, k = np.unique(cell, return_inverse=True)
    keys = {}
    for name, base, value in reversed(list(zip(KEY, radix, values, strict=True))):
        keys[name] = value.take(pa.array(cells % base))
        cells = cells // base
    return k.astype(np.int64), keys


def _numbers(table: pa.Table, name: str) -> Floats:
    """A numeric column; NaN for null."""
    column = table[name].combine_chunks()
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def buckets(values: Floats) -> tuple[Bools, Ints]:
    """(whether known and finite, windows.bucket) of each value."""
    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        index = np.floor(np.log(np.where(values > 0, values, 1.0)) / np.log(GROWTH)).astype(np.int64)
    return known, np.where(values > 0, index, ZERO)


def _offsets(k: Ints, many: int) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(np.bincount(k, minlength=many))]).astype(np.int32))


def _map(name: str, many: int, k: Ints, keys: pa.Array, items: pa.Array) -> pa.Array:
    """A map column: entries sorted by window."""
    kind = SCHEMA.field(name).type
    return pa.MapArray.from_arrays(_offsets(k, many), keys.cast(kind.key_type), items.cast(kind.item_type))


def _lists(values: Ints | Floats) -> pa.Array:
    """[n, m] -> n lists of m."""
    n, m = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(n + 1, dtype=np.int32) * m), pa.array(values.ravel()))


def _histogram(name: str, many: int, k: Ints, bucket: Ints, weight: Floats | None) -> pa.Array:
    """Buckets from the ZERO of values <= 0 to the highest; ZERO stands next to the others while adding."""
    zero = int(np.where(bucket == ZERO, 0, bucket).min(initial=0)) - 1
    at, key, sums = sparse(k, np.where(bucket == ZERO, zero, bucket), weight)
    return _map(name, many, at, pa.array(np.where(key == zero, ZERO, key)), pa.array(sums))


def _capped(k: Ints, many: int, cap: int) -> Bools:
    """The first `cap` entries of each window, of entries sorted by window."""
    start = np.concatenate([[0], np.cumsum(np.bincount(k, minlength=many))])
    return np.asarray(np.arange(len(k)) - start[k] < cap)


def vectors(k: Ints, key: Ints, values: Ints | Floats, many: int, names: pa.Array) -> pa.Array:
    """Vectors [n, m], added up by (window, key): a map per window from name (in order) to m sums; the first CAP_REQUESTERS are kept."""
    size = max(1, len(names))
    cells, place = np.unique(k * size + key, return_inverse=True)
    total = np.stack([np.bincount(place, column, len(cells)) for column in values.T], axis=1)
    kept = _capped(cells // size, many, CAP_REQUESTERS)
    cells, total = cells[kept], total[kept].astype(values.dtype)
    return pa.MapArray.from_arrays(_offsets(cells // size, many), names.take(pa.array(cells % size)), _lists(total))


def add_vectors(column: pa.ChunkedArray, k: Ints, many: int, width: int) -> pa.Array:
    """A column of such maps, several rows of a window -> one of each."""
    parent, key, item = entries(column)
    code, names = codes(key)
    return vectors(k[parent], code, item.flatten().to_numpy().reshape(-1, width), many, names)


def _first(k: Ints, code: Ints, many: int, names: pa.Array) -> pa.Array:
    """The first KEPT_REQUESTERS distinct names of each window."""
    at, key, _ = sparse(k, code, None)
    kept = _capped(at, many, KEPT_REQUESTERS)
    return pa.ListArray.from_arrays(_offsets(at[kept], many), names.take(pa.array(key[kept])))


@lru_cache(maxsize=100_000)
def _hash(requester: str) -> str:
    return sha256(requester.encode()).hexdigest()[:HASH_CHARS]


def hashed(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """`codes` of the hashes of requesters, with '?' as the last value (its number for null)."""
    code, names = codes(column)
    distinct, at = np.unique([_hash(name) for name in names.to_pylist()] + ["?"], return_inverse=True)
    return at.astype(np.int64)[code], pa.array(distinct.tolist())


def strata(scope: pa.ChunkedArray, tokens: Floats) -> pa.Array:
    """windows.stratum of each request, from its latency scope and the length of its prompt (NaN: not known)."""
    code, scopes = codes(scope)
    names = [*(str(edge) for edge in SIZE_EDGES), "more", "?"]
    size = np.where(np.isnan(tokens), len(names) - 1, np.searchsorted(SIZE_EDGES, tokens, side="right"))
    known = [scope or "?" for scope in [*scopes.to_pylist(), None]]
    pairs = pa.array([f"{scope}/{name}" for scope in known for name in names])
    place = np.where(code < 0, len(known) - 1, code) * len(names) + size
    return pa.DictionaryArray.from_arrays(pa.array(place.astype(np.int32)), pairs)


def count(requests: pa.Table) -> pa.Table:
    """Requests with endpoint, model_version, window_start, latency_scope, size (tokens of the prompt), weight,
    latency_ms, ttft_ms, feature_age_ms, tokens_in, tokens_out and the KINDS of both, error_code, requester and
    scores (a map of names to values) -> windows.
    """
    requests = requests.append_column("stratum", strata(requests["latency_scope"], _numbers(requests, "size")))
    k, keys = grouped(requests)
    many = len(keys["endpoint"])
    weight = np.nan_to_num(_numbers(requests, "weight"), nan=1.0)
    weight = np.maximum(np.round(weight * GRAIN), 1.0) / GRAIN
    even = None if bool((weight == 1.0).all()) else weight
    out = _numbers(requests, "tokens_out")
    values = {name: _numbers(requests, name) for name in ("latency_ms", "ttft_ms", "feature_age_ms")} | {
        "tokens_out": out
    }
    values["pace"] = values["latency_ms"] / (out + START_TOKENS)
    made: dict[str, pa.Array] = dict(keys)
    made["rows"] = pa.array(np.bincount(k, minlength=many))
    made["requests"] = pa.array(np.bincount(k, weight, many))
    for kind in KINDS:
        made[f"tokens_{kind}"] = pa.array(
            np.bincount(k, np.nan_to_num(_numbers(requests, f"tokens_{kind}")) * weight, many)
        )
    for name, tokens in {"tokens_in": _numbers(requests, "tokens_in"), "tokens_out": out}.items():
        made[name] = pa.array(np.bincount(k, np.nan_to_num(tokens) * weight, many))
        made[name.replace("tokens", "told")] = pa.array(np.bincount(k, ~np.isnan(tokens) * weight, many))
    error, names = codes(requests["error_code"])
    failed = error >= 0
    placed = {}
    for name, column in HISTOGRAMS.items():
        known, bucket = placed[name] = buckets(values[column])
        known = known & failed if name == "failed_latency" else known & ~failed if name in OF_SUCCESSES else known
        made[name] = _histogram(name, many, k[known], bucket[known], None if even is None else even[known])
    at, code, sums = sparse(k[failed], error[failed], weight[failed])
    made["errors"] = _map("errors", many, at, names.take(pa.array(code)), pa.array(sums))
    who, people = hashed(requests["requester"])
    made["error_requesters"] = _first(k[failed], who[failed], many, people)
    facts = np.zeros((len(k), CALLER_FACTS), np.int64)
    facts[:, 0] = 1
    classes = np.array([FAULTS.index(fault(name)) for name in names.to_pylist()] or [0])
    facts[np.flatnonzero(failed), 1 + classes[error[failed]]] = 1
    known, bucket = placed["latency"]
    timed = known & ~failed & (bucket != ZERO)
    mark = np.where(timed, bucket, 0)
    facts[:, -3], facts[:, -2], facts[:, -1] = timed, mark, mark * mark
    named = np.asarray(requests["requester"].is_valid().to_numpy())
    made["callers"] = vectors(k[named], who[named], facts[named], many, people)
    made["scores"], made["score_callers"] = _count_scores(requests["scores"], k, many, np.where(named, who, -1), people)
    return pa.Table.from_arrays([made[name].cast(SCHEMA.field(name).type) for name in SCHEMA.names], schema=SCHEMA)


def _count_scores(
    column: pa.ChunkedArray, k: Ints, many: int, who: Ints, people: pa.Array
) -> tuple[pa.Array, pa.Array]:
    """(scores, score_callers); who: number of the requester in `people`, -1 where not known."""
    parent, names, items = entries(column)
    value = np.asarray(items.to_numpy(zero_copy_only=False), np.float64)
    good = np.isfinite(value)
    outside = good & ((value < -TINY) | (value > 1 + TINY))
    value = np.where(outside[good], 0.0, np.round(np.clip(value[good], 0.0, 1.0) * SCORE_GRAIN) / SCORE_GRAIN)
    if outside.any():
        named_outside = pc.binary_join_element_wise(pa.scalar(OUTSIDE), names, "")
        names = pc.if_else(pa.array(outside), named_outside, names)
    code, distinct = codes(names)
    sums = np.stack([np.ones(len(value)), value, value * value], axis=1)
    at, named = parent[good], code[good]
    whole = vectors(k[at], named, sums, many, distinct)
    known = who[at] >= 0
    pair, place = np.unique(who[at][known] * max(1, len(distinct)) + named[known], return_inverse=True)
    owner, score = (part.tolist() for part in np.divmod(pair, max(1, len(distinct))))
    pairs = [f"{people[i]}/{distinct[j]}" for i, j in zip(owner, score, strict=True)]
    return whole, vectors(k[at][known], place.astype(np.int64), sums[known], many, pa.array(pairs, pa.string()))


def entries(column: pa.ChunkedArray) -> tuple[Ints, pa.Array, pa.Array]:
    """(row number, key, item) of every entry of a map column."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    array = array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
    offsets = array.offsets.to_numpy().astype(np.int64)
    parent = np.repeat(np.arange(len(array)), np.diff(offsets))
    first, many = int(offsets[0]) if len(offsets) else 0, len(parent)
    return parent, array.keys.slice(first, many), array.items.slice(first, many)


def add(windows: pa.Table) -> pa.Table:
    """Windows, several of a key -> one of each key."""
    k, keys = grouped(windows)
    many = len(keys["endpoint"])
    made: dict[str, pa.Array] = dict(keys)
    for name in ("rows", "requests", *TOKENS):
        made[name] = pa.array(np.bincount(k, np.nan_to_num(_numbers(windows, name)), many))
    for side in ("in", "out"):
        told, tokens = _numbers(windows, f"told_{side}"), _numbers(windows, f"tokens_{side}")
        before = np.where(
            tokens > 0, _numbers(windows, "requests"), 0.0
        )  # counted before this was: see windows.from_row
        made[f"told_{side}"] = pa.array(np.bincount(k, np.where(np.isnan(told), before, told), many))
    made["rows"] = made["rows"].cast(pa.int64())
    for name in HISTOGRAMS:
        parent, key, item = entries(windows[name])
        made[name] = _histogram(name, many, k[parent], key.to_numpy().astype(np.int64), item.to_numpy())
    parent, key, item = entries(windows["errors"])
    code, names = codes(key)
    at, items, sums = sparse(k[parent], code, item.to_numpy())
    made["errors"] = _map("errors", many, at, names.take(pa.array(items)), pa.array(sums))
    for name, width in (("callers", CALLER_FACTS), ("scores", 3), ("score_callers", 3)):
        made[name] = add_vectors(windows[name], k, many, width)
    people = windows["error_requesters"].combine_chunks()
    code, names = codes(people.flatten())
    made["error_requesters"] = _first(k[pc.list_parent_indices(people).to_numpy()], code, many, names)
    return pa.Table.from_arrays([made[name].cast(SCHEMA.field(name).type) for name in SCHEMA.names], schema=SCHEMA)


def pack(windows: pa.Table) -> pa.RecordBatch:
    """Windows as (bucket, part): those that start in one hour, in Arrow's own bytes. So they travel between workers: as rows of Spark with
    maps in them they would be taken apart and put together twice.
    """
    hours = (windows["window_start"].combine_chunks().cast(pa.int64()).to_numpy() // HOUR_US).astype(np.int64)
    distinct = np.unique(hours)
    parts = []
    for hour in distinct:
        sink = pa.BufferOutputStream()
        some = windows if len(distinct) == 1 else windows.filter(pa.array(hours == hour))
        with pa.ipc.new_stream(sink, some.schema) as writer:
            writer.write_table(some)
        parts.append(sink.getvalue().to_pybytes())
    return pa.RecordBatch.from_arrays([pa.array(distinct), pa.array(parts, pa.binary())], ["bucket", "part"])


def count_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of requests -> packed windows; a window may come in several parts."""
    for table in gathered(batches, ROWS):
        yield pack(count(table))


def pack_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches of windows -> the same, packed."""
    for table in gathered(batches, 5_000):
        yield pack(table)


def add_batches(
    batches: Iterable[pa.RecordBatch], add: Callable[[pa.Table], pa.Table] = add
) -> Iterator[pa.RecordBatch]:
    """Packed windows sorted by bucket -> windows, one per key. Holds one bucket at a time."""
    held: list[pa.Table] = []
    last = None
    for batch in batches:
        for bucket, part in zip(batch["bucket"].to_pylist(), batch["part"], strict=True):
            if bucket != last and held:
                yield from add(pa.concat_tables(held)).to_batches(BATCH)
                held = []
            last = bucket
            held.append(pa.ipc.open_stream(part.as_buffer()).read_all())
    if held:
        yield from add(pa.concat_tables(held)).to_batches(BATCH)


def gathered(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    many = 0
    for batch in batches:
        held.append(batch)
        many += batch.num_rows
        if many >= rows:
            yield pa.Table.from_batches(held)
            held, many = [], 0
    if many:
        yield pa.Table.from_batches(held)
