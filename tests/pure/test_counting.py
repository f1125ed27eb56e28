"""Columnar window counts against lastgood.record.windows one request at a time, and against exact quantiles."""

import itertools
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_support import requests
from soak import scaled

from lastgood.jobs.counting import SCHEMA, add, add_batches, count, count_batches, pack_batches
from lastgood.judge.columns import Columns, columns
from lastgood.judge.records import Records, columns_of
from lastgood.record.fault import FAULTS, fault
from lastgood.record.telemetry import KINDS
from lastgood.record.windows import (
    OUTSIDE,
    RELATIVE_ERROR,
    START_TOKENS,
    ZERO,
    Counts,
    bucket,
    from_row,
    merge,
    quantile,
    stratum,
)

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
REQUESTS = pa.schema([
    ("endpoint", pa.string()), ("model_version", pa.string()), ("latency_scope", pa.string()), ("size", pa.float64()),
    ("window_start", pa.timestamp("us", "UTC")),
    ("weight", pa.float64()), ("latency_ms", pa.float64()), ("ttft_ms", pa.float64()), ("feature_age_ms", pa.float64()),
    ("tokens_in", pa.int64()), ("tokens_out", pa.int64()), ("error_code", pa.string()), ("requester", pa.string()),
    ("scores", pa.map_(pa.string(), pa.float64())), *((f"tokens_{kind}", pa.int64()) for kind in KINDS),
])  # fmt: skip

some_ms = st.none() | st.floats(0, 1e7) | st.sampled_from([math.nan, math.inf, 1e-300, 0.0])
rows = st.lists(
    st.fixed_dictionaries({
        "endpoint": st.sampled_from("ab"), "model_version": st.sampled_from("12?"), "latency_scope": st.sampled_from(["x", "y", None]),
        "size": st.none() | st.sampled_from([0.0, 63.9, 64.0, 4096.0, 1e6]),
        "window_start": st.integers(0, 3).map(lambda i: START + timedelta(minutes=40 * i)), "weight": st.sampled_from([1.0, 10.0, 1 / 3]),
        "latency_ms": some_ms, "ttft_ms": some_ms, "feature_age_ms": some_ms, "tokens_in": st.none() | st.integers(0, 9000),
        "tokens_out": st.none() | st.integers(0, 900), "error_code": st.sampled_from([None, None, "A", "B"]),
        "requester": st.none() | st.sampled_from([f"u{i}" for i in range(12)]),
        **{f"tokens_{kind}": st.none() | st.integers(0, 90) for kind in KINDS},
        "scores": st.none() | st.dictionaries(st.sampled_from("pq"), st.none() | st.floats(-1, 2) | st.just(math.nan), max_size=2),
    }),
    min_size=1, max_size=60,
)  # fmt: skip


def plain(found: pa.Table) -> dict[Any, dict[str, Any]]:
    """key -> the other columns, maps as dictionaries."""

    def value(one: Any) -> Any:
        return dict(one) if isinstance(one, list) and one and isinstance(one[0], tuple) else one

    keyed = {}
    for row in found.to_pylist():
        key = tuple(row.pop(name) for name in ("endpoint", "model_version", "stratum", "window_start"))
        assert key not in keyed
        keyed[key] = {name: value(one) for name, one in row.items()}
    return keyed


def table(given_rows: Iterable[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(
        [r | {"scores": r["scores"] and list(r["scores"].items())} for r in given_rows], REQUESTS
    )


def one(row: dict[str, Any]) -> Counts:
    """The counts of a single request."""
    weight = round(row["weight"] * 2**20) / 2**20
    out = row["tokens_out"]
    pace = None if row["latency_ms"] is None or out is None else row["latency_ms"] / (out + START_TOKENS)
    values = {
        "latency": row["latency_ms"],
        "ttft": row["ttft_ms"],
        "feature_age": row["feature_age_ms"],
        "length": out,
        "pace": pace,
    }
    made: dict[str, Any] = {n: {bucket(v): weight} for n, v in values.items() if v is not None and math.isfinite(v)}
    failed = row["error_code"] is not None
    if failed and "latency" in made:
        made["failed_latency"] = made["latency"]
    if failed:
        made = {name: counts for name, counts in made.items() if name not in ("ttft", "length", "pace")}
    who = sha256(row["requester"].encode()).hexdigest()[:12] if row["requester"] else "?"
    if row["requester"]:
        mark = ZERO if failed else next(iter(made.get("latency", {ZERO: 1})))
        faults = [int(failed and fault(row["error_code"]) is kind) for kind in FAULTS]
        made["callers"] = {who: (1, *faults, *((0, 0, 0) if mark == ZERO else (1, mark, mark * mark)))}
    if failed:
        made |= {"errors": {row["error_code"]: weight}, "error_requesters": (who,)}
    known = {n: v for n, v in (row["scores"] or {}).items() if v is not None and math.isfinite(v)}
    within = {n: -1e-9 <= v <= 1 + 1e-9 for n, v in known.items()}
    good = {n if within[n] else OUTSIDE + n: min(1.0, max(0.0, v)) if within[n] else 0.0 for n, v in known.items()}
    rounded = {n: round(v * 2**16) / 2**16 for n, v in good.items()}
    key = (row["endpoint"], row["model_version"], stratum(row["latency_scope"], row["size"]), row["window_start"])
    return Counts(
        *key, 1, weight, tokens_in=(row["tokens_in"] or 0) * weight, tokens_out=(out or 0) * weight,
        told_in=weight * (row["tokens_in"] is not None), told_out=weight * (out is not None),
        kinds={kind: row[f"tokens_{kind}"] * weight for kind in KINDS if row[f"tokens_{kind}"]},
        scores={n: (1.0, v, v * v) for n, v in rounded.items()},
        score_callers={f"{who}/{n}": (1.0, v, v * v) for n, v in rounded.items() if row["requester"]}, **made,
    )  # fmt: skip


def by_hand(given_rows: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    groups: dict[Any, list[Counts]] = {}
    for each in map(one, given_rows):
        groups.setdefault((each.endpoint, each.model_version, each.stratum, each.start), []).append(each)
    made = {}
    for key, group in groups.items():
        total = merge(group)
        kinds = {f"tokens_{kind}": total.kinds.get(kind, 0.0) for kind in KINDS}
        made[key] = {name: kinds[name] if name in kinds else getattr(total, name) for name in SCHEMA.names[4:]}
        made[key] |= {"callers": {n: list(v) for n, v in total.callers.items()}}
        made[key] |= {
            "scores": {n: list(v) for n, v in total.scores.items()},
            "score_callers": {n: list(v) for n, v in total.score_callers.items()},
            "error_requesters": list(total.error_requesters),
        }
        made[key] = {n: v or ([] if not isinstance(v, float | int) else v) for n, v in made[key].items()}
    return made


@given(rows)
@settings(max_examples=scaled(150))
def test_counts_are_those_of_adding_request_by_request(given_rows: list[dict[str, Any]]) -> None:
    assert plain(count(table(given_rows))) == by_hand(given_rows)


@given(rows, st.lists(st.integers(1, 60), max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=scaled(100))
def test_parts_in_any_order_add_up_to_the_whole(given_rows: list[Any], cuts: list[int], r: Any) -> None:
    whole = count(table(given_rows))
    shuffled = list(given_rows)
    r.shuffle(shuffled)
    edges = sorted({0, len(shuffled), *(c for c in cuts if c < len(shuffled))})
    parts = [count(table(shuffled[a:z])) for a, z in itertools.pairwise(edges)]
    assert plain(add(pa.concat_tables(parts))) == plain(whole)
    packed = pa.Table.from_batches(
        [batch for part in parts for batch in pack_batches(part.to_batches(max_chunksize=2))]
    )
    batches = packed.sort_by("bucket").to_batches(max_chunksize=1)
    assert plain(pa.Table.from_batches(list(add_batches(batches)), SCHEMA)) == plain(whole)


def test_no_requests_are_no_windows() -> None:
    assert list(count_batches([])) == []
    assert list(count_batches([pa.RecordBatch.from_pylist([], REQUESTS)])) == []
    assert list(add_batches([])) == []


DISTRIBUTIONS = {
    "lognormal": lambda r: r.lognormal(5, 1, 20_000),
    "two far humps": lambda r: np.where(r.random(20_000) < 0.5, r.normal(10, 0.1, 20_000), r.normal(60_000, 1, 20_000)),
    "all the same": lambda r: np.full(5_000, 1234.5),
    "heavy tail": lambda r: np.minimum(r.pareto(0.5, 20_000) + 0.01, 8.64e7),
    "on the edges of buckets": lambda r: 1.02 ** r.integers(0, 400, 20_000),
    "just below the edges": lambda r: np.nextafter(1.02 ** r.integers(1, 400, 20_000).astype(float), 0),
    "one slow request": lambda r: np.append(np.full(9_999, 1.0), 8.64e7),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_quantiles_are_within_the_stated_relative_error(name: str) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(11))
    base = {f.name: None for f in REQUESTS} | {
        "endpoint": "a",
        "model_version": "1",
        "stratum": "s",
        "window_start": START,
    }
    made = pa.Table.from_pylist([base], REQUESTS).take([0] * len(values))
    made = made.set_column(REQUESTS.get_field_index("latency_ms"), "latency_ms", pa.array(values))
    found = dict(count(made)["latency"][0].as_py())
    for q in (0.01, 0.5, 0.9, 0.95, 0.99, 1.0):
        exact = float(np.quantile(values, q, method="inverted_cdf"))
        assert quantile(found, q) == pytest.approx(exact, rel=RELATIVE_ERROR * (1 + 1e-9)), q


@pytest.mark.parametrize("seed", range(scaled(3)))
def test_the_judges_own_counts_are_those_of_the_windows(seed: int) -> None:
    """Records counted straight into columns (live, replay, calibrate) against windows counted and then taken apart by the judge."""
    given_records = requests(seed, minutes=30, people=40, failing=0.2, sticky=seed % 2 == 1)
    rng = np.random.default_rng(seed)
    unknown = rng.random(len(given_records.at)) < 0.1
    given_records.tokens_out[unknown] = np.nan
    given_records.feature_age_ms[:] = np.where(rng.random(len(unknown)) < 0.5, 1e7, 5.0)
    limit = 1e6
    straight = columns_of(given_records, 60, limit)
    windows = count(as_requests(given_records)).to_pylist()
    taken = columns([from_row(window) for window in windows], "2", "1", 60, bucket(limit))
    assert straight.strata == taken.strata
    for name in ("times", "n", "faults", "stale"):
        np.testing.assert_allclose(getattr(straight, name), getattr(taken, name), err_msg=name)
    for name, entries in straight.histograms.items():
        sums = [collected(side, name) for side in (straight, taken)]
        assert sums[0] == sums[1], name
        assert len(entries.t)


def collected(side: Columns, name: str) -> dict[tuple[int, ...], float]:
    """Weights of a histogram by (window, stratum, version, bucket)."""
    entries, sums = side.histograms[name], dict[tuple[int, ...], float]()
    for *key, weight in zip(entries.t, entries.g, entries.arm, entries.bucket, entries.weight, strict=True):
        place = tuple(int(part) for part in key)
        sums[place] = sums.get(place, 0.0) + float(weight)
    return sums


def as_requests(given_records: Records) -> pa.Table:
    """Records of the judge as the requests they stand for."""
    n = len(given_records.at)
    code = [None if i < 0 else given_records.codes[i] for i in given_records.code]
    made = {
        "endpoint": ["chat"] * n, "model_version": [str(arm + 1) for arm in given_records.arm],
        "latency_scope": [given_records.scopes[i] for i in given_records.scope], "size": given_records.tokens_in,
        "window_start": pa.array((given_records.at // 60 * 60 * 1e6).astype(np.int64)).cast(REQUESTS.field("window_start").type),
        "weight": np.ones(n), "latency_ms": given_records.latency_ms, "ttft_ms": given_records.ttft_ms,
        "feature_age_ms": given_records.feature_age_ms, "error_code": code,
        "tokens_in": pa.array(given_records.tokens_in, from_pandas=True).cast(pa.int64()),
        "tokens_out": pa.array(given_records.tokens_out, from_pandas=True).cast(pa.int64()),
        "requester": [None if who < 0 else f"u{who}" for who in given_records.who], "scores": [None] * n,
    }  # fmt: skip
    unsaid = [None] * len(made["endpoint"])
    return pa.table({name: pa.array(made.get(name, unsaid), REQUESTS.field(name).type) for name in REQUESTS.names})
