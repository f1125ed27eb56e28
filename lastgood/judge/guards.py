"""One look at the evidence -> what is missing, what holds a rollback back, and the state that follows (pure)."""

import numpy as np

from lastgood.judge.columns import Ints
from lastgood.judge.look import Case, Look
from lastgood.record.verdict import Finding, State

SLO_E, STALE_SHARE = 100.0, 0.5
RUN_LENGTH, RUN_ALARM = 43_200.0, 1.5 * 43_200.0
"""Minutes between false alarms that are promised where no prior version serves, and the bound that keeps it although the usual rate is an
estimate of four weeks (`python -m benchmarks.judge --promises`)."""
LATELY_S, LEAST_MISSING = 600.0, 100.0
"""Requests of the candidate are missed when of at least so many that the plan hoped for, in so many seconds, fewer than half came."""


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
    kinds = {finding.metric for finding in others(look)}
    if (
        look.e >= policy.page_e
        or kinds & {"error SLO", "run length", "missing requests"}
        or look.case.page_only[look.t]
    ):
        return State.PAGE
    if look.e >= policy.watch_e or kinds:
        return State.WATCH
    return State.HEALTHY if look.served[1] and look.case.safe[look.t] else State.INCONCLUSIVE


def turns(case: Case) -> Ints:
    """The windows after which `state` may differ from the window before: where something it looks at crossed its limit. Where a
    rollback is near, or the split is off, all of them, for vetoes and missing requests depend on more."""
    trail, policy = case.trail, case.policy
    e, stale, length = trail.e[:, 0], case.stale, RUN_ALARM * 60 / trail.cols.width
    limits = [e >= limit for limit in (case.threshold, policy.page_e, policy.watch_e)]
    marks = np.stack([
        *limits, case.page_only, case.safe, case.off_plan, trail.windows[:, 0] > 0, case.served[:, 0] > 0,
        trail.slo[:, 0, 1] >= SLO_E, case.run_length >= length,
        *(stale[..., 1] > STALE_SHARE * stale[..., 0]).T,
    ])  # fmt: skip
    turned = np.concatenate([[True], (marks[:, 1:] != marks[:, :-1]).any(0)])
    return np.flatnonzero(turned | limits[0] | case.off_plan)


def vetoes(look: Look) -> list[str]:
    """Reasons not to roll back, however strong the evidence."""
    evidence, policy, history, trail = look.evidence, look.policy, look.history, look.trail
    if evidence.prior is None:
        return ["no prior version is known"]
    reasons = []
    if evidence.prior_ready is False:
        reasons.append(f"prior version {evidence.prior} is not ready")
    if evidence.prior in history.rolled_back:
        reasons.append(f"prior version {evidence.prior} was itself rolled back")
    if history.last_rollback and (look.now - history.last_rollback).total_seconds() < policy.cooldown_s:
        reasons.append(f"rolled back at {history.last_rollback:%H:%M}, cooling down")
    metric = look.lead.metric if look.lead else ""
    if metric == "errors" and trail.slo[look.t, 0, 0] >= SLO_E:
        reasons.append(f"prior version {evidence.prior} breaks its error objective too: look upstream")
    if metric in ("quality", "scores") and drifted_for_both(look):
        reasons.append("the input drifted for both versions")
    if metric in ("quality", "scores") and all((look.stale_share(arm) or 0) > STALE_SHARE for arm in (0, 1)):
        reasons.append("features are stale for both versions")
    if metric == "errors":
        reasons += _too_few(look)
    if look.case.off_plan[look.t]:
        reasons.append("traffic is not split as planned, so the versions do not get comparable requests")
    if trail.clumped[look.t, 0]:
        reasons.append("requests are not routed one by one, and nothing says who sent them")
    if not policy.rollback_without_requesters and not trail.known[look.t, 0]:
        reasons.append("nothing says who sent the requests, and the policy asks for it")
    if look.windows < policy.min_windows:
        reasons.append(f"fewer than {policy.min_windows} windows seen")
    return reasons


def _too_few(look: Look) -> list[str]:
    """Failures so few, or of so few requesters, that they are one client's affair. A caller whom both versions serve request by
    request is a fair comparison by itself, so then no more requesters are asked for than there are."""
    bad, who = float(look.trail.bad[look.t, 0]), float(look.trail.bad_requesters[look.t, 0])
    reasons = [f"only {bad:.0f} failed requests so far"] if bad < look.policy.min_bad else []
    wanted, served = look.policy.min_requesters, look.trail.cols.requesters
    if look.by_request and look.trail.known[look.t, 0]:
        wanted = min(wanted, len(np.unique(served.who[(served.t <= look.t) & (served.n > 0)])))
    return reasons + ([f"only {who:.0f} requesters have seen it fail"] if who < wanted and len(served.t) else [])


def drifted_for_both(look: Look) -> set[str]:
    """Input columns that moved away from the reference for both versions."""
    moved = [
        {
            drifted.column
            for drifted in look.evidence.drift
            if (drifted.kind, drifted.against, drifted.model_version) == ("input", "reference", version)
        }
        for version in (look.evidence.candidate, look.evidence.prior)
    ]
    return moved[0] & moved[1]


def others(look: Look) -> list[Finding]:
    """Findings beside the comparisons: freshness, drift, objective, run length, split."""
    evidence, policy, reasons = look.evidence, look.policy, []
    for arm, label in ((1, evidence.candidate), (0, evidence.prior)):
        share = look.stale_share(arm)
        if share is not None and share > STALE_SHARE:
            minutes = policy.feature_age_limit_ms / 60_000
            sentence = (
                f"{share:.0%} of version {label}'s newest requests used features older than {minutes:.0f} minutes"
            )
            reasons.append(Finding("freshness", sentence, new_rate=share))
    inputs = sorted(drifted_for_both(look))
    if inputs:
        reasons.append(Finding("input drift", f"the input drifted for both versions: {', '.join(inputs[:5])}"))
    outputs = [drifted for drifted in evidence.drift if drifted.kind == "output" and drifted.against == "prior"]
    if outputs:
        worst = max(outputs, key=lambda drifted: drifted.low)
        sentence = (
            f"{worst.column} of {evidence.candidate} differs from {evidence.prior} (distance {worst.distance:.2f})"
        )
        reasons.append(Finding("output drift", sentence))
    e = float(look.trail.slo[look.t, 0, 1])
    if e >= SLO_E:
        cols = look.trail.cols
        began = cols.times[0] + 60 * look.trail.slo_onset[look.t, 0, 1]
        rows = slice(int(np.searchsorted(cols.times, began)), look.t + 1)
        rate = float(cols.failed[rows, :, 1].sum() / max(1.0, cols.n[rows, :, 1].sum()))
        sentence = (
            f"{rate:.1%} of version {evidence.candidate}'s requests fail, the objective is {policy.error_slo:.1%}"
        )
        reasons.append(Finding("error SLO", sentence, e, new_rate=rate))
    reasons += _split(look)
    return reasons + _run_length(look)


def _split(look: Look) -> list[Finding]:
    """A split that is not as planned; where most requests of the candidate lately miss, they hang, or nobody reports them."""
    if not look.case.off_plan[look.t]:
        return []
    candidate, unit = look.evidence.candidate, 0 if look.by_request else 1
    (seen, expected, _), t = look.case.planned, look.t
    got, plan = seen[unit, t, 1] / seen[unit, t].sum(), expected[unit, t] / seen[unit, t].sum()
    sentence = f"version {candidate} was planned {plan:.0%} of the traffic and got {got:.0%}"
    findings = [Finding("split", sentence, new_rate=float(got))]
    a = int(np.searchsorted(look.trail.cols.times, look.trail.cols.times[t] - LATELY_S))
    (prior, arrived), new = seen[0, t] - seen[0, a], expected[0, t] - expected[0, a]
    wanted = prior * new / max(prior + arrived - new, 1e-9)
    if wanted >= LEAST_MISSING and arrived < wanted / 2:
        sentence = f"version {candidate} shows {arrived:.0f} of {wanted:.0f} requests planned lately: they hang, fail unseen or are lost"
        findings.insert(0, Finding("missing requests", sentence, new_rate=float(arrived / wanted)))
    return findings


def _run_length(look: Look) -> list[Finding]:
    """Where no prior version served beside it: more failures than the hour of the week ever had (see eprocess.alarm)."""
    cols = look.trail.cols
    if look.case.run_length[look.t] < RUN_ALARM * 60 / cols.width:
        return []
    x, n = (v[: look.t + 1, :, 1] for v in (cols.failed, cols.n))
    sentence = (
        f"{x.sum() / max(1.0, n.sum()):.1%} of version {look.evidence.candidate}'s requests fail, more than at this hour of "
        f"earlier weeks; without cause this is said once in {RUN_LENGTH / 1440:.0f} days"
    )
    return [Finding("run length", sentence, new_rate=float(x.sum() / max(1.0, n.sum())))]
