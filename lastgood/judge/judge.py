"""Window counts, drift and deployment of one endpoint -> a verdict with its findings and one sentence (pure)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from lastgood import metrics
from lastgood.config import Policy
from lastgood.judge import blocks, eprocess
from lastgood.judge.verdict import Finding, State, Verdict
from lastgood.windows import Counts, above, bucket, merge

WEIGHTS = {"errors": 0.4, "latency": 0.3, "quality": 0.3}
SAFE_RATIO, SAFE_E, SLO_E = 1.5, 20.0, 100.0
STALE_SHARE = 0.5


@dataclass(frozen=True)
class Drifted:
    """A column found drifted: `against` is reference or prior, `kind` input or output, distance 0-1 with lower limit."""

    model_version: str
    against: str
    kind: str
    column: str
    distance: float
    low: float


@dataclass(frozen=True)
class Evidence:
    """All that is known of one endpoint. `windows`: closed windows of both versions. `completeness`: rows seen over
    rows expected, None when nothing says what to expect. `prior_ready`: whether the prior version could serve, None: unknown."""

    endpoint: str
    candidate: str
    prior: str | None
    windows: Sequence[Counts]
    window_s: int
    drift: Sequence[Drifted] = ()
    completeness: float | None = None
    prior_ready: bool | None = None


@dataclass(frozen=True)
class History:
    """What was done before: when this endpoint was last rolled back, and which versions were rolled back."""

    last_rollback: datetime | None = None
    rolled_back: frozenset[str] = field(default_factory=frozenset)


def judge(evidence: Evidence, policy: Policy, history: History, now: datetime) -> Verdict:
    """The verdict on the candidate. Missing, old or incomplete evidence is Inconclusive: never healthy, never a rollback."""
    new = [one for one in evidence.windows if one.model_version == evidence.candidate and one.rows > 0]
    old = [one for one in evidence.windows if one.model_version == evidence.prior and one.rows > 0]
    missing = _missing(evidence, policy, new, now)
    figures = {
        "new": summary(new),
        "prior": summary(old),
        "windows": len({one.start for one in new}),
    }
    base = Verdict(
        evidence.endpoint,
        evidence.candidate,
        evidence.prior,
        State.INCONCLUSIVE,
        missing or "",
        now,
        figures=figures,
    )
    if missing:
        return base
    tests = _tests(evidence, policy) if old else {}
    findings = [finding for finding, _ in tests.values()] + _side_findings(evidence, policy, new, old)
    e = math.fsum(WEIGHTS[name] * finding.e_value for name, (finding, _) in tests.items() if finding.e_value)
    e += 1 - math.fsum(WEIGHTS[name] for name in tests)
    lead = max(tests, key=lambda name: tests[name][0].e_value or 0.0, default=None)
    since = tests[lead][1] if lead else None
    vetoes = _vetoes(evidence, policy, history, new, old, lead, now)
    state = _state(evidence, policy, new, old, findings, e, vetoes)
    reason = _reason(state, evidence, findings, lead, since, e, vetoes, new)
    return Verdict(
        evidence.endpoint,
        evidence.candidate,
        evidence.prior,
        state,
        reason,
        now,
        since,
        e,
        tuple(findings),
        tuple(vetoes),
        figures,
    )


def summary(windows: Sequence[Counts]) -> dict[str, float | None]:
    """Figures of one version (see metrics.CATALOGUE)."""
    return metrics.figures(merge(windows, stratum="all")) if windows else {"requests": 0.0}


def _missing(evidence: Evidence, policy: Policy, new: Sequence[Counts], now: datetime) -> str | None:
    if not new:
        return f"no closed window of version {evidence.candidate} yet"
    newest = max(one.start for one in evidence.windows) + timedelta(seconds=evidence.window_s)
    if (now - newest).total_seconds() > policy.max_evidence_age_s:
        return f"the newest telemetry is {(now - newest).total_seconds() / 60:.0f} minutes old: nobody is judged on old evidence"
    if evidence.completeness is not None and evidence.completeness < policy.min_completeness:
        return f"only {evidence.completeness:.0%} of the expected telemetry has arrived"
    return None


def _tests(evidence: Evidence, policy: Policy) -> dict[str, tuple[Finding, datetime | None]]:
    """The comparisons with the prior version, where both served at the same time."""
    pairs = blocks.pair(evidence.windows, evidence.candidate, evidence.prior or "")
    found = {}
    counted = {
        "errors": (blocks.errors(pairs), policy.error_tolerance),
        "quality": (blocks.quality(pairs), policy.quality_tolerance),
    }
    for name, (made, tolerance) in counted.items():
        if made:
            found[name] = _finding(
                name,
                evidence,
                made,
                eprocess.worse(made, tolerance, policy.horizon_windows),
            )
    per_quantile = blocks.latency(pairs, policy.latency_tolerance)
    runs = {q: eprocess.worse(made, 1.0, policy.horizon_windows) for q, made in per_quantile.items() if made}
    if runs:
        top = max(runs, key=lambda q: runs[q].e)
        mean = eprocess.Evidence(math.fsum(one.e for one in runs.values()) / len(runs), runs[top].since)
        found["latency"] = _finding("latency", evidence, per_quantile[top], mean)
    return found


_VERBS = {"errors": "fails", "latency": "is slow", "quality": "gives bad answers"}


def _finding(
    name: str,
    evidence: Evidence,
    made: Sequence[eprocess.Block],
    value: eprocess.Evidence,
) -> tuple[Finding, datetime | None]:
    ratio, low, high = eprocess.ratio_interval(made)
    rates = [
        math.fsum(getattr(b, x) for b in made) / max(1e-9, math.fsum(getattr(b, n) for b in made))
        for x, n in (("x1", "n1"), ("x0", "n0"))
    ]
    since = datetime.fromtimestamp(value.since, UTC) if value.since is not None else None
    times = (
        f"{ratio:.1f} times as often as {evidence.prior}" if ratio is not None else f"more often than {evidence.prior}"
    )
    between = (
        f" (between {low:.1f} and {high:.1f})" if ratio is not None and low is not None and high is not None else ""
    )
    if name == "latency":
        means = [
            blocks.quantile_ms([c for c in evidence.windows if c.model_version == v], 0.95) or 0
            for v in (evidence.candidate, evidence.prior)
        ]
        sentence = (
            f"version {evidence.candidate} has p95 {means[0]:.0f} ms against {means[1]:.0f} ms of {evidence.prior}"
        )
    else:
        sentence = (
            f"version {evidence.candidate} {_VERBS[name]} {times}{between}: {rates[0]:.1%} against {rates[1]:.1%}"
        )
    return Finding(name, sentence, value.e, ratio, low, high, rates[0], rates[1]), since


def stale_share(windows: Sequence[Counts], limit_ms: float) -> float | None:
    """Share of requests whose features were older than the limit; None when no age is known."""
    known = merge(windows).feature_age if windows else {}
    total = math.fsum(known.values())
    return above(known, bucket(limit_ms)) / total if total else None


def _recent(windows: Sequence[Counts], share: float = 0.5) -> list[Counts]:
    """The newest part of the windows: staleness is a question of now."""
    starts = sorted({one.start for one in windows})
    cut = starts[int(len(starts) * (1 - share))] if starts else None
    return [one for one in windows if cut is not None and one.start >= cut]


def _both_stale(policy: Policy, new: Sequence[Counts], old: Sequence[Counts]) -> bool:
    shares = [stale_share(_recent(side), policy.feature_age_limit_ms) for side in (new, old)]
    return all(share is not None and share > STALE_SHARE for share in shares)


def _drifted_for_both(evidence: Evidence) -> set[str]:
    """Input columns that moved away from the reference for both versions."""
    moved = [
        {
            one.column
            for one in evidence.drift
            if one.kind == "input" and one.against == "reference" and one.model_version == v
        }
        for v in (evidence.candidate, evidence.prior)
    ]
    return moved[0] & moved[1]


def _side_findings(evidence: Evidence, policy: Policy, new: Sequence[Counts], old: Sequence[Counts]) -> list[Finding]:
    found = []
    for label, side in ((evidence.candidate, new), (evidence.prior, old)):
        share = stale_share(_recent(side), policy.feature_age_limit_ms)
        if share is not None and share > STALE_SHARE:
            minutes = policy.feature_age_limit_ms / 60_000
            sentence = (
                f"{share:.0%} of version {label}'s newest requests used features older than {minutes:.0f} minutes"
            )
            found.append(Finding("freshness", sentence, new_rate=share))
    inputs = sorted(_drifted_for_both(evidence))
    if inputs:
        found.append(
            Finding(
                "input drift",
                f"the input drifted for both versions: {', '.join(inputs[:5])}",
            )
        )
    outputs = [one for one in evidence.drift if one.kind == "output" and one.against == "prior"]
    if outputs:
        worst = max(outputs, key=lambda one: one.low)
        found.append(
            Finding(
                "output drift",
                f"{worst.column} of {evidence.candidate} differs from {evidence.prior} (distance {worst.distance:.2f})",
            )
        )
    total = merge(new)
    rows, bad = float(total.rows), blocks.thinned(total, total.failed)
    e = eprocess.above_slo(rows, bad, policy.error_slo)
    if e >= SLO_E:
        sentence = (
            f"{bad / rows:.1%} of version {evidence.candidate}'s requests fail, the objective is {policy.error_slo:.1%}"
        )
        found.append(Finding("error SLO", sentence, e, new_rate=bad / rows))
    return found


def _vetoes(
    evidence: Evidence,
    policy: Policy,
    history: History,
    new: Sequence[Counts],
    old: Sequence[Counts],
    lead: str | None,
    now: datetime,
) -> list[str]:
    found = []
    if evidence.prior is None:
        return ["no prior version is known"]
    if evidence.prior_ready is False:
        found.append(f"prior version {evidence.prior} is not ready")
    if evidence.prior in history.rolled_back:
        found.append(f"prior version {evidence.prior} was itself rolled back")
    if history.last_rollback and (now - history.last_rollback).total_seconds() < policy.cooldown_s:
        found.append(f"rolled back at {history.last_rollback:%H:%M}, cooling down")
    if old:
        total = merge(old)
        if eprocess.above_slo(float(total.rows), blocks.thinned(total, total.failed), policy.error_slo) >= SLO_E:
            found.append(f"prior version {evidence.prior} breaks its error objective too: look upstream")
    if lead == "quality" and _drifted_for_both(evidence):
        found.append("the input drifted for both versions")
    if _both_stale(policy, new, old) and lead == "quality":
        found.append("features are stale for both versions")
    if lead == "errors":
        bad = math.fsum(blocks.thinned(one, one.failed) for one in new)
        who = {requester for one in new for requester in one.error_requesters}
        if bad < policy.min_bad:
            found.append(f"only {bad:.0f} failed requests so far")
        if "?" not in who and len(who) < policy.min_requesters:
            found.append(f"only {len(who)} requesters have seen it fail")
    if len({one.start for one in new}) < policy.min_windows:
        found.append(f"fewer than {policy.min_windows} windows seen")
    return found


def _safe(evidence: Evidence, policy: Policy, new: Sequence[Counts]) -> bool:
    """Whether the reverse tests say that the new version is not 1.5 times worse (or well within the objective)."""
    pairs = blocks.pair(evidence.windows, evidence.candidate, evidence.prior or "")
    total = merge(new)
    rows, bad = float(total.rows), blocks.thinned(total, total.failed)
    errors = (
        eprocess.not_worse(blocks.errors(pairs), SAFE_RATIO) >= SAFE_E
        or eprocess.below_slo(rows, bad, policy.error_slo) >= SAFE_E
    )
    made = blocks.latency(pairs, 0.0)
    slow = eprocess.not_worse(next(iter(made.values())), SAFE_RATIO) >= SAFE_E
    answers = blocks.quality(pairs)
    n, x = math.fsum(b.n1 for b in answers), math.fsum(b.x1 for b in answers)
    good = not answers or eprocess.not_worse(answers, SAFE_RATIO) >= SAFE_E or eprocess.below_slo(n, x, 0.05) >= SAFE_E
    return errors and slow and good


def _state(
    evidence: Evidence,
    policy: Policy,
    new: Sequence[Counts],
    old: Sequence[Counts],
    findings: Sequence[Finding],
    e: float,
    vetoes: Sequence[str],
) -> State:
    kinds = {finding.metric for finding in findings}
    if e >= policy.rollback_e:
        return State.PAGE if vetoes else State.ROLL_BACK
    if e >= policy.page_e or "error SLO" in kinds:
        return State.PAGE
    if e >= policy.watch_e or kinds & {"freshness", "input drift", "output drift"}:
        return State.WATCH
    if old and _safe(evidence, policy, new):
        return State.HEALTHY
    return State.INCONCLUSIVE


def _reason(
    state: State,
    evidence: Evidence,
    findings: Sequence[Finding],
    lead: str | None,
    since: datetime | None,
    e: float,
    vetoes: Sequence[str],
    new: Sequence[Counts],
) -> str:
    requests = math.fsum(one.requests for one in new)
    if state is State.HEALTHY:
        return f"version {evidence.candidate} is no worse than {evidence.prior} after {requests:.0f} requests"
    first = next((f for f in findings if f.metric == lead), None) if e >= 5 else None
    first = first or next((f for f in findings if f.metric not in WEIGHTS), None)
    if state is State.INCONCLUSIVE or first is None:
        against = f" against {evidence.prior}" if evidence.prior else ", and no prior version to compare with"
        return f"not enough evidence yet: {requests:.0f} requests of version {evidence.candidate}{against}"
    said = first.sentence
    if first.metric in WEIGHTS:
        said += f", since {since:%H:%M:%S}" if since else ""
        said += f"; a healthy version shows this much evidence at most once in {min(e, 1e9):,.0f} times"
    held = f"; no rollback: {vetoes[0]}" if vetoes and e >= 20 else ""
    return said + held
