"""One look at a comparison: what was served after a window, since when, how fast, and what its evidence rests on (pure)."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import numpy as np

from lastgood.judge.case import Case, summed
from lastgood.judge.columns import Ints
from lastgood.judge.eprocess import Floats
from lastgood.judge.evidence import Evidence, History
from lastgood.judge.intervals import quantile_band
from lastgood.judge.streams import Stream
from lastgood.judge.trail import Trail
from lastgood.record.fault import FAULTS
from lastgood.record.windows import middle
from lastgood.settings import Policy


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

    @property
    def e(self) -> float:
        return float(self.case.e[self.t])

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
        """The strongest stream of the metric with the most evidence that may be believed; of all, where none may."""
        sound = {metric: float(part[self.t]) for metric, part in self.case.sound.items()}
        if not sound:
            return None
        metric = max(sound, key=lambda name: sound[name])
        raw = max(self.case.metrics, key=lambda name: float(summed(self.case.metrics[name])[self.t]))
        streams = self.case.metrics[metric if self.e >= self.policy.watch_e else raw]
        return max(streams, key=lambda stream: stream.share * float(stream.e[self.t, 0]))

    @cached_property
    def doubts(self) -> dict[str, list[str]]:
        """metric -> why its evidence is not believed now, where it has any."""
        doubtful = {}
        for metric, why in self.case.doubts.items():
            if float(summed(self.case.metrics[metric])[self.t]) >= self.policy.watch_e:
                doubtful[metric] = [reason for reason, where in why.items() if where[self.t]]
        return {metric: reasons for metric, reasons in doubtful.items() if reasons}

    @cached_property
    def onset(self) -> datetime | None:
        """Since when the lead stream speaks against the candidate; None while it does not."""
        if self.lead is None or self.lead.e[self.t, 0] <= 1:
            return None
        began = float(self.trail.cols.times[0]) + 60 * float(self.lead.onset[self.t, 0])
        return datetime.fromtimestamp(round(began), UTC)

    @property
    def left_out(self) -> dict[str, int]:
        """Why windows so far count for nobody, and how many."""
        counts = {why: int(where[: self.t + 1].sum()) for why, where in self.case.left_out.items()}
        return {why: count for why, count in counts.items() if count}

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

    def faults(self, arm: int) -> dict[str, float]:
        """Failed requests by class, so far."""
        counts = self.trail.cols.faults[: self.t + 1, :, arm].sum((0, 1))
        return {str(kind): float(count) for kind, count in zip(FAULTS, counts, strict=True) if count}

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
