"""Hourly counts of earlier weeks -> what an endpoint usually does at an hour of the week, and alarms against it (pure)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lastgood.judge import eprocess
from lastgood.judge.columns import Columns, Ints, tally
from lastgood.judge.eprocess import Floats
from lastgood.judge.streams import shift_buckets
from lastgood.judge.trail import counted_failures
from lastgood.record.fault import fault
from lastgood.record.windows import ZERO, Counts
from lastgood.settings import Policy

PSEUDO = 2_000.0
TOLERATED_RISE = 1.25
"""Failures and latencies up to so many times the usual ones raise no alarm."""
SLOW_SHARE = 0.1
LEAST = 200.0
"""An hour of the week with fewer successes has no threshold of its own."""
WEEK, BATCHES = 168, (1, 6, 24)


def hours(times: Floats) -> Ints:
    """Hour of the week (0 = Monday 00 UTC) of epoch seconds."""
    return ((np.asarray(times) // 3600 - 4 * 24) % WEEK).astype(np.int64)


@dataclass(frozen=True)
class Usual:
    """By hour of the week [168]: share of requests that fail; fewest requests of that hour in any week (0: not known); by speed metric
    the bucket that SLOW_SHARE of successes exceed. spread: metric -> overdispersion of hourly counts."""

    rate: Floats
    fewest: Floats
    slow: dict[str, Floats]
    spread: dict[str, float]


def _quantile(counts: dict[int, float], q: float) -> float | None:
    total, seen = sum(counts.values()), 0.0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= q * total:
            return float(bucket)
    return None


def _successes(hour: Counts, name: str) -> dict[int, float]:
    failed = hour.failed_latency if name == "latency" else {}
    return {b: w - failed.get(b, 0.0) for b, w in getattr(hour, name).items() if b != ZERO and w > failed.get(b, 0.0)}


def _spread(x: Floats, n: Floats, rate: Floats) -> float:
    """phi >= 1 of counts by hour around what is usual at their hour: the largest of sums over BATCHES hours, for what is bad lasts."""
    expected, most = n * rate, 1.0
    for batch in BATCHES:
        whole = len(x) // batch
        if whole < 12:
            continue
        bad, hoped, var = (
            v[: whole * batch].reshape(whole, batch).sum(1) for v in (x, expected, expected * (1 - rate))
        )
        most = max(most, float(((bad - hoped) ** 2 / np.maximum(var, 1e-9)).mean()))
    return most


def usual(given: Sequence[Counts], policy: Policy) -> Usual:
    """Hourly counts, several of one hour are added up."""
    merged: dict[float, list[Counts]] = {}
    for hour in given:
        merged.setdefault(hour.start.timestamp(), []).append(hour)
    at = np.array(sorted(merged))
    of = hours(at)
    n = np.array([sum(c.requests for c in merged[t]) for t in at])
    x = np.array([sum(_counted(c, policy) for c in merged[t]) for t in at])
    whole = np.bincount(of, n, WEEK), np.bincount(of, x, WEEK)
    overall = (x.sum() + 1) / (n.sum() + 100)
    rate = (whole[1] + PSEUDO * overall) / (whole[0] + PSEUDO)
    fewest = np.zeros(WEEK)
    for hour in np.unique(of):
        fewest[hour] = n[of == hour].min() if (of == hour).sum() >= 2 else 0.0
    slow, spread = {}, {"errors": _spread(x, n, rate[of])}
    for name in ("latency", "ttft"):
        rows = [_added(_successes(c, name) for c in merged[t]) for t in at]
        whole_limit = _quantile(_added(rows), 1 - SLOW_SHARE)
        if whole_limit is None:
            continue
        limits = np.full(WEEK, whole_limit)
        for hour in np.unique(of):
            own = _added(row for row, its in zip(rows, of, strict=True) if its == hour)
            if sum(own.values()) >= LEAST:
                limits[hour] = _quantile(own, 1 - SLOW_SHARE) or whole_limit
        slow[name] = limits
        shift = shift_buckets(TOLERATED_RISE - 1)
        over = np.array(
            [sum(w for b, w in row.items() if b > limits[h] + shift) for row, h in zip(rows, of, strict=True)]
        )
        seen = np.array([sum(row.values()) for row in rows])
        spread[name] = _spread(over, seen, np.full(len(at), max(over.sum() / max(seen.sum(), 1.0), 1e-4)))
    return Usual(rate, fewest, slow, spread)


def _counted(hour: Counts, policy: Policy) -> float:
    return float(sum(weight for code, weight in hour.errors.items() if fault(code) in policy.rollback_faults))


def _added(rows: Iterable[dict[int, float]]) -> dict[int, float]:
    total: dict[int, float] = {}
    for row in rows:
        for bucket, weight in row.items():
            total[bucket] = total.get(bucket, 0.0) + weight
    return total


def alarms(known: Usual, cols: Columns, policy: Policy) -> dict[str, Floats]:
    """metric -> the detector without a prior version beside it [T] (see eprocess.alarm), over the windows in which the new version served
    alone; others add nothing."""
    alone = (cols.n[..., 0].sum(1) == 0) & (cols.n[..., 1].sum(1) > 0)
    if not alone.any():
        return {}
    of, n = hours(cols.times), cols.n[..., 1].sum(1) * alone
    failed = counted_failures(cols, policy)[..., 1].sum(1) * alone
    made = {"errors": eprocess.alarm(failed, TOLERATED_RISE * n * known.rate[of], known.spread["errors"])}
    for name, limits in known.slow.items():
        entry = cols.histograms.get(name)
        if entry is None:
            continue
        own = (entry.arm == 1) & alone[entry.t]
        seen = tally(entry.t[own], entry.weight[own], len(of))
        over = own & (entry.bucket > limits[of[entry.t]] + shift_buckets(TOLERATED_RISE - 1))
        x = tally(entry.t[over], entry.weight[over], len(of))
        made[name] = eprocess.alarm(x, SLOW_SHARE * seen, known.spread[name])
    return made


def missing(known: Usual, cols: Columns, lately_s: float, least: float) -> tuple[Floats, Floats]:
    """(requests of both versions in the newest `lately_s` [T], the fewest there usually are then [T], 0 where not known or below `least`)."""
    served = np.concatenate([[0.0], np.cumsum(cols.n.sum((1, 2)))])
    ended = cols.times + cols.width
    first = np.searchsorted(cols.times, ended - lately_s)
    arrived = served[1:] - served[first]
    hoped = known.fewest[hours(cols.times)] * lately_s / 3600
    long_enough = ended - cols.times[0] >= lately_s if len(cols.times) else np.zeros(0, bool)
    return arrived, np.where((hoped >= least) & long_enough, hoped, 0.0)
