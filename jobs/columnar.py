"""Rows of `windows` as an Arrow table -> Columns of two versions, and each version's windows added up (pure): what `judge.columns.columns`
makes of Counts, without a Python object for every window."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.jobs import counting
from lastgood.judge.columns import (
    HIGHEST,
    HISTOGRAMS,
    LOWEST,
    Callers,
    Columns,
    Entries,
    Ints,
    Scored,
    alike,
    callers_of,
    groups,
    scored_of,
    tally,
)
from lastgood.judge.eprocess import Floats
from lastgood.record.fault import FAULTS, fault
from lastgood.record.windows import CALLER_FACTS, Counts, from_row


def _numbers(table: pa.Table, name: str) -> Floats:
    column = table[name].combine_chunks().cast(pa.float64())
    return np.nan_to_num(np.asarray(column.to_numpy(zero_copy_only=False), np.float64))


def _entries(table: pa.Table, name: str) -> tuple[Ints, pa.Array, pa.Array]:
    """(row, key, item) of a map column."""
    array = table[name].combine_chunks()
    array = array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
    lengths = np.asarray(
        pc.fill_null(pc.list_value_length(array.cast(pa.list_(array.type.field(0)))), 0).to_numpy(zero_copy_only=False)
    )
    flat = array.cast(pa.list_(array.type.field(0))).flatten()
    return np.repeat(np.arange(len(array)), lengths.astype(np.int64)), flat.field(0), flat.field(1)


def columns_of_table(table: pa.Table, new: str, prior: str | None, width: float, stale_bucket: int) -> Columns:
    """Windows of both versions (tables.WINDOWS and `quality`); of others nothing counts. A key stands once."""
    arms = {new: 1} | ({prior: 0} if prior is not None else {})
    table = table.filter(pc.is_in(table["model_version"], pa.array(list(arms))))
    rows = _numbers(table, "rows")
    served = rows > 0
    starts_us = table["window_start"].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    starts, t = np.unique(starts_us, return_inverse=True)
    arm = np.array([arms[v] for v in table["model_version"].to_pylist()], np.int64)
    names = np.array(table["stratum"].to_pylist(), object)
    strata = tuple(sorted(set(names[served]))) or ("?/?",)
    which = {name: i for i, name in enumerate(strata)}
    g = np.array([which.get(name, 0) for name in names], np.int64)
    shape = (len(starts), len(strata), 2)
    cell, size = (t * shape[1] + g) * 2 + arm, int(np.prod(shape))
    requests = _numbers(table, "requests")
    thin = np.where(requests > 0, rows / np.maximum(requests, 1e-300), 0.0) * served

    def counts(values: Floats) -> Floats:
        return tally(cell, values, size).reshape(shape)

    at, code, weight = _entries(table, "errors")
    kinds = {text: FAULTS.index(fault(text)) for text in pc.unique(code).to_pylist()}
    kind = np.array([kinds[text] for text in code.to_pylist()], np.int64)
    failed = np.asarray(weight.to_numpy(zero_copy_only=False)) * thin[at]
    faults = tally(cell[at] * len(FAULTS) + kind, failed, size * len(FAULTS)).reshape(*shape, len(FAULTS))
    at, flag, weight = _entries(table, "quality")
    amount, flags = np.asarray(weight.to_numpy(zero_copy_only=False)) * thin[at], np.array(flag.to_pylist(), object)
    answers, bad = (
        tally(cell[at][flags == name], amount[flags == name], size).reshape(shape) for name in ("answers", "bad")
    )
    at, age, weight = _entries(table, "feature_age")
    known = np.asarray(weight.to_numpy(zero_copy_only=False)) * thin[at]
    old = np.asarray(age.to_numpy()) > stale_bucket
    by_arm = t[at] * 2 + arm[at]
    stale = np.stack([tally(by_arm, part, 2 * shape[0]).reshape(shape[0], 1, 2) for part in (known, known * old)], -1)
    histograms = {name: entry for name in HISTOGRAMS if (entry := _histogram(table, name, t, g, arm, thin)) is not None}
    callers, whose, names_of = _people(table, t, g, arm, thin)
    scope, sized = groups(strata)
    return alike(
        Columns(
            starts / 1e6, width, strata, np.zeros(len(strata), np.int64), scope, sized, counts(rows), faults, answers, bad, stale, histograms,
            callers, _scores(table, t, arm, shape[0]), whose, names_of,
            counts(_numbers(table, "tokens_in") * thin),
        )
    )  # fmt: skip


def _people(
    table: pa.Table, t: Ints, g: Ints, arm: Ints, thin: Floats
) -> tuple[Callers, dict[str, Scored], tuple[str, ...]]:
    """(who was served, whose the scores are, the requesters' hashes that both count by)."""
    who, people, facts = _entries(table, "callers")
    scored_at, pairs, sums = _entries(table, "score_callers")
    owned = [pair.partition("/") for pair in pairs.to_pylist()]
    names_of = sorted(set(people.to_pylist()) | {owner for owner, _, _ in owned})
    number = {name: i for i, name in enumerate(names_of)}
    whose = [
        (name, int(t[row]), int(arm[row]), number[owner], part)
        for row, (owner, _, name), part in zip(scored_at.tolist(), owned, sums.to_pylist(), strict=True)
    ]
    numbers = np.array([number[name] for name in people.to_pylist()], np.int64)
    values = np.asarray(facts.flatten().to_numpy(zero_copy_only=False), np.int64).reshape(-1, CALLER_FACTS)
    answered = _answered(table, who, numbers, number, thin)
    order = np.lexsort((numbers, arm[who], g[who], t[who]))
    cells = (
        np.column_stack([t[who], g[who], arm[who], numbers, values])[order]
        if len(who)
        else np.zeros((0, 4 + CALLER_FACTS), np.int64)
    )
    return callers_of(cells, answered[order]), scored_of(whose), tuple(names_of)


def _answered(table: pa.Table, at: Ints, numbers: Ints, number: Mapping[str, int], thin: Floats) -> Floats:
    """(answers, bad) of the requesters `numbers` in the rows `at` of `windows` [n, 2]; 0 where nothing is known of them."""
    size = max(1, len(number))
    rows, people, parts = _entries(table, "answer_callers")
    known = np.array([number.get(who, -1) for who in people.to_pylist()], np.int64)
    values = np.asarray(parts.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(-1, 2) * thin[rows][:, None]
    rows, known, values = rows[known >= 0], known[known >= 0], values[known >= 0]
    cells, order = np.unique(rows * size + known, return_index=True)
    made = np.zeros((len(at), 2))
    if len(cells):
        place = np.minimum(np.searchsorted(cells, at * size + numbers), len(cells) - 1)
        same = cells[place] == at * size + numbers
        made[same] = values[order][place[same]]
    return made


def _histogram(table: pa.Table, name: str, t: Ints, g: Ints, arm: Ints, thin: Floats) -> Entries | None:
    """The successes of a histogram, by window."""
    at, bucket, weight = _entries(table, name)
    marks, amount = (
        np.asarray(bucket.to_numpy(), np.int64),
        np.asarray(weight.to_numpy(zero_copy_only=False), np.float64),
    )
    if name == "latency":
        lost, gone, less = _entries(table, "failed_latency")
        if len(lost):
            keys = (
                np.concatenate([at, lost]) * 2**33
                + np.concatenate([marks, np.asarray(gone.to_numpy(), np.int64)])
                + 2**32
            )
            cells, place = np.unique(keys, return_inverse=True)
            left = tally(place, np.concatenate([amount, -np.asarray(less.to_numpy(zero_copy_only=False))]), len(cells))
            at, marks, amount = cells // 2**33, cells % 2**33 - 2**32, left
    use = (amount > 1e-9) & (thin[at] > 0)
    if not use.any():
        return None
    at, marks, amount = at[use], marks[use], amount[use]
    order = np.lexsort((marks, arm[at], g[at], t[at]))
    at = at[order]
    return Entries(t[at], g[at], arm[at], np.clip(marks[order], LOWEST, HIGHEST), amount[order] * thin[at])


def _scores(table: pa.Table, t: Ints, arm: Ints, length: int) -> dict[str, Floats]:
    at, names, sums = _entries(table, "scores")
    values = np.asarray(sums.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(-1, 3)
    texts, scores = np.array(names.to_pylist(), object), {}
    for name in sorted(set(texts)):
        rows = texts == name
        cells = t[at[rows]] * 2 + arm[at[rows]]
        scores[name] = np.stack([tally(cells, values[rows, i], 2 * length).reshape(length, 1, 2) for i in range(3)], -1)
    return scores


def totals(table: pa.Table) -> Mapping[str, Counts]:
    """version -> all its windows added up, the quality's counts too."""
    table = table.filter(pc.greater(pc.fill_null(table["rows"], 0), 0))
    if not table.num_rows:
        return {}
    first = pc.min(table["window_start"]).as_py()
    flat = table.set_column(
        table.schema.get_field_index("window_start"),
        "window_start",
        pa.array([first] * len(table), table["window_start"].type),
    )
    flat = flat.set_column(table.schema.get_field_index("stratum"), "stratum", pa.array(["all"] * len(table)))
    whole = counting.add(
        pa.Table.from_arrays([flat[f.name].cast(f.type) for f in counting.SCHEMA], schema=counting.SCHEMA)
    )
    at, flags, weight = _entries(table, "quality")
    versions, amounts = (
        np.array(table["model_version"].to_pylist(), object)[at],
        np.asarray(weight.to_numpy(zero_copy_only=False)),
    )
    quality: dict[str, dict[str, float]] = {}
    for version, flag, amount in zip(versions, flags.to_pylist(), amounts, strict=True):
        counted: npt.ArrayLike = quality.setdefault(version, {}).get(flag, 0.0)
        quality[version][flag] = float(counted) + float(amount)  # type: ignore[arg-type]
    return {
        row["model_version"]: from_row(row | {"quality": quality.get(row["model_version"], {})})
        for row in whole.to_pylist()
    }
