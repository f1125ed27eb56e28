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
HOUR_S, OWN_HOURS, EPSILON_S = 3600.0, 24, 1e-3
MISSED = 0.3
"""Requests are missed where less than this part of the fewest there usually are has come: a holiday has fewer, a hang hardly any."""
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


def missing(known: Usual, cols: Columns, lately_s: float, least: float) -> tuple[Floats, Floats, Floats]:
    """(requests of both versions lately [T], the fewest there usually are then [T], 0 where not known or below `least`, seconds of lately
    [T]).

    Earlier weeks are known by the hour only, and traffic may come in one part of it: the newest `lately_s` are also held against the same
    stretch of the hours before, of which the emptiest counts; the newest hour is held against earlier weeks alone. Of the two the one that
    misses more is given.
    """
    ended, of = cols.times + cols.width, hours(cols.times)
    served = np.concatenate([[0.0], np.cumsum(cols.n.sum((1, 2)))])

    def arrived(until: Floats, span: float) -> Floats:
        last, first = (np.searchsorted(ended, until - back + EPSILON_S) for back in (0.0, span))
        return np.asarray(served[last] - served[first])

    age = ended - (cols.times[0] if len(cols.times) else 0.0)
    hoped = known.fewest[of] * lately_s / HOUR_S
    for back in range(1, OWN_HOURS + 1):
        then = arrived(ended - back * HOUR_S, lately_s)
        hoped = np.where(age >= lately_s + back * HOUR_S, np.minimum(hoped, then), hoped)
    scales = []
    part = ended % HOUR_S / HOUR_S
    before = known.fewest[hours(ended - HOUR_S)]
    for span, enough in ((lately_s, hoped), (HOUR_S, part * known.fewest[hours(ended)] + (1 - part) * before)):
        scales.append((arrived(ended, span), np.where((enough >= least) & (age >= span), enough, 0.0), span))
    short, long = scales
    missed = [np.where(enough > 0, seen / np.maximum(enough, 1e-9), np.inf) for seen, enough, _ in scales]
    whole = missed[1] < missed[0]
    return np.where(whole, long[0], short[0]), np.where(whole, long[1], short[1]), np.where(whole, HOUR_S, lately_s)


def since(known: Usual, last: float, now: float) -> float:
    """The fewest requests that usually come between two moments (seconds since 1970)."""
    edges = np.unique(np.concatenate([[last, now], np.arange(last // HOUR_S * HOUR_S, now, HOUR_S)]))
    edges = edges[(edges >= last) & (edges <= now)]
    return float((known.fewest[hours(edges[:-1])] * np.diff(edges)).sum() / HOUR_S)
