"""Output quality without a model: flags of answers and what labels say, counted per window (pure, Arrow table to Arrow table; Spark at
the end).

A successful answer is bad when it has a flag (`flags`) that counts at its endpoint (`answer_flags.BadAnswers`).
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.jobs import counting
from lastgood.jobs.counting import GRAIN, KEY
from lastgood.jobs.flags import bools, entry, flags
from lastgood.judge.outcomes import OUTCOMES, SPREAD
from lastgood.record.answer_flags import BadAnswers
from lastgood.record.telemetry import arrow_schema, spark_ddl

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
MOST = 1e12
"""Outcomes above this are no measure of anything (and infinite sums would hide the others)."""
COUNTED = (*KEY, "weight", "error_code", "output", "input", "finish_reason", "attributes", "requester")
"""Columns of requests that are read."""
SCHEMA = arrow_schema(tables.QUALITY.fields)
MEASURED = (*OUTCOMES, *(f"{name}_sq" for name in SPREAD))
PLAIN = BadAnswers()
ROWS = 20_000
"""Answers looked at at once: their texts are held."""


def _grained(values: Floats) -> Floats:
    """In multiples of 1 / GRAIN; NaN for what is not finite."""
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(values) < MOST, np.round(values * GRAIN) / GRAIN, np.nan)


def _number(text: str | None) -> float:
    try:
        return np.nan if text is None else float(text)
    except ValueError:
        return np.nan


def _outcomes(attributes: pa.Array) -> tuple[Bools, Bools, dict[str, Floats]]:
    """(which requests have labels or feedback, which have a label's truth, outcome -> value or NaN)."""
    many = len(attributes)
    if attributes.null_count == many:
        return np.zeros(many, bool), np.zeros(many, bool), {}
    truth = bools(entry(attributes, "label.truth").is_valid())
    told, known = truth.copy(), {}
    for name, key in OUTCOMES.items():
        values = entry(attributes, key)
        told |= bools(values.is_valid())
        if values.null_count < many:
            known[name] = _grained(np.array([_number(value) for value in values.to_pylist()]))
    for name in SPREAD:
        if name in known:
            known[f"{name}_sq"] = _grained(known[name] ** 2)
    return told, truth, known


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def marked(requests: pa.Table, rule: BadAnswers = PLAIN) -> pa.Table:
    """Keyed requests (COUNTED) -> for each that succeeded and has an output or a label: its key, weight, `marks` (a bit for each flag,
    null without an output), and what labels say. Without texts."""
    told, truth, known = _outcomes(_one_chunk(requests["attributes"]))
    seen = bools(requests["output"].is_valid())
    taken = pa.array(bools(pc.is_null(requests["error_code"])) & (seen | told))
    shown = requests.filter(pc.and_(taken, pa.array(seen)))
    output, asked, reason, noted = (
        _one_chunk(shown[name]) for name in ("output", "input", "finish_reason", "attributes")
    )
    bits = np.zeros(shown.num_rows, np.int64)
    for i, flagged in enumerate(flags(output, asked, reason, noted, rule.words).values()):
        bits |= flagged.astype(np.int64) << i
    marks = np.zeros(requests.num_rows, np.int64)
    marks[np.asarray(taken) & seen] = bits
    weight = np.round(requests["weight"].to_numpy().astype(np.float64) * GRAIN) / GRAIN
    made = {name: requests[name] for name in KEY} | {
        "weight": pa.array(weight), "marks": pa.array(marks, mask=~seen), "truth": pa.array(truth),
    }  # fmt: skip
    made |= {name: pa.array(known.get(name, np.full(len(seen), np.nan))) for name in MEASURED}
    who, people = counting.hashed(requests["requester"])
    named = np.asarray(requests["requester"].is_valid().to_numpy())
    made["who"] = people.take(pa.array(who, mask=~named))
    return pa.table(made).filter(taken)


def tallied(requests: pa.Table, rule: BadAnswers = PLAIN) -> pa.Table:
    """What `marked` gives -> rows of the `quality` table."""
    k, keys = counting.grouped(requests)
    many = len(keys["endpoint"])
    seen = bools(requests["marks"].is_valid())
    marks = pc.fill_null(requests["marks"], 0).to_numpy()
    weight = np.where(seen, requests["weight"].to_numpy(), 0.0)
    counts_as_bad = np.array([rule.bits(endpoint) for endpoint in keys["endpoint"].to_pylist()], np.int64)
    bad = (marks & counts_as_bad[k]) != 0
    sums: dict[str, npt.NDArray[Any]] = {
        "answers": np.bincount(k, weight, many),
        "bad": np.bincount(k, weight * bad, many),
    }
    for i, name in enumerate(rule.flags):
        sums[name] = np.bincount(k, weight * ((marks >> i) & 1), many)
    sums["labelled"] = np.bincount(k, bools(requests["truth"]), many)
    values = {name: requests[name].to_numpy() for name in MEASURED}
    sums |= {f"{name}_n": np.bincount(k, np.isfinite(values[name]), many) for name in OUTCOMES}
    sums |= {name: np.bincount(k, np.nan_to_num(value), many) for name, value in values.items()}
    who, people = counting.codes(requests["who"])
    known = seen & (who >= 0)
    of_caller = np.stack([weight, weight * bad], axis=1)[known]
    return _table(keys, sums, counting.vectors(k[known], who[known], of_caller, many, people))


def count(requests: pa.Table, rule: BadAnswers = PLAIN) -> pa.Table:
    """Keyed requests (COUNTED) -> rows of the `quality` table. Flags are of successful requests whose output was captured (`answers`);
    labels and feedback are counted of all successful requests."""
    return tallied(marked(requests, rule), rule)


def _table(keys: dict[str, pa.Array], sums: Mapping[str, npt.NDArray[Any]], callers: pa.Array) -> pa.Table:
    many = len(keys["endpoint"])
    names = pa.array(list(sums) * many, pa.string())
    items = pa.array(np.stack([np.asarray(each, np.float64) for each in sums.values()], axis=1).ravel())
    maps = pa.MapArray.from_arrays(pa.array(np.arange(many + 1, dtype=np.int32) * len(sums)), names, items)
    made = keys | {"quality": maps, "answer_callers": callers}
    return pa.Table.from_arrays([made[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA)


def add(parts: pa.Table) -> pa.Table:
    """Rows of `quality`, several of a key -> one of each key. All have the same names in their map."""
    if not parts.num_rows:
        return SCHEMA.empty_table()
    k, keys = counting.grouped(parts)
    maps = _one_chunk(parts["quality"])
    names = maps[0].as_py()
    values = counting.entries(maps)[2].to_numpy().reshape(len(maps), len(names))
    many = len(keys["endpoint"])
    callers = counting.add_vectors(parts["answer_callers"], k, many, 2)
    return _table(keys, {name: np.bincount(k, values[:, i], many) for i, (name, _) in enumerate(names)}, callers)


def count_batches(batches: Iterable[pa.RecordBatch], rule: BadAnswers = PLAIN) -> Iterator[pa.RecordBatch]:
    """Batches of keyed requests -> packed rows of `quality`; a window may come in several parts."""
    narrow = (batch for table in counting.gathered(batches, ROWS) for batch in marked(table, rule).to_batches())
    for table in counting.gathered(narrow, counting.ROWS):
        yield counting.pack(tallied(table, rule))


def quality_flags(requests: "DataFrame", rule: BadAnswers = PLAIN) -> "DataFrame":
    """Keyed requests -> rows of the `quality` table, by Spark's workers."""
    packed = requests.select(*COUNTED).mapInArrow(partial(count_batches, rule=rule), counting.PACKED)
    together = packed.repartition("bucket").sortWithinPartitions("bucket")
    return together.mapInArrow(partial(counting.add_batches, add=add), spark_ddl(tables.QUALITY.fields))
