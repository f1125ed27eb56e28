"""A comparison, for all its windows at once: how strong its evidence is, and what may be believed of it (pure)."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lastgood.judge import budget, eprocess, loo
from lastgood.judge.columns import Bools, Columns, Ints
from lastgood.judge.eprocess import Floats
from lastgood.judge.evidence import Evidence, History
from lastgood.judge.streams import INPUT_DEPENDENT, Blocks, Stream, streams_of
from lastgood.judge.trail import Trail
from lastgood.judge.usual import Usual, alarms, missing, usual
from lastgood.record.fault import FAULTS, Fault
from lastgood.settings import Policy

SAFE_RATIO, SAFE_E, SPLIT_E, ANSWERS_SLO = 1.5, 20.0, 1000.0, 0.05
SPLIT_ODDS = 1.1
"""A split is off plan only where its odds are off by more than this: a few requests without a version are no mismatch."""
STILL_NATS, STILL_PART = 20.0, 0.4
"""Harm is still there when the newest windows, as many as showed so much log evidence at its height, show this part of it."""
LATELY_S, LEAST_MISSING = 600.0, 100.0
"""How far back lately goes in seconds, and of how many requests that there should be some can be missed."""
INPUT_SD, INPUT_RATIO, WITHIN = 3.0, 1.1, 0.4
"""The two versions' prompts differ where their mean log lengths are apart by so many standard errors and by this ratio; WITHIN is the
spread of log lengths in a stratum (uniform between powers of four)."""
GAPS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6)
"""Differences of mean log lengths are taken for the next of these; what is further apart is not compared."""
COMPARABLE, COMPARABLE_OF = 0.2, 200.0
"""Of at least so many requests, less than this share in windows and strata that both versions served is no comparison."""
REVERSE_E = 5.0
"""Evidence that the prior version is worse in a harm metric, from which nobody goes back to it."""
NOT_NOW, ONE_REQUESTER, OTHER_INPUT, PINNED, FEW_CLIENTS = (
    "it is no longer so in the newest windows", "it rests on one requester, or on some who meet one version only",
    "the two versions are not sent the same kind of requests", "requesters always meet the same version", "too few requesters see them",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """All that is known of one comparison; what every look needs is computed once, for all windows. Arrays are [T] of one comparison."""

    trail: Trail
    evidence: Evidence
    policy: Policy
    history: History
    left_out: Mapping[str, Bools] = field(default_factory=dict)
    only_last: bool = False
    """Whether nobody looks at any window but the last: whose evidence it is, is then asked once."""
    parts: dict[loo.Group, dict[str, Floats]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def cols(self) -> Columns:
        return self.trail.cols

    @property
    def length(self) -> int:
        return len(self.trail.cols.times)

    @cached_property
    def part(self) -> float:
        """Share of the budget that this look may spend."""
        return budget.of_try(self.history.attempt(self.evidence.candidate)) * self.history.share

    @property
    def threshold(self) -> float:
        return self.policy.rollback_e / self.part

    @property
    def page_threshold(self) -> float:
        return self.policy.page_e / self.part

    @cached_property
    def served(self) -> Floats:
        """(prior, new) requests so far [T, 2]."""
        return np.asarray(np.cumsum(self.cols.n.sum(1), 0))

    # evidence, metric by metric, and what may be believed of it

    @cached_property
    def metrics(self) -> dict[str, list[Stream]]:
        """metric of harm -> its streams."""
        by_metric: dict[str, list[Stream]] = {}
        for stream in self.trail.streams:
            if stream.harm and stream.share > 0:
                by_metric.setdefault(stream.metric, []).append(stream)
        return by_metric

    @cached_property
    def strong(self) -> bool:
        """Whether anything was ever worth a closer look."""
        return bool((self.trail.e[:, 0] >= self.policy.watch_e).any())

    @cached_property
    def doubts(self) -> dict[str, dict[str, Bools]]:
        """metric -> why its evidence is not believed -> in which windows."""
        if not self.strong:
            return {}
        believed: dict[str, dict[str, Bools]] = {}
        for metric, streams in self.metrics.items():
            why = {NOT_NOW: ~self.still(streams), PINNED: self.trail.pinned[:, 0]}
            if metric in INPUT_DEPENDENT:
                why[OTHER_INPUT] = self.other_input
            if metric == "client":
                asked = np.minimum(self.policy.client_requesters, np.maximum(self.callers_so_far, 1))
                why[FEW_CLIENTS] = self.who_failed((Fault.CLIENT,)) < asked
            if metric in self.by_one:
                own = summed(streams)
                why[ONE_REQUESTER] = (self.by_one[metric] < self.threshold) & (own > self.by_one[metric] * 1.001)
            believed[metric] = why
        return believed

    @cached_property
    def sound(self) -> dict[str, Floats]:
        """metric -> its part of the evidence [T], as far as it may be believed."""
        return {metric: self._believed(metric, self.by_one) for metric in self.metrics}

    def _believed(self, metric: str, left: Mapping[str, Floats]) -> Floats:
        """The part of a metric, at most what `left` leaves of it, and nothing where it is in doubt for another reason than a requester."""
        e, shares = summed(self.metrics[metric]), sum(stream.share for stream in self.metrics[metric])
        e = np.minimum(e, left.get(metric, np.inf))
        for why, where in self.doubts.get(metric, {}).items():
            if why != ONE_REQUESTER:
                e = np.where(where, np.minimum(e, shares), e)
        return np.asarray(e)

    def _whole(self, parts: Iterable[Floats]) -> Floats:
        rest = 1 - sum(stream.share for streams in self.metrics.values() for stream in streams)
        return np.asarray(sum(parts, np.full(self.length, max(0.0, rest))))

    @cached_property
    def e(self) -> Floats:
        """The evidence of harm that may be believed [T]."""
        return self._whole(self.sound.values())

    @cached_property
    def calls(self) -> Floats:
        """The evidence that calls a person [T]: also what rests on one requester, where both versions serve that one as the split has it. It is
        a harm then, and one that a rollback for all the others need not be right for. So does what another kind of prompts cannot explain."""
        left, beyond = self.drawn or self.by_one, self.beyond_input
        if not self.drawn and not beyond:
            return self.e
        parts = (np.maximum(self._believed(metric, left), beyond.get(metric, 0.0)) for metric in self.metrics)
        return np.maximum(self.e, self._whole(parts))

    @cached_property
    def settled(self) -> Bools:
        """Windows in which no failure waits for its version [T]: the others show fewer failures than there were."""
        return ~np.isin(self.cols.times, [moment.timestamp() for moment in self.evidence.waiting])

    def still(self, streams: list[Stream]) -> Bools:
        """Whether the strongest of the streams speaks against the new version in the newest windows too [T]."""
        weighed = np.stack([stream.share * stream.e[:, 0] for stream in streams])
        verdicts = np.stack(
            [still(stream.logs[:, 0], self.index_of(stream.onset[:, 0]), self.settled) for stream in streams]
        )
        return np.asarray(verdicts[weighed.argmax(0), np.arange(self.length)])

    def index_of(self, minutes: Floats) -> Ints:
        """Windows by minutes since the first."""
        at: Ints = np.searchsorted(self.cols.times, self.cols.times[0] + 60 * minutes - 1e-6).astype(np.int64)
        return np.asarray(np.minimum(at, np.arange(self.length)))

    @cached_property
    def _looks(self) -> list[tuple[int, int]]:
        """Windows (first, end) for which it is asked at the first whose evidence it is: when it first reaches a page, and then after 1, 2, 4,
        ... more windows. None where no requester is known."""
        over = np.flatnonzero(self.trail.e[:, 0] >= self.policy.page_e)
        if not len(over) or not len(self.cols.callers.t):
            return []
        first, length = int(over[0]), self.length
        looks = [first + step for step in (0, *(2**k for k in range(32))) if first + step < length]
        spans = list(zip(looks, [*looks[1:], length], strict=True))
        return spans[-1:] if self.only_last else spans

    @cached_property
    def weighty(self) -> frozenset[str]:
        """Metrics with evidence enough that it matters whose it is."""
        where = slice(-1 if self.only_last else 0, None)
        return frozenset(m for m, streams in self.metrics.items() if summed(streams)[where].max() >= 1)

    def _without(self, who: loo.Group) -> dict[str, Floats]:
        """metric -> its part of the evidence without these requesters [T]."""
        if who not in self.parts:
            left = streams_of(self.weighty, loo.without(self.cols, who, self.weighty), self.policy)
            self.parts[who] = {m: summed([s for s in left if s.metric == m]) for m in self.weighty}
        return self.parts[who]

    @cached_property
    def by_one(self) -> dict[str, Floats]:
        """metric -> its part of the evidence without the requesters who carry most of it (see loo.heaviest) [T]."""
        out: dict[str, Floats] = {}
        for t, until in self._looks:
            for metric, people in loo.heaviest(self.cols, t, self.policy).items():
                for who in people if metric in self.weighty else ():
                    part = out.setdefault(metric, np.full(self.length, np.inf))
                    part[t:until] = np.minimum(part[t:until], self._without(who)[metric][t:until])
        return out

    @cached_property
    def drawn(self) -> dict[str, Floats]:
        """metric -> its part of the evidence without the requesters who look as if they were kept to one version [T]."""
        out = {metric: np.full(self.length, np.inf) for metric in self.weighty} if self._looks else {}
        for t, until in self._looks:
            if who := loo.odd(self.cols, t):
                for metric, part in out.items():
                    part[t:until] = self._without(who)[metric][t:until]
        return out

    def who_failed(self, kinds: tuple[Fault, ...]) -> Floats:
        """Distinct requesters that have seen the new version fail so, so far; 0 where nobody is known."""
        callers = self.cols.callers
        hit = (callers.faults[:, [FAULTS.index(kind) for kind in kinds]].sum(1) > 0) & (callers.arm == 1)
        _, first = np.unique(callers.who[hit], return_index=True)
        return np.cumsum(np.bincount(callers.t[hit][first], minlength=self.length)).astype(float)

    @cached_property
    def callers_so_far(self) -> Floats:
        """Distinct requesters so far [T]: where there are few, no more of them can be asked to have seen anything."""
        callers = self.cols.callers
        _, first = np.unique(callers.who, return_index=True)
        return np.cumsum(np.bincount(callers.t[first], minlength=self.length)).astype(float)

    # whether the versions are compared on the same

    @cached_property
    def other_input(self) -> Bools:
        """Whether the two versions are sent another kind of prompts: drift of the input against each other, or mean lengths apart, in what
        was served so far."""
        return self.longer[1] | self.drifted

    @property
    def drifted(self) -> bool:
        """Whether the input of the two versions was seen to differ, by how much is not known."""
        return any(
            d.kind == "input" and d.against == "prior" and d.model_version == self.evidence.candidate
            for d in self.evidence.drift
        )

    @cached_property
    def longer(self) -> tuple[Floats, Bools]:
        """(how far apart the versions' mean log lengths of prompts are [T], whether that is another kind of prompts [T])."""
        cols, sized = self.cols, np.flatnonzero(self.cols.sized)
        if cols.prompts is None or not len(sized):
            return np.zeros(self.length), np.zeros(self.length, bool)
        n, total = np.cumsum(cols.n[:, sized], 0), np.cumsum(cols.prompts[:, sized], 0)
        of, length = n.sum(1), np.log(np.maximum(total / np.maximum(n, 1), 1.0))
        mean = (n * length).sum(1) / np.maximum(of, 1)
        variance = (n * length**2).sum(1) / np.maximum(of, 1) - mean**2 + WITHIN**2
        known = (of >= 20).all(1) & (total.sum(1) > 0).all(1)
        gap = np.abs(mean[:, 1] - mean[:, 0])
        apart = (gap > INPUT_SD * np.sqrt((variance / np.maximum(of, 1)).sum(1))) & (gap > math.log(INPUT_RATIO))
        return gap, np.asarray(known & apart)

    @cached_property
    def beyond_input(self) -> dict[str, Floats]:
        """metric -> the part of the evidence that longer prompts do not explain [T]: slower by more than what is tolerated and the square of
        the ratio of lengths (what a request costs grows at most with its length; the other half is for what is not seen)."""
        gap, apart = self.longer
        asked = apart & (np.arange(self.length) == self.length - 1) if self.only_last else apart
        if not self.strong or self.drifted or not asked.any():
            return {}
        step = np.searchsorted(GAPS, gap)
        made: dict[str, Floats] = {
            metric: np.zeros(self.length) for metric in ("latency", "ttft") if metric in self.metrics
        }
        for i in np.unique(step[asked & (step < len(GAPS))]):
            wide = (1 + self.policy.latency_tolerance) * math.exp(2 * GAPS[i]) - 1
            policy = self.policy.model_copy(update={"latency_tolerance": wide})
            for metric, parts in made.items():
                own = [s for s in streams_of((metric,), self.cols, policy) if s.harm and s.share > 0]
                here = asked & (step == i) & self.still(own) & ~self.trail.pinned[:, 0]
                parts[here] = summed(own)[here]
        return made

    @cached_property
    def unmatched(self) -> Bools:
        """Whether hardly any request of the new version has one of its kind beside it [T]."""
        n = self.cols.n
        served = np.cumsum(n[..., 1].sum(1))
        beside = n[..., 0].sum(1) > 0
        shared = np.cumsum(np.where(n[..., 0] > 0, n[..., 1], 0.0).sum(1))
        at_once = np.cumsum(np.where(beside, n[..., 1].sum(1), 0.0))
        return np.asarray((at_once >= COMPARABLE_OF) & (shared < COMPARABLE * at_once) & (served > 0))

    @cached_property
    def planned(self) -> tuple[Floats, Floats, Floats]:
        """(seen (prior, new) [T, 2], hoped of new, log e against the plan) so far, of windows whose planned split is known."""
        cols = self.cols
        seen, expected, log_e = np.zeros((self.length, 2)), np.zeros(self.length), np.zeros(self.length)
        arrived = self.trail.windows[:, 0] > (cols.n[..., 1].sum(1) > 0)  # it came somewhere within its first window
        for planned in self.evidence.planned:
            if not 0 < planned.share < 1:
                continue
            within = cols.within(planned.since, planned.until) & arrived
            so_far = np.cumsum(cols.n.sum(1) * within[:, None], 0)
            seen += so_far
            expected += planned.share * so_far.sum(1)
            log_e += eprocess.log_e_split(so_far[:, 1], so_far[:, 0], planned.share)
        return seen, expected, log_e

    @cached_property
    def unseen(self) -> Floats:
        """Requests that the plan should have brought the new version since it was warm, as long as not one came [T]; else 0."""
        cols, total = self.cols, np.zeros(self.length)
        begun = self.evidence.deployed.timestamp() if self.evidence.deployed else float(cols.times[0])
        warm = cols.times >= begun + self.policy.warmup_s
        for planned in self.evidence.planned:
            if 0 < planned.share < 1:
                within = cols.within(planned.since, planned.until) & warm
                total += np.cumsum(cols.n[..., 0].sum(1) * within) * planned.share / (1 - planned.share)
        return np.where(self.served[:, 1] > 0, 0.0, total)

    @cached_property
    def unanswered(self) -> Floats:
        """Share of the new version's newest requests (LATELY_S) that got no answer, whoever's fault it was [T]; 0 where too few came."""
        cols = self.cols
        first = np.searchsorted(cols.times, cols.times + cols.width - LATELY_S)
        so_far = np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([cols.n, cols.failed])[..., 1].sum(2).T, 0)])
        arrived, failed = (so_far[1:] - so_far[first]).T
        return np.where(arrived >= LEAST_MISSING, failed / np.maximum(arrived, 1), 0.0)

    @cached_property
    def off_plan(self) -> Bools:
        """Sample-ratio mismatch: the seen split contradicts the plan, and its odds are off by more than SPLIT_ODDS."""
        seen, expected, log_e = self.planned
        odds = (seen[:, 1] + 0.5) / (seen[:, 0] + 0.5) * (seen.sum(1) - expected + 0.5) / (expected + 0.5)
        return np.asarray((log_e >= math.log(SPLIT_E)) & (np.abs(np.log(odds)) > math.log(SPLIT_ODDS)))

    # the prior version, history, safety

    @cached_property
    def reverse(self) -> dict[str, Floats]:
        """metric -> evidence that the *prior* version is worse in it [T]."""
        flipped, evidence = streams_of(self.metrics, self.cols.flipped(), self.policy), {}
        for metric in self.metrics:
            streams = [stream for stream in flipped if stream.metric == metric and stream.share > 0]
            evidence[metric] = (
                summed(streams) / sum(stream.share for stream in streams) if streams else np.zeros(self.length)
            )
        return evidence

    @cached_property
    def usual(self) -> Usual | None:
        return usual(self.evidence.usual, self.policy) if self.evidence.usual else None

    @cached_property
    def alarms(self) -> dict[str, Floats]:
        """metric -> the detector of a version that serves alone (see usual.alarms)."""
        return alarms(self.usual, self.cols, self.policy) if self.usual else {}

    @cached_property
    def missed(self) -> tuple[Floats, Floats, Floats]:
        """(requests lately, how many there usually are at least, seconds of lately) [T]."""
        if self.usual is None:
            return np.zeros(self.length), np.zeros(self.length), np.full(self.length, LATELY_S)
        return missing(self.usual, self.cols, LATELY_S, LEAST_MISSING)

    @cached_property
    def stale(self) -> Floats:
        """(known, older than the limit) of the newest half of the windows [T, 2 versions, 2]."""
        so_far = np.concatenate([np.zeros((1, 2, 2)), np.cumsum(self.cols.stale[:, 0], 0)])
        t = np.arange(self.length)
        return np.asarray(so_far[t + 1] - so_far[(t + 1) // 2])

    @cached_property
    def objective(self) -> Bools:
        """Whether the evidence that an arm breaks its error objective still grows [T, 2 versions]."""
        onset = self.trail.slo_onset[:, 0]
        logs = self.trail.slo_logs[:, 0]
        return np.stack([still(logs[:, arm], self.index_of(onset[:, arm]), self.settled) for arm in (0, 1)], -1)

    @cached_property
    def safe(self) -> Bools:
        """Whether what both versions did in the policy's `proof_s` says that the new one is not SAFE_RATIO times worse, or is well within its
        objective; and both served in the newest `proof_age_s`."""
        blocks, ended = self.trail.blocks, self.cols.times + self.cols.width
        first = np.searchsorted(self.cols.times, ended - self.policy.proof_s)

        def lately(values: Floats) -> Floats:
            known = np.where(self.settled.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)
            so_far = np.concatenate([np.zeros((1, *values.shape[1:])), np.cumsum(known, 0)])
            return np.asarray(so_far[1:] - so_far[first])

        beside = (self.cols.n.sum(1) > 0).all(1)
        last = np.maximum.accumulate(np.where(beside, ended, -np.inf))
        fresh = ended - last <= self.policy.proof_age_s
        n, x = (lately(blocks["errors"].n.sum(1)), lately(blocks["errors"].x[..., 0].sum(1)))
        fine = _below(n[:, 1], x[:, 1], self.policy.error_slo) | _not_worse(blocks["errors"], lately)
        seen, poor = (lately(v.sum(1)) for v in (blocks["quality"].n[..., 1], blocks["quality"].x[..., 1, 0]))
        good = (seen == 0) | _below(seen, poor, ANSWERS_SLO) | _not_worse(blocks["quality"], lately)
        return np.asarray(fresh & fine & good & _not_worse(blocks["latency"], lately))


def summed(streams: list[Stream]) -> Floats:
    """Evidence of a metric [T]: the sum of share x M."""
    return np.asarray(sum(stream.share * stream.e[:, 0] for stream in streams))


def still(logs: Floats, onset: Ints, settled: Bools) -> Bools:
    """logs [T, K] that each window added, window of the onset [T] -> whether the newest windows add to it too [T]: as many of them as added
    STILL_NATS on the way to the peak, by the alternative that fits best there, must add STILL_PART of that. Windows that are not settled
    say nothing about it, where others since the onset do."""
    at = np.flatnonzero(settled)
    if len(at) < len(logs):
        plain, last = _still(logs, onset), np.searchsorted(at, np.arange(len(logs)), "right") - 1
        known = _still(logs[at], np.searchsorted(at, onset[at])) if len(at) else plain
        speaks = (last >= 0) & (at[last] >= onset) if len(at) else np.zeros(len(logs), bool)
        return np.where(speaks, known[last], plain)
    return _still(logs, onset)


def _still(logs: Floats, onset: Ints) -> Bools:
    total = np.concatenate([np.zeros((1, logs.shape[1])), np.cumsum(logs, 0)])
    out = np.zeros(len(logs), bool)
    for begin in np.unique(onset):
        here = np.flatnonzero(onset == begin)
        gain = total[begin + 1 : here[-1] + 2] - total[begin]
        best = gain.max(1)
        risen = best > np.concatenate(
            [[-np.inf], np.maximum.accumulate(best)[:-1]]
        )  # windows that add nothing are past the peak
        peak = np.maximum.accumulate(np.where(risen, np.arange(len(best)), 0))[here - begin]
        which, most = gain[peak].argmax(1), best[peak]
        back = np.ceil(STILL_NATS * (peak + 1) / np.maximum(most, 1e-9))
        back = np.minimum(np.maximum(back, 1), here - begin + 1).astype(np.int64)
        newest = total[here + 1, which] - total[here + 1 - back, which]
        out[here] = (most > 0) & (newest > STILL_PART * np.minimum(STILL_NATS, most))
    return out


def _not_worse(blocks: Blocks, lately: Callable[[Floats], Floats]) -> Bools:
    n, x = blocks.n.reshape(-1, 2), blocks.x[..., 0].reshape(-1, 2)
    logs = eprocess.log_e_better(n[:, 1], n[:, 0], x[:, 1], x.sum(-1), SAFE_RATIO)
    total = lately(logs.reshape(*blocks.n.shape[:2], -1).sum(1))
    return np.asarray(np.logaddexp.reduce(total, -1) - math.log(total.shape[-1]) >= math.log(SAFE_E))


def _below(n: Floats, x: Floats, rate: float) -> Bools:
    """Evidence that a bad rate is below `rate`: the likelihood ratios of rate/2, rate/4 and rate/10, averaged."""
    logs = eprocess.log_e_above(n, np.minimum(x, n), rate, np.array([1 / 2, 1 / 4, 1 / 10]))
    return np.asarray(np.logaddexp.reduce(logs, -1) - math.log(3) >= math.log(SAFE_E))
