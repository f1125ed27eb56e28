"""One look at the evidence -> what is missing, what holds a rollback back, and the state that follows (pure)."""

import math

import numpy as np

from lastgood.judge.case import LATELY_S, LEAST_MISSING, REVERSE_E, Case
from lastgood.judge.columns import Ints
from lastgood.judge.look import Look
from lastgood.judge.usual import MISSED, since
from lastgood.record.fault import FAULTS, Fault
from lastgood.record.verdict import Finding, State
from lastgood.record.words import counted, percent

SLO_E, STALE_SHARE = 100.0, 0.5
MOST = 0.5
"""Share of requests without an answer, and of the requesters who see most of theirs so, from which a person is called."""
CHANGE_E = 20.0
"""Evidence of a change from which it is watched."""
ALARM_DAYS = 540.0
"""Days between false alarms of one metric of a version that serves alone: three metrics, half of a budget of one false page in 90 days."""
RUN_ALARM = 1.5 * ALARM_DAYS * 1440
"""The bound that keeps it although the usual rate is an estimate of four weeks (`python -m benchmarks.judge --promises`)."""
PAGING = {"error SLO", "run length", "missing requests", "unanswered requests"}


def missing(look: Look) -> str | None:
    """Why nothing can be said, or None."""
    if look.windows == 0:
        return f"no closed window of version {look.evidence.candidate} yet"
    age = (look.now - look.trail.cols.until(look.t)).total_seconds()
    if age > LATELY_S and (hoped := _hoped_since(look)) >= LEAST_MISSING:
        return f"{_none_since(look, hoped)}: they hang, or their telemetry is late"
    if age > look.policy.max_evidence_age_s:
        return f"the newest telemetry is {counted(age / 60, 'minute')} old: nobody is judged on old evidence"
    share = look.evidence.completeness
    if share is not None and share < look.policy.min_completeness:
        return f"only {percent(share)} of the expected telemetry has arrived"
    return None


def state(look: Look) -> State:
    """From the evidence to what follows from it."""
    if _own_count(look) or _none_came(look) or _silent(look):
        return State.PAGE
    if missing(look):
        return State.INCONCLUSIVE
    if look.e >= look.case.threshold:
        return State.PAGE if vetoes(look) else State.ROLL_BACK
    kinds = {finding.metric for finding in others(look)}
    if look.case.calls[look.t] >= look.case.page_threshold or kinds & PAGING:
        return State.PAGE
    if (
        kinds
        or float(look.trail.e[look.t, 0]) >= look.policy.watch_e
        or float(look.trail.change[look.t, 0]) >= CHANGE_E
    ):
        return State.WATCH
    return State.HEALTHY if look.served[1] and look.case.safe[look.t] else State.INCONCLUSIVE


def turns(case: Case) -> Ints:
    """The windows after which `state` may differ from the window before: where something it looks at crossed its limit. Where a
    rollback is near, or the split is off, all of them, for vetoes and missing requests depend on more."""
    trail, policy = case.trail, case.policy
    limits = [case.e >= case.threshold, case.calls >= case.page_threshold]
    alarms = [alarm >= RUN_ALARM * 60 / trail.cols.width for alarm in case.alarms.values()]
    arrived, hoped, _ = case.missed
    marks = np.stack([
        *limits, trail.e[:, 0] >= policy.watch_e, trail.change[:, 0] >= CHANGE_E, case.safe, case.off_plan, trail.windows[:, 0] > 0,
        case.served[:, 0] > 0, case.unmatched, (trail.slo[:, 0, 1] >= SLO_E) & case.objective[:, 1], *alarms,
        (hoped > 0) & (arrived < hoped * MISSED), case.unseen >= LEAST_MISSING, case.unanswered >= MOST,
        *(case.stale[..., 1] > STALE_SHARE * case.stale[..., 0]).T,
    ])  # fmt: skip
    turned = np.concatenate([[True], (marks[:, 1:] != marks[:, :-1]).any(0)])
    return np.flatnonzero(turned | limits[0] | case.off_plan)


def vetoes(look: Look) -> list[str]:
    """Reasons not to roll back, however strong the evidence: a person is paged."""
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
    if trail.slo[look.t, 0, 0] >= SLO_E and look.case.objective[look.t, 0]:
        reasons.append(f"prior version {evidence.prior} breaks its error objective too: look upstream")
    worse = [name for name, e in look.case.reverse.items() if e[look.t] >= REVERSE_E and name != metric]
    if worse:
        reasons.append(f"prior version {evidence.prior} is worse in {', '.join(sorted(worse))}")
    if metric in ("quality", "scores") and drifted_for_both(look):
        reasons.append("the input drifted for both versions")
    if metric in ("quality", "scores") and all((look.stale_share(arm) or 0) > STALE_SHARE for arm in (0, 1)):
        reasons.append("features are stale for both versions")
    if metric in ("errors", "client"):
        reasons += _too_few(look)
    if look.case.off_plan[look.t]:
        reasons.append("traffic is not split as planned, so the versions do not get comparable requests")
    if not policy.rollback_without_requesters and not trail.known[look.t, 0]:
        reasons.append("nothing says who sent the requests, and the policy asks for it")
    if look.windows < policy.min_windows:
        reasons.append(f"fewer than {counted(policy.min_windows, 'window')} seen")
    return reasons


def _too_few(look: Look) -> list[str]:
    """Failures so few, or of so few requesters, that they are one client's affair. A caller whom both versions serve request by
    request is a fair comparison by itself, so no more requesters are asked for than there are."""
    bad = float(look.trail.bad[look.t, 0])
    metric = look.lead.metric if look.lead else ""
    reasons = [f"only {bad:.0f} failed requests so far"] if bad < look.policy.min_bad and metric == "errors" else []
    if not look.trail.known[look.t, 0]:
        return reasons
    kinds = look.policy.rollback_faults if metric == "errors" else (Fault.CLIENT,)
    who = look.case.who_failed(kinds)[look.t]
    wanted = min(look.policy.min_requesters, int(look.case.callers_so_far[look.t]))
    return reasons + ([f"only {counted(who, 'requester')} have seen it fail"] if who < wanted else [])


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
    """Findings beside the comparisons: freshness, drift, objective, history, split, comparability."""
    evidence, policy, reasons = look.evidence, look.policy, []
    for arm, label in ((1, evidence.candidate), (0, evidence.prior)):
        share = look.stale_share(arm)
        if share is not None and share > STALE_SHARE:
            minutes = policy.feature_age_limit_ms / 60_000
            sentence = f"{percent(share)} of version {label}'s newest requests used features older than {counted(minutes, 'minute')}"
            reasons.append(Finding("freshness", sentence, new_rate=share))
    inputs = sorted(drifted_for_both(look))
    if inputs:
        reasons.append(Finding("input drift", f"the input drifted for both versions: {', '.join(inputs[:5])}"))
    if look.case.unmatched[look.t]:
        sentence = f"hardly any request of version {evidence.candidate} has one of its kind of {evidence.prior} beside it: nothing to compare"
        reasons.append(Finding("comparability", sentence))
    if unranged := [name for name in look.trail.cols.unranged if name not in policy.score_ranges]:
        sentence = (
            f"values of {', '.join(unranged)} are not within 0 to 1, so they are not judged: say policy.score_ranges"
        )
        reasons.append(Finding("score range", sentence))
    if ranged := [name for name in look.trail.cols.unranged if name in policy.score_ranges]:
        sentence = f"values of {', '.join(ranged)} lie outside of policy.score_ranges, or are of spans, to which it does not apply: they are not judged"
        reasons.append(Finding("score range", sentence))
    outputs = [drifted for drifted in evidence.drift if drifted.kind == "output" and drifted.against == "prior"]
    if outputs:
        worst = max(outputs, key=lambda drifted: drifted.low)
        sentence = (
            f"{worst.column} of {evidence.candidate} differs from {evidence.prior} (distance {worst.distance:.2f})"
        )
        reasons.append(Finding("output drift", sentence))
    return [
        *reasons,
        *_objective(look),
        *_split(look),
        *_history(look),
        *_own_count(look),
        *_none_came(look),
        *_silent(look),
        *_unanswered(look),
    ]


def _objective(look: Look) -> list[Finding]:
    """The new version breaks its error objective, and still does."""
    e, cols = float(look.trail.slo[look.t, 0, 1]), look.trail.cols
    if e < SLO_E or not look.case.objective[look.t, 1]:
        return []
    began = cols.times[0] + 60 * look.trail.slo_onset[look.t, 0, 1]
    rows = slice(int(cols.index(began)), look.t + 1)
    failed = look.trail.blocks["errors"].x[rows, :, 1, 0].sum()
    rate = float(failed / max(1.0, cols.n[rows, :, 1].sum()))
    sentence = f"{percent(rate)} of version {look.evidence.candidate}'s requests fail, the objective is {percent(look.policy.error_slo)}"
    return [Finding("error SLO", sentence, e, new_rate=rate)]


def _split(look: Look) -> list[Finding]:
    """A split that is not as planned; where most requests of the candidate lately miss, they hang, or nobody reports them."""
    candidate, t, cols = look.evidence.candidate, look.t, look.trail.cols
    served = look.case.served
    a = int(cols.index(cols.times[t] - LATELY_S))
    (prior, arrived), findings = served[t] - served[a], []
    if look.case.off_plan[t]:
        seen, expected, _ = look.case.planned
        got, plan = seen[t, 1] / seen[t].sum(), expected[t] / seen[t].sum()
        sentence = f"version {candidate} was planned {percent(plan)} of the traffic and got {percent(got)}"
        findings.append(Finding("split", sentence, new_rate=float(got)))
        new = expected[t] - expected[a]
        wanted, least = prior * new / max(seen[t].sum() - seen[a].sum() - new, 1e-9), 0.5
    elif not look.evidence.planned and served[a, 0] and served[a, 1]:
        wanted, least = prior * served[a, 1] / served[a, 0], 0.1  # the split may have been changed
    else:
        return findings
    if wanted >= LEAST_MISSING and arrived < wanted * least:
        sentence = (
            f"version {candidate} shows {arrived:.0f} of {counted(wanted, 'request')} that it should have served lately: "
            "they hang, fail unseen or are lost"
        )
        findings.insert(0, Finding("missing requests", sentence, new_rate=float(arrived / wanted)))
    return findings


def _history(look: Look) -> list[Finding]:
    """A version that serves alone, against the same hour of earlier weeks: failing or slower than ever, or fewer requests than ever."""
    cols, findings = look.trail.cols, []
    limit = RUN_ALARM * 60 / cols.width
    high = {metric: float(alarm[look.t]) for metric, alarm in look.case.alarms.items() if alarm[look.t] >= limit}
    if high:
        metric = max(high, key=lambda name: high[name])
        candidate = f"version {look.evidence.candidate}"
        since = float(cols.times[look.t] - 3600)
        if metric == "errors":
            rows = slice(int(cols.index(since)), look.t + 1)
            rate = float(look.trail.blocks["errors"].x[rows, :, 1, 0].sum() / max(1.0, cols.n[rows, :, 1].sum()))
            sentence = f"{percent(rate)} of {candidate}'s requests fail"
        else:
            rate = (look.quantile(metric, 1, 0.9, since) or (math.nan,))[0]
            sentence = f"{candidate} has p90 {'to the first token ' if metric == 'ttft' else ''}{rate:.0f} ms"
        sentence += (
            f", more than at this hour of earlier weeks; without cause this is said once in {ALARM_DAYS:.0f} days"
        )
        findings.append(Finding("run length", sentence, new_rate=rate))
    arrived, hoped, span = (float(part[look.t]) for part in look.case.missed)
    if hoped and arrived < hoped * MISSED:
        sentence = (
            f"{counted(arrived, 'request')} in {counted(span / 60, 'minute')}, and there never were fewer than {hoped:.0f} at this hour of earlier "
            "weeks: they hang or do not come"
        )
        findings.append(Finding("missing requests", sentence, new_rate=arrived / hoped))
    return findings


def _own_count(look: Look) -> list[Finding]:
    """Requests that the endpoint's own metrics counted and nobody saw end."""
    reported, seen = look.evidence.own_requests or (0.0, 0.0)
    if reported < LEAST_MISSING or seen >= reported / 2:
        return []
    sentence = f"the endpoint counted {counted(reported, 'request')} lately and {seen:.0f} were seen: they hang, or their telemetry is lost"
    return [Finding("missing requests", sentence, new_rate=seen / reported)]


def _hoped_since(look: Look) -> float:
    """The fewest requests that usually come between the newest one and now, of a version that served alone."""
    cols, t = look.trail.cols, look.t
    if look.case.usual is None or cols.n[t, :, 0].sum() > 0:
        return 0.0
    return since(look.case.usual, float(cols.times[t] + cols.width), look.now.timestamp())


def _none_since(look: Look, hoped: float) -> str:
    return f"no request since {look.trail.cols.until(look.t):%H:%M} UTC, and there never were fewer than {hoped:.0f} by this time of earlier weeks"


def _silent(look: Look) -> list[Finding]:
    """No request of a version that serves alone for longer than telemetry may take."""
    age = (look.now - look.trail.cols.until(look.t)).total_seconds()
    if age <= look.policy.max_evidence_age_s or (hoped := _hoped_since(look)) < LEAST_MISSING:
        return []
    return [
        Finding("missing requests", f"{_none_since(look, hoped)}: they hang, or their telemetry is lost", new_rate=0.0)
    ]


def _none_came(look: Look) -> list[Finding]:
    """A version that the plan gives traffic and that has not shown one request."""
    unseen = float(look.case.unseen[look.t])
    if unseen < LEAST_MISSING:
        return []
    sentence = (
        f"version {look.evidence.candidate} shows none of the {counted(unseen, 'request')} that it should have served since it was deployed: they "
        "hang, fail unseen or are lost"
    )
    return [Finding("missing requests", sentence, new_rate=0.0)]


def _unanswered(look: Look) -> list[Finding]:
    """Most requests of most requesters get no answer, whoever's fault each is: limits, filters and client errors are no harm of a version by
    themselves, but a version that refuses nearly everybody serves nobody. Where no requester is known, limits do not count: one client that
    sends without end is refused as often as it sends."""
    share, cols, t = float(look.case.unanswered[look.t]), look.trail.cols, look.t
    if share < MOST:
        return []
    a = int(cols.index(cols.times[t] + cols.width - LATELY_S))
    by_fault = cols.faults[a : t + 1, :, 1].sum((0, 1))
    callers = cols.callers.take((cols.callers.t >= a) & (cols.callers.t <= t) & (cols.callers.arm == 1))
    if look.trail.known[t, 0] and len(callers.t):
        _, who = np.unique(callers.who, return_inverse=True)
        sent, lost = (np.bincount(who, amount) for amount in (callers.n, callers.faults.sum(1)))
        general = (lost >= MOST * sent).mean() >= MOST
    else:
        arrived = cols.n[a : t + 1, :, 1].sum()
        general = by_fault.sum() - by_fault[FAULTS.index(Fault.LIMIT)] >= MOST * arrived
    if not general:
        return []
    kinds = ", ".join(str(FAULTS[i]) for i in np.argsort(-by_fault) if by_fault[i] >= 0.1 * by_fault.sum())
    sentence = f"{percent(share)} of version {look.evidence.candidate}'s requests lately got no answer ({kinds}), of most who ask"
    return [Finding("unanswered requests", sentence, new_rate=share)]
