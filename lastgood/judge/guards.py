"""One look at the evidence -> what is missing, what holds a rollback back, and the state that follows (pure)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lastgood.config import Policy
from lastgood.judge import eprocess
from lastgood.judge.eprocess import Floats
from lastgood.judge.streams import Blocks, Stream
from lastgood.judge.trail import REQUEST, Trail
from lastgood.judge.verdict import Finding, State
from lastgood.windows import middle

if TYPE_CHECKING:
    from lastgood.judge.judge import Evidence, History

SAFE_RATIO, SAFE_E, GONE_E, SLO_E, SPLIT_E, ANSWERS_SLO = 1.5, 20.0, 3.0, 100.0, 1000.0, 0.05
STALE_SHARE = 0.5
FIRST_ATTEMPT = 0.9
"""Part of the budget that a version's first attempt may use; the others share the rest (see `budget`)."""
RUN_LENGTH, PSEUDO, TOLERATED_RISE = 43_200.0, 2_000.0, 1.25


def budget(attempt: int) -> float:
    """Share of the false-rollback budget for the attempt-th try of one version (1, 2, ...): sums to 1 over all tries."""
    return FIRST_ATTEMPT if attempt <= 1 else (1 - FIRST_ATTEMPT) * 6 / (math.pi * (attempt - 1)) ** 2


@dataclass(frozen=True)
class Case:
    """All that is known of one comparison; what every look needs is computed once, for all windows."""

    trail: Trail
    evidence: "Evidence"
    policy: Policy
    history: "History"

    @cached_property
    def threshold(self) -> float:
        return self.policy.rollback_e / (budget(self.history.attempt) * self.history.share)

    @cached_property
    def served(self) -> Floats:
        """(prior, new) requests so far [T, 2]."""
        return np.asarray(np.cumsum(self.trail.cols.n.sum(1), 0))

    @cached_property
    def people(self) -> Floats:
        """(prior, new) distinct requesters served so far [T, 2]."""
        found = self.trail.cols.requesters
        counted = np.zeros((len(self.trail.cols.times), 2))
        for arm in (0, 1):
            use = (found.arm == arm) & (found.n > 0)
            _, first = np.unique(found.who[use], return_index=True)
            np.add.at(counted, (found.t[use][first], arm), 1)
        return np.asarray(np.cumsum(counted, 0))

    @cached_property
    def off_plan(self) -> npt.NDArray[np.bool_]:
        """Sample-ratio mismatch [T]: the seen split contradicts the plan (of requesters where they are the unit)."""
        planned, length = self.evidence.planned_share, len(self.trail.cols.times)
        if planned is None or not 0 < planned < 1:
            return np.zeros(length, bool)
        unit = np.where((self.trail.routing[:, 0] == REQUEST)[:, None], self.served, self.people)
        return np.asarray(eprocess.log_e_split(unit[:, 1], unit[:, 0], planned) >= math.log(SPLIT_E))

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

    @property
    def trail(self) -> Trail:
        return self.case.trail

    @property
    def evidence(self) -> "Evidence":
        return self.case.evidence

    @property
    def policy(self) -> Policy:
        return self.case.policy

    @property
    def history(self) -> "History":
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
        streams = [one for one in self.trail.counted(self.t) if one.share > 0]
        return max(streams, key=lambda one: one.share * float(one.e[self.t, 0]), default=None)

    @cached_property
    def onset(self) -> datetime | None:
        """Since when the lead stream speaks against the candidate; None while it does not."""
        if self.lead is None or self.lead.e[self.t, 0] <= 1:
            return None
        began = float(self.trail.cols.times[0]) + 60 * float(self.lead.onset[self.t, 0])
        return datetime.fromtimestamp(round(began), UTC)

    def stale_share(self, arm: int) -> float | None:
        """Share of the newest half's requests whose features were older than the limit; None when no age is known."""
        known, old = self.trail.cols.stale[(self.t + 1) // 2 : self.t + 1, 0, arm].sum(0)
        return float(old / known) if known else None

    def figures(self, arm: int) -> dict[str, float | None]:
        """Figures of one version from the columns, by the names of metrics.CATALOGUE (those the columns can tell)."""
        cols, upto = self.trail.cols, slice(0, self.t + 1)
        n, failed, answers, bad = (float(v[upto, :, arm].sum()) for v in (cols.n, cols.failed, cols.answers, cols.bad))
        found: dict[str, float | None] = {"requests": n, "error_rate": failed / n if n else None}
        found |= {f"p{q * 100:.0f}_ms": self.quantile("latency", arm, q) for q in (0.5, 0.95, 0.99)}
        return found | {
            "ttft_p95_ms": self.quantile("ttft", arm, 0.95),
            "bad_answers": bad / answers if answers else None,
        }

    def quantile(self, name: str, arm: int, q: float, since: float = -math.inf) -> float | None:
        """Quantile of a histogram over the windows from `since` (epoch seconds) to t."""
        found = self.trail.cols.histograms.get(name)
        if found is None:
            return None
        use = (found.t <= self.t) & (found.arm == arm) & (self.trail.cols.times[found.t] >= since)
        if not use.any():
            return None
        bins, where = np.unique(found.bucket[use], return_inverse=True)
        ranked = np.cumsum(np.bincount(where, found.weight[use]))
        return middle(int(bins[int((ranked >= (q - 1e-9) * ranked[-1]).argmax())]))


def missing(look: Look) -> str | None:
    """Why nothing can be said, or None."""
    if look.windows == 0:
        return f"no closed window of version {look.evidence.candidate} yet"
    age = (look.now - look.trail.cols.until(look.t)).total_seconds()
    if age > look.policy.max_evidence_age_s:
        return f"the newest telemetry is {age / 60:.0f} minutes old: nobody is judged on old evidence"
    share = look.evidence.completeness
    if share is not None and share < look.policy.min_completeness:
        return f"only {share:.0%} of the expected telemetry has arrived"
    return None


def state(look: Look) -> State:
    """From the evidence to what follows from it."""
    if missing(look):
        return State.INCONCLUSIVE
    policy = look.policy
    if look.e >= look.case.threshold:
        return State.PAGE if vetoes(look) else State.ROLL_BACK
    kinds = {one.metric for one in others(look)}
    if look.e >= policy.page_e or kinds & {"error SLO", "run length"} or page_only(look):
        return State.PAGE
    if look.e >= policy.watch_e or kinds:
        return State.WATCH
    return State.HEALTHY if look.served[1] and look.case.safe[look.t] else State.INCONCLUSIVE


def page_only(look: Look) -> bool:
    """Counting by requester, what only requests can say (tokens, first token, answers, scores) may page, never roll back."""
    if look.by_request:
        return False
    aside = {one.metric for one in look.trail.sticky}
    return any(
        one.metric not in aside and one.share * one.e[look.t, 0] >= look.policy.rollback_e for one in look.trail.streams
    )


def vetoes(look: Look) -> list[str]:
    """Reasons not to roll back, however strong the evidence."""
    evidence, policy, history, trail = look.evidence, look.policy, look.history, look.trail
    if evidence.prior is None:
        return ["no prior version is known"]
    found = []
    if evidence.prior_ready is False:
        found.append(f"prior version {evidence.prior} is not ready")
    if evidence.prior in history.rolled_back:
        found.append(f"prior version {evidence.prior} was itself rolled back")
    if history.last_rollback and (look.now - history.last_rollback).total_seconds() < policy.cooldown_s:
        found.append(f"rolled back at {history.last_rollback:%H:%M}, cooling down")
    if trail.slo[look.t, 0, 0] >= SLO_E:
        found.append(f"prior version {evidence.prior} breaks its error objective too: look upstream")
    metric = look.lead.metric if look.lead else ""
    if metric in ("quality", "scores") and drifted_for_both(look):
        found.append("the input drifted for both versions")
    if metric in ("quality", "scores") and all((look.stale_share(arm) or 0) > STALE_SHARE for arm in (0, 1)):
        found.append("features are stale for both versions")
    if metric == "errors":
        found += _too_few(look)
    if look.case.off_plan[look.t]:
        found.append("traffic is not split as planned, so the versions do not get comparable requests")
    if trail.clumped[look.t, 0]:
        found.append("requests are not routed one by one, and nothing says who sent them")
    if look.windows < policy.min_windows:
        found.append(f"fewer than {policy.min_windows} windows seen")
    return found


def _too_few(look: Look) -> list[str]:
    """Failures so few, or of so few requesters, that they are one client's affair. A caller whom both versions serve request by
    request is a fair comparison by itself, so then no more requesters are asked for than there are."""
    bad, who = float(look.trail.bad[look.t, 0]), float(look.trail.bad_requesters[look.t, 0])
    found = [f"only {bad:.0f} failed requests so far"] if bad < look.policy.min_bad else []
    wanted, served = look.policy.min_requesters, look.trail.cols.requesters
    if look.by_request and look.trail.known[look.t, 0]:
        wanted = min(wanted, len(np.unique(served.who[(served.t <= look.t) & (served.n > 0)])))
    return found + ([f"only {who:.0f} requesters have seen it fail"] if who < wanted and len(served.t) else [])


def drifted_for_both(look: Look) -> set[str]:
    """Input columns that moved away from the reference for both versions."""
    moved = [
        {
            one.column
            for one in look.evidence.drift
            if (one.kind, one.against, one.model_version) == ("input", "reference", version)
        }
        for version in (look.evidence.candidate, look.evidence.prior)
    ]
    return moved[0] & moved[1]


def others(look: Look) -> list[Finding]:
    """Findings beside the comparisons: freshness, drift, objective, run length, split."""
    evidence, policy, found = look.evidence, look.policy, []
    for arm, label in ((1, evidence.candidate), (0, evidence.prior)):
        share = look.stale_share(arm)
        if share is not None and share > STALE_SHARE:
            minutes = policy.feature_age_limit_ms / 60_000
            said = f"{share:.0%} of version {label}'s newest requests used features older than {minutes:.0f} minutes"
            found.append(Finding("freshness", said, new_rate=share))
    inputs = sorted(drifted_for_both(look))
    if inputs:
        found.append(Finding("input drift", f"the input drifted for both versions: {', '.join(inputs[:5])}"))
    outputs = [one for one in evidence.drift if one.kind == "output" and one.against == "prior"]
    if outputs:
        worst = max(outputs, key=lambda one: one.low)
        said = f"{worst.column} of {evidence.candidate} differs from {evidence.prior} (distance {worst.distance:.2f})"
        found.append(Finding("output drift", said))
    e = float(look.trail.slo[look.t, 0, 1])
    if e >= SLO_E:
        cols = look.trail.cols
        began = cols.times[0] + 60 * look.trail.slo_onset[look.t, 0, 1]
        rows = slice(int(np.searchsorted(cols.times, began)), look.t + 1)
        rate = float(cols.failed[rows, :, 1].sum() / max(1.0, cols.n[rows, :, 1].sum()))
        said = f"{rate:.1%} of version {evidence.candidate}'s requests fail, the objective is {policy.error_slo:.1%}"
        found.append(Finding("error SLO", said, e, new_rate=rate))
    if look.case.off_plan[look.t]:
        seen = look.served[0] / max(1.0, sum(look.served))
        said = (
            f"version {evidence.candidate} was planned {evidence.planned_share:.0%} of the traffic and got {seen:.0%}"
        )
        found.append(Finding("split", said, new_rate=seen))
    return found + _run_length(look)


def _run_length(look: Look) -> list[Finding]:
    """Where no prior version served beside it: more failures than the hour of the week ever had (see eprocess.alarm)."""
    cols = look.trail.cols
    if look.case.run_length[look.t] < RUN_LENGTH * 60 / cols.width:
        return []
    x, n = (v[: look.t + 1, :, 1] for v in (cols.failed, cols.n))
    said = (
        f"{x.sum() / max(1.0, n.sum()):.1%} of version {look.evidence.candidate}'s requests fail, more than at this hour of "
        f"earlier weeks; without cause this is said once in {RUN_LENGTH / 1440:.0f} days"
    )
    return [Finding("run length", said, new_rate=float(x.sum() / max(1.0, n.sum())))]


def expected_rate(base: Mapping[int, tuple[float, float]], times: Floats) -> Floats:
    """Failure rate per window from the hour of the week, shrunk towards the overall rate with PSEUDO requests."""
    table = dict(base)
    whole = [sum(one[i] for one in table.values()) for i in (0, 1)]
    overall = (whole[1] + 1) / (whole[0] + 100)
    hours = ((times // 3600 - 4 * 24) % 168).astype(int)
    rates = {h: (x + PSEUDO * overall) / (n + PSEUDO) for h, (n, x) in table.items()}
    return np.array([rates.get(int(h), overall) for h in hours])


def dispersion(base: Mapping[int, tuple[float, float]]) -> float:
    """phi >= 1 of the hourly failure counts around the overall rate."""
    rows = np.array([one for one in base.values() if one[0] > 0], float)
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


__all__ = ["Case", "Look", "budget", "missing", "others", "state", "vetoes"]
