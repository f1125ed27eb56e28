"""Window counts, drift and deployment of one endpoint -> a verdict with its findings and one sentence (pure)."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime

import numpy as np

from lastgood.judge import guards, say
from lastgood.judge.case import Case
from lastgood.judge.columns import Columns, columns, in_range
from lastgood.judge.corrected import bets
from lastgood.judge.evidence import Drifted, Evidence, History, Planned
from lastgood.judge.fair import comparable
from lastgood.judge.look import Look
from lastgood.judge.trail import follow
from lastgood.record.fault import FAULTS
from lastgood.record.metrics import summary
from lastgood.record.verdict import State, Verdict
from lastgood.record.windows import bucket
from lastgood.settings import Policy


def judge(evidence: Evidence, policy: Policy, history: History, now: datetime) -> Verdict:
    """The verdict on the candidate. Missing, old or incomplete evidence is Inconclusive: never healthy, never a rollback."""
    case = case_of(evidence, policy, history, only_last=True)
    if case is None:
        return _nothing(evidence, now)
    return _verdict(Look(case, case.length - 1, now))


def changes(evidence: Evidence, policy: Policy, history: History) -> Iterator[Verdict]:
    """What `judge` would have said after every window, where the state changed: the replay of a day costs one pass."""
    case, last = case_of(evidence, policy, history), None
    if case is None:
        return
    for t in guards.turns(case):
        look = Look(case, int(t), case.cols.until(int(t)))
        state = guards.state(look)
        if state is not last:
            yield _verdict(look)
        last = state


def first_rollback(evidence: Evidence, policy: Policy, history: History) -> tuple[float, int | None]:
    """(largest evidence ever shown, first window after which the verdict was RollBack or None)."""
    case = case_of(evidence, policy, history)
    if case is None:
        return 1.0, None
    over = np.flatnonzero(case.trail.e[:, 0] >= case.threshold)
    over = over[case.e[over] >= case.threshold] if len(over) else over
    decided = (int(t) for t in over if guards.state(Look(case, int(t), case.cols.until(int(t)))) is State.ROLL_BACK)
    return float(case.trail.e[:, 0].max()), next(decided, None)


def case_of(evidence: Evidence, policy: Policy, history: History, only_last: bool = False) -> Case | None:
    """The comparison, or None without a window. only_last: for one look, after its last window."""
    given = evidence.windows
    if not isinstance(given, Columns):
        limit = bucket(policy.feature_age_limit_ms)
        given = columns(given, evidence.candidate, evidence.prior, evidence.window_s, limit)
    if not len(given.times):
        return None
    cols, left_out = comparable(in_range(given).since_new(), evidence, policy)
    judged = {name: bets(pairs, policy.score_tolerance) for name, pairs in evidence.judged.items() if len(pairs.at)}
    cols = replace(cols, judged=judged)
    return Case(follow(cols, policy)[0], evidence, policy, history, left_out, only_last)


def _nothing(evidence: Evidence, now: datetime) -> Verdict:
    reason = f"no closed window of version {evidence.candidate} yet"
    return Verdict(evidence.endpoint, evidence.candidate, evidence.prior, State.INCONCLUSIVE, reason, now)


def _verdict(look: Look) -> Verdict:
    evidence, state = look.evidence, guards.state(look)
    missing = None if state is State.PAGE else guards.missing(look)
    vetoes = guards.vetoes(look) if state.severity >= State.PAGE.severity else []
    findings = [] if missing else [*say.tests(look), *guards.others(look)]
    figures = {"new": _figures(look, 1), "prior": _figures(look, 0), "windows": look.windows, "trail": _numbers(look)}
    if evidence.drift:
        figures["drifted"] = [asdict(drifted) for drifted in evidence.drift]
    if evidence.deployed is not None:
        figures["deployed"] = evidence.deployed.isoformat()
    return Verdict(
        evidence.endpoint, evidence.candidate, evidence.prior, state, missing or say.reason(look, state, findings, vetoes), look.now,
        None if missing else look.onset, 1.0 if missing else look.e, tuple(findings), tuple(vetoes), figures,
        say.outlook(look, state), look.trail.cols.until(look.t),
    )  # fmt: skip


def _figures(look: Look, arm: int) -> dict[str, float | None]:
    windows, version = look.evidence.windows, look.evidence.candidate if arm else look.evidence.prior
    if isinstance(windows, Columns):
        totals = look.evidence.totals
        return summary([totals[version]]) if version is not None and version in totals else look.figures(arm)
    until = look.trail.cols.times[look.t]
    own = [o for o in windows if o.model_version == version and o.rows > 0 and o.start.timestamp() <= until]
    return summary(own)


def _numbers(look: Look) -> dict[str, object]:
    """The trail of numbers behind the verdict, for the audit."""
    streams = {
        stream.name: {
            "metric": stream.metric, "share": stream.share, "e": min(float(stream.e[look.t, 0]), 1e300),
            "new": [float(v) for v in stream.new[look.t, 0]], "prior": [float(v) for v in stream.prior[look.t, 0]],
        }
        for stream in look.trail.streams
        if stream.new[look.t, 0].any() or stream.prior[look.t, 0].any()
    }  # fmt: skip
    quantiles = {
        f"{name} p{q * 100:.0f}": {side: list(look.quantile(name, arm, q) or ()) for side, arm in (("new", 1), ("prior", 0))}
        for name in ("latency", "ttft") if name in look.trail.cols.histograms
        for q in (0.5, 0.95, 0.99)
    }  # fmt: skip
    return {
        "quantiles": quantiles,
        "threshold": look.case.threshold,
        "page_threshold": look.case.page_threshold,
        "attempt": look.history.attempt(look.evidence.candidate),
        "streams": streams,
        "sound": {metric: min(float(part[look.t]), 1e300) for metric, part in look.case.sound.items()},
        "doubts": look.doubts,
        "change": min(float(look.trail.change[look.t, 0]), 1e300),
        "requesters_hit": int(look.case.who_failed(FAULTS)[look.t]) if look.trail.known[look.t, 0] else None,
        "faults": {"new": look.faults(1), "prior": look.faults(0)},
        "left_out": look.left_out,
        "waiting": int((~look.case.settled).sum()),
        "blocks": int((look.trail.blocks["errors"].n[: look.t + 1].sum((1, 2)) > 0).sum()),
    }


__all__ = ["Drifted", "Evidence", "History", "Planned", "case_of", "changes", "first_rollback", "judge"]
