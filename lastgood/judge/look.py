"""A comparison after one window: what was served, since when, how fast, and whether it is shown to be safe (pure)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lastgood.judge import eprocess
from lastgood.judge.columns import Columns, Ints
from lastgood.judge.eprocess import Floats
from lastgood.judge.evidence import Evidence, History
from lastgood.judge.intervals import quantile_band
from lastgood.judge.streams import Blocks, Stream
from lastgood.judge.trail import REQUEST, Trail
from lastgood.record.windows import middle
from lastgood.settings import Policy

SAFE_RATIO, SAFE_E, GONE_E, SPLIT_E, ANSWERS_SLO = 1.5, 20.0, 3.0, 1000.0, 0.05
SPLIT_ODDS = 1.1
"""A split is off plan only where its odds are off by more than this: a few requests without a version are no mismatch."""
FIRST_ATTEMPT = 0.9
"""Part of the budget that a version's first attempt may use; the others share the rest (see `budget`)."""
PSEUDO, TOLERATED_RISE = 2_000.0, 1.25


def budget(attempt: int) -> float:
    """Share of the false-rollback budget for the attempt-th try of one version (1, 2, ...): sums to 1 over all tries."""
    return FIRST_ATTEMPT if attempt <= 1 else (1 - FIRST_ATTEMPT) * 6 / (math.pi * (attempt - 1)) ** 2


@dataclass(frozen=True)
class Case:
    """All that is known of one comparison; what every look needs is computed once, for all windows."""

    trail: Trail
    evidence: Evidence
    policy: Policy
    history: History

    @cached_property
    def threshold(self) -> float:
        return self.policy.rollback_e / (budget(self.history.attempt(self.evidence.candidate)) * self.history.share)

    @cached_property
    def served(self) -> Floats:
        """(prior, new) requests so far [T, 2]."""
        return np.asarray(np.cumsum(self.trail.cols.n.sum(1), 0))

    @cached_property
    def planned(self) -> tuple[Floats, Floats, Floats]:
        """(seen (prior, new), hoped of new, log e against the plan) so far [2 units, T, ...], of windows whose planned split is known.

        Units: requests, and distinct requesters (each at its first window under a plan).
        """
        cols = self.trail.cols
        length = len(cols.times)
        seen, expected, log_e = np.zeros((2, length, 2)), np.zeros((2, length)), np.zeros((2, length))
        arrived = self.trail.windows[:, 0] > (cols.n[..., 1].sum(1) > 0)  # it came somewhere within its first window
        for planned in self.evidence.planned:
            if not 0 < planned.share < 1:
                continue
            within = cols.within(planned.since, planned.until) & arrived
            for unit, counts in enumerate((cols.n.sum(1) * within[:, None], _first_seen(cols, within))):
                so_far = np.cumsum(counts, 0)
                seen[unit] += so_far
                expected[unit] += planned.share * so_far.sum(1)
                log_e[unit] += eprocess.log_e_split(so_far[:, 1], so_far[:, 0], planned.share)
        return seen, expected, log_e

    @cached_property
    def off_plan(self) -> npt.NDArray[np.bool_]:
        """Sample-ratio mismatch [T]: the seen split contradicts the plan, and its odds are off by more than SPLIT_ODDS."""
        unit = np.where(self.trail.routing[:, 0] == REQUEST, 0, 1), np.arange(len(self.trail.cols.times))
        seen, expected, log_e = (part[unit] for part in self.planned)
        odds = (seen[:, 1] + 0.5) / (seen[:, 0] + 0.5) * (seen.sum(1) - expected + 0.5) / (expected + 0.5)
        return np.asarray((log_e >= math.log(SPLIT_E)) & (np.abs(np.log(odds)) > math.log(SPLIT_ODDS)))

    @cached_property
    def stale(self) -> Floats:
        """(known, older than the limit) of the newest half of the windows [T, 2 versions, 2]."""
        so_far = np.concatenate([np.zeros((1, 2, 2)), np.cumsum(self.trail.cols.stale[:, 0], 0)])
        t = np.arange(len(self.trail.cols.times))
        return np.asarray(so_far[t + 1] - so_far[(t + 1) // 2])

    @cached_property
    def page_only(self) -> npt.NDArray[np.bool_]:
        """Counting by requester, what only requests can say (tokens, first token, answers, scores) may page, never roll back [T]."""
        trail, aside = self.trail, {stream.metric for stream in self.trail.sticky}
        most = [stream.share * stream.e[:, 0] for stream in trail.streams if stream.metric not in aside]
        strong = np.max(most, 0) >= self.policy.rollback_e if most else np.zeros(len(trail.cols.times), bool)
        return np.asarray((trail.routing[:, 0] != REQUEST) & strong)

    @cached_property
    def safe(self) -> npt.NDArray[np.bool_]:
        """Whether the reverse tests say that the new version is not SAFE_RATIO times worse, or is well within its objective [T]."""
        blocks, bad = self.trail.blocks, self.trail.bad[:, 0]
        fine = _below(self.served[:, 1], bad, self.policy.error_slo) | _not_worse(blocks["errors"], 0)
        seen, poor = (np.cumsum(v.sum(1)) for v in (blocks["quality"].n[..., 1], blocks["quality"].x[..., 1, 0]))
        good = (seen == 0) | _below(seen, poor, ANSWERS_SLO) | _not_worse(blocks["quality"], 0)
        return np.asarray(fine & good & _not_worse(blocks["latency"], 1))

    @cached_property
    def run_length(self) -> Floats:
        """The detector without a prior version [T]: more failures than this hour of the week ever had (see eprocess.alarm)."""
        base, cols = self.evidence.baseline, self.trail.cols
        if not base or self.served[-1, 0] > 0:
            return np.zeros(len(cols.times))
        x, n = (v[..., 1].sum(1) for v in (cols.failed, cols.n))
        return eprocess.alarm(x, TOLERATED_RISE * n * expected_rate(base, cols.times), dispersion(base))


@dataclass(frozen=True)
class Look:
    """The evidence of a case after window t, as known at `now`."""

    case: Case
    t: int
    now: datetime
    ranks: dict[tuple[str, int, float], tuple[Ints, Floats]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def trail(self) -> Trail:
        return self.case.trail

    @property
    def evidence(self) -> Evidence:
        return self.case.evidence

    @property
    def policy(self) -> Policy:
        return self.case.policy

    @property
    def history(self) -> History:
        return self.case.history

    @cached_property
    def e(self) -> float:
        return float(self.trail.e[self.t, 0])

    @property
    def by_request(self) -> bool:
        return bool(self.trail.routing[self.t, 0] == REQUEST)

    @property
    def windows(self) -> int:
        """Windows in which the candidate served."""
        return int(self.trail.windows[self.t, 0])

    @property
    def served(self) -> tuple[float, float]:
        """(new, prior) requests so far."""
        return float(self.case.served[self.t, 1]), float(self.case.served[self.t, 0])

    @cached_property
    def lead(self) -> Stream | None:
        """The stream with the strongest evidence."""
        streams = [stream for stream in self.trail.counted(self.t) if stream.share > 0]
        return max(streams, key=lambda stream: stream.share * float(stream.e[self.t, 0]), default=None)

    @cached_property
    def onset(self) -> datetime | None:
        """Since when the lead stream speaks against the candidate; None while it does not."""
        if self.lead is None or self.lead.e[self.t, 0] <= 1:
            return None
        began = float(self.trail.cols.times[0]) + 60 * float(self.lead.onset[self.t, 0])
        return datetime.fromtimestamp(round(began), UTC)

    def stale_share(self, arm: int) -> float | None:
        """Share of the newest half's requests whose features were older than the limit; None when no age is known."""
        known, old = self.case.stale[self.t, arm]
        return float(old / known) if known else None

    def figures(self, arm: int) -> dict[str, float | None]:
        """Figures of one version from the columns, by the names of metrics.CATALOGUE (those the columns can tell)."""
        cols, upto = self.trail.cols, slice(0, self.t + 1)
        n, failed, answers, bad = (float(v[upto, :, arm].sum()) for v in (cols.n, cols.failed, cols.answers, cols.bad))
        figures: dict[str, float | None] = {"requests": n, "error_rate": failed / n if n else None}
        figures |= {f"p{q * 100:.0f}_ms": (self.quantile("latency", arm, q) or [None])[0] for q in (0.5, 0.95, 0.99)}
        return figures | {
            "ttft_p95_ms": (self.quantile("ttft", arm, 0.95) or [None])[0],
            "bad_answers": bad / answers if answers else None,
        }

    def quantile(self, name: str, arm: int, q: float, since: float = -math.inf) -> tuple[float, float, float] | None:
        """(quantile, low, high) of a histogram over the windows from `since` (epoch seconds) to t; the limits hold at every look
        (a confidence sequence, where `since` was not chosen by what came after it)."""
        bins, ranked = self._ranked(name, arm, since)
        if not len(bins):
            return None
        levels = np.array([q, *quantile_band(float(ranked[-1]), q)])
        places = np.searchsorted(ranked, (levels - 1e-9) * ranked[-1])
        value, low, high = (middle(int(bins[min(int(at), len(bins) - 1)])) for at in places)
        return value, low, high

    def _ranked(self, name: str, arm: int, since: float) -> tuple[Ints, Floats]:
        """Buckets in order, and how much is in or below each; kept, for several quantiles are asked of one histogram."""
        histogram, key = self.trail.cols.histograms.get(name), (name, arm, since)
        if histogram is None:
            return np.zeros(0, np.int64), np.zeros(0)
        if key not in self.ranks:
            i = int(np.searchsorted(histogram.t, np.searchsorted(self.trail.cols.times, since)))
            j = int(np.searchsorted(histogram.t, self.t, "right"))
            use = np.flatnonzero(histogram.arm[i:j] == arm) + i
            low = int(histogram.bucket[use].min()) if len(use) else 0
            weight = np.bincount(histogram.bucket[use] - low, histogram.weight[use])
            present = np.flatnonzero(weight)
            self.ranks[key] = (present + low, np.cumsum(weight[present]))
        return self.ranks[key]


def _first_seen(cols: Columns, within: npt.NDArray[np.bool_]) -> Floats:
    """(prior, new) requesters by the window in which each was first seen, of the windows `within` [T, 2]."""
    requesters, counted = cols.requesters, np.zeros((len(cols.times), 2))
    for arm in (0, 1):
        use = (requesters.arm == arm) & (requesters.n > 0) & within[requesters.t]
        _, first = np.unique(requesters.who[use], return_index=True)
        np.add.at(counted, (requesters.t[use][first], arm), 1)
    return counted


def expected_rate(base: Mapping[int, tuple[float, float]], times: Floats) -> Floats:
    """Failure rate per window from the hour of the week, shrunk towards the overall rate with PSEUDO requests."""
    table = dict(base)
    whole = [sum(counts[i] for counts in table.values()) for i in (0, 1)]
    overall = (whole[1] + 1) / (whole[0] + 100)
    hours = ((times // 3600 - 4 * 24) % 168).astype(int)
    rates = {h: (x + PSEUDO * overall) / (n + PSEUDO) for h, (n, x) in table.items()}
    return np.array([rates.get(int(h), overall) for h in hours])


def dispersion(base: Mapping[int, tuple[float, float]]) -> float:
    """phi >= 1 of the hourly failure counts around the overall rate."""
    rows = np.array([counts for counts in base.values() if counts[0] > 0], float)
    if len(rows) < 12:
        return 1.0
    rate = rows[:, 1].sum() / rows[:, 0].sum()
    spread = (rows[:, 1] - rate * rows[:, 0]) ** 2 / np.maximum(rows[:, 0] * rate * (1 - rate), 1e-9)
    return float(max(1.0, spread.mean()))


def _not_worse(blocks: Blocks, k: int) -> npt.NDArray[np.bool_]:
    n, x = blocks.n.reshape(-1, 2), blocks.x[..., k].reshape(-1, 2)
    logs = eprocess.log_e_better(n[:, 1], n[:, 0], x[:, 1], x.sum(-1), SAFE_RATIO)
    total = np.cumsum(logs.reshape(*blocks.n.shape[:2], -1).sum(1), 0)
    return _shown(np.logaddexp.reduce(total, -1) - math.log(total.shape[-1]))


def _shown(log_e: Floats) -> npt.NDArray[np.bool_]:
    """[T]: evidence that has reached SAFE_E, which may happen at any look, and has not gone since."""
    reached = np.maximum.accumulate(log_e) >= math.log(SAFE_E)
    return np.asarray(reached & (log_e >= math.log(GONE_E)))


def _below(n: Floats, x: Floats, rate: float) -> npt.NDArray[np.bool_]:
    """Evidence that a bad rate is below `rate`: the likelihood ratios of rate/2, rate/4 and rate/10, averaged."""
    logs = eprocess.log_e_above(n, np.minimum(x, n), rate, np.array([1 / 2, 1 / 4, 1 / 10]))
    return _shown(np.logaddexp.reduce(logs, -1) - math.log(3))
