"""What is known of an endpoint -> what to do about it (pure): the one place that decides on incidents, pages and rollbacks.

`decide` reads a `Situation` and answers with effects; `alerts.effects` carries them out in one transaction. To decide twice on the same
facts adds nothing: each effect is refused, or finds its work done, when it was carried out before.

An incident is of one (endpoint, version). It opens with a bad verdict on a version that takes traffic. It ends when

- a judge calls the version healthy from evidence at least as new as the harm's,
- no judge has seen the harm for `policy.quiet_s` while the version was judged,
- the version takes no traffic any more, whoever moved it, or
- a person closes it.

An incident that another system reported ends when that system says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from lastgood.alerts import messages, registry
from lastgood.alerts.records import Incident, KillSwitch, Pause, PauseKind, Rollback
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.rollback.plan import WHOLE, Kind, Plan, Snapshot, make_plan
from lastgood.alerts.rollback.prior import Known, choose
from lastgood.errors import RefusedError
from lastgood.record.contents import base, hash_of
from lastgood.record.verdict import SCHEDULED, Finding, State, Verdict
from lastgood.record.words import counted
from lastgood.settings import EndpointSettings, Mode
from lastgood.workspace import Endpoint, RegistryMark, Update
from lastgood.workspace.identity import may_be_marked, model_of

WORSE = 2.0
"""A rejected rollback is proposed again once the rate of bad requests is this many times what it was when a person rejected it."""
WAITING = "waiting for a person"
CLOSED_BY = "closed by "
"""What the resolution of an incident begins with that a person closed."""


@dataclass(frozen=True)
class Situation:
    """Everything a decision on one endpoint may look at.

    `verdicts`: the newest per version and judge. `endpoint`: as read last, None where it could not be read (`problem` says why). `gone`:
    the workspace has no such endpoint any more.
    `incidents`: the open ones; `ended`: version -> its newest incident that has ended. `rollbacks`: newest first, promotions and drills
    too. `moved`: when rollbacks of this endpoint last moved traffic. `leased`: another rollback owns the endpoint.
    """

    name: str
    now: datetime
    settings: EndpointSettings
    verdicts: Sequence[Verdict] = ()
    endpoint: Endpoint | None = None
    problem: str = ""
    gone: bool = False
    incidents: Sequence[Incident] = ()
    ended: Mapping[str, Incident] = field(default_factory=dict)
    rollbacks: Sequence[Rollback] = ()
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    served_well: Sequence[tuple[str, datetime, int]] = ()
    snapshots: Sequence[Snapshot] = ()
    rolled_back: frozenset[str] = frozenset()
    moved: Sequence[datetime] = ()
    leased: bool = False
    switch: KillSwitch = field(default_factory=KillSwitch)
    pauses: Sequence[Pause] = ()


# effects


@dataclass(frozen=True)
class Open:
    incident: Incident


@dataclass(frozen=True)
class Renew:
    """The incident with its newest verdict; `harm_at` moves only with bad ones."""

    incident: Incident


@dataclass(frozen=True)
class Close:
    incident: Incident
    why: str


@dataclass(frozen=True)
class Note:
    """What the incident's page says; `what` is the audit entry."""

    incident: Incident
    text: str
    what: str = "noted"


@dataclass(frozen=True)
class Say:
    """A message, sent once per `once`. `again`: under a key of its own, because an acknowledged alert calls nobody a second time."""

    incident: Incident
    once: str
    sentence: str
    plan: Plan | None = None
    again: str = ""


@dataclass(frozen=True)
class Observe:
    """Mode `observe`: say what would be done."""

    incident: Incident
    plan: Plan


@dataclass(frozen=True)
class Propose:
    """A plan that waits for a person, or (`alone`) that Lastgood approves by itself. `hold`: why it is not by itself; `anew`: why it
    is proposed once more."""

    incident: Incident
    plan: Plan
    hold: str
    evidence: Mapping[str, Any]
    alone: bool
    again: str = ""
    anew: str = ""


@dataclass(frozen=True)
class ApproveAlone:
    """What held a proposal of mode `auto` back has gone."""

    incident: Incident
    rollback: Rollback


@dataclass(frozen=True)
class WithdrawRollback:
    rollback: Rollback
    why: str


@dataclass(frozen=True)
class ServedWell:
    endpoint: str
    version: str
    at: datetime


@dataclass(frozen=True)
class Register:
    """The registry's alias moves; asked once per `once`."""

    endpoint: str
    mark: RegistryMark
    once: str
    why: str


Effect = Open | Renew | Close | Note | Say | Observe | Propose | ApproveAlone | WithdrawRollback | ServedWell | Register


@dataclass(frozen=True)
class Decision:
    """`because`: what was decided and why, a sentence each, also where the answer is to do nothing."""

    effects: tuple[Effect, ...]
    because: tuple[str, ...]


def decide(situation: Situation) -> Decision:
    """Effects in the order in which they are carried out."""
    effects: list[Effect] = []
    because: list[str] = []
    for version, verdict in _healthy(situation).items():
        effects.append(ServedWell(situation.name, version, verdict.judged_at))
        effects.extend(_registered(situation, verdict))
    open_incidents = {incident.candidate: incident for incident in situation.incidents}
    for version in sorted({verdict.candidate for verdict in situation.verdicts} | set(open_incidents)):
        for step in _on_version(situation, version, open_incidents.get(version)):
            if isinstance(step, str):
                because.append(f"version {version}: {step}")
            else:
                effects.append(step)
    return Decision(tuple(effects), tuple(because))


def _healthy(situation: Situation) -> dict[str, Verdict]:
    """Served version -> the verdict, newer than what is known, that calls it healthy; none while it does harm with another content."""
    known = {version: at for version, at, _ in situation.served_well}
    harmful = {incident.candidate for incident in situation.incidents}
    harmful |= {verdict.candidate for verdict in situation.verdicts if harm(situation, verdict.candidate)}
    healthy: dict[str, Verdict] = {}
    for verdict in situation.verdicts:
        version = base(verdict.candidate)
        news = version not in known or verdict.judged_at > known[version]
        alone = not any(base(other) == version and other != verdict.candidate for other in harmful)
        if verdict.state is State.HEALTHY and _fresh(situation, verdict) and news and alone:
            healthy[version] = verdict
    return healthy


def _registered(situation: Situation, verdict: Verdict) -> Iterator[Register]:
    """The alias of good versions moves to a version that is healthy with all of the traffic, where it is elsewhere. Once per configuration:
    a person who moves it back has the last word."""
    endpoint, alias, version = situation.endpoint, situation.settings.registry_alias, base(verdict.candidate)
    if endpoint is None or not alias or endpoint.update is Update.IN_PROGRESS or endpoint.share(version) != WHOLE:
        return
    models = {entity.entity_name for entity in endpoint.entities if entity.entity_version == version}
    model = models.pop() if len(models) == 1 else ""
    if may_be_marked(model) and situation.aliases.get(model, {}).get(alias) != version:
        once = f"alias:{situation.name}:{model}:{version}:{endpoint.config_version}"
        yield Register(situation.name, registry.good(model, version, alias), once, verdict.reason)


def harm(situation: Situation, version: str) -> Verdict | None:
    """The bad verdict on a version that holds now: the worst of the judges' newest ones.

    Neither judge hides the other: what the scheduled judge saw is not undone by a live judge that sees less, and the other way round.
    Only a judge that calls the version healthy, from evidence at least as new, ends it.
    """
    own = [verdict for verdict in situation.verdicts if verdict.candidate == version and _fresh(situation, verdict)]
    healthy = max((v.speaks_until for v in own if v.state is State.HEALTHY), default=None)
    bad = [v for v in own if v.bad and (healthy is None or v.speaks_until > healthy)]
    return max(bad, key=lambda v: (v.state.severity, v.e_value, v.judged_at), default=None)


def _fresh(situation: Situation, verdict: Verdict) -> bool:
    return verdict.judged_at >= situation.now - timedelta(seconds=situation.settings.policy.max_evidence_age_s)


def _on_version(situation: Situation, version: str, incident: Incident | None) -> Iterator[Effect | str]:
    verdict = harm(situation, version)
    if incident is not None:
        if why := _ended(situation, incident, verdict):
            last = _last(situation, incident)
            if last and not last.state.ended:
                yield WithdrawRollback(last, why)
            yield Close(incident, why)
            yield f"the incident ends: {why}"
            return
        if newest := _newest(situation, version):
            renewed = messages.renewed(incident, verdict or newest)
            if verdict and verdict.judged_at > (incident.harm_at or incident.opened_at):
                renewed = replace(renewed, harm_at=verdict.judged_at)
            if (renewed.verdict, renewed.harm_at) != (incident.verdict, incident.harm_at):
                yield Renew(renewed)
            incident = renewed
    if verdict is None:
        if incident is not None:
            yield "open, and no judge sees the harm now"
        return
    if incident is None:
        if situation.endpoint is not None and not situation.endpoint.share(version):
            yield f"{verdict.state}, but it takes no traffic"
            return
        if why := _old_news(situation, verdict):
            yield why
            return
        incident = messages.opened(verdict, situation.now)
        yield Open(incident)
    for rollback in situation.rollbacks:
        if (
            rollback.plan.kind is Kind.PROMOTE
            and rollback.state.under_way
            and rollback.plan.prior_version == base(verdict.candidate)
        ):
            yield WithdrawRollback(rollback, f"the judge says {verdict.state}: {verdict.reason}")
    if verdict.state is State.PAGE:
        yield from _page(situation, incident)
    else:
        yield from _roll_back(situation, incident, verdict)


def _newest(situation: Situation, version: str) -> Verdict | None:
    own = [verdict for verdict in situation.verdicts if verdict.candidate == version and _fresh(situation, verdict)]
    return max(own, key=lambda verdict: verdict.judged_at, default=None)


def _last(situation: Situation, incident: Incident) -> Rollback | None:
    return next((rollback for rollback in situation.rollbacks if rollback.incident_id == incident.id), None)


# when an incident begins and ends


def _old_news(situation: Situation, verdict: Verdict) -> str:
    """Why a bad verdict opens no incident beside the one that has ended; empty when it does."""
    ended = situation.ended.get(verdict.candidate)
    if ended is None or ended.resolved_at is None:
        return ""
    if verdict.judged_at <= ended.resolved_at:
        return f"{verdict.state}, from before the incident ended: {ended.resolution}"
    same = verdict.since is None or verdict.since <= ended.resolved_at
    quiet = timedelta(seconds=situation.settings.policy.quiet_s)
    if ended.resolution.startswith(CLOSED_BY) and same and verdict.judged_at < ended.resolved_at + quiet:
        return f"{verdict.state}, and a person has just closed the incident on this evidence: {ended.resolution}"
    return ""


def _ended(situation: Situation, incident: Incident, verdict: Verdict | None) -> str:
    """Why the incident ends; empty while it goes on."""
    if incident.reported_by:
        return ""
    last, version, now = _last(situation, incident), incident.candidate, situation.now
    if last and last.state.under_way:
        return ""
    if situation.gone and situation.endpoint is None:
        return f"the endpoint {situation.name} is gone"
    quiet = timedelta(seconds=situation.settings.policy.quiet_s)
    endpoint = situation.endpoint
    at_rest = endpoint is not None and endpoint.update is not Update.IN_PROGRESS
    if endpoint is not None and at_rest and not endpoint.share(version):
        verified = last and last.state is Status.FAILED and last.moved_at is not None
        if not (verified and last and last.ended_at and now < last.ended_at + quiet):
            return f"version {version} takes no traffic any more (configuration {endpoint.config_version})"
    if verdict is not None:
        return ""
    own = [v for v in situation.verdicts if v.candidate == version and _fresh(situation, v)]
    if hash_of(version) and not own and any(v.judge == SCHEDULED and _fresh(situation, v) for v in situation.verdicts):
        return f"the endpoint is judged, and version {version} is not any more: it is not asked with that content"
    harm_at = incident.harm_at or incident.opened_at
    if healthy := next((v for v in own if v.state is State.HEALTHY and v.judged_at > harm_at), None):
        return f"version {version} is healthy: {healthy.reason}"
    known = [v for v in own if v.state in (State.HEALTHY, State.WATCH) and v.judged_at >= harm_at + quiet]
    if known and now >= harm_at + quiet:
        return f"version {version} has shown no harm for {counted(quiet.total_seconds() / 60, 'minute')}: {known[-1].reason}"
    return ""


# what a bad verdict leads to


def paused(situation: Situation, kind: PauseKind) -> Pause | None:
    """The silence or freeze that is in force for the endpoint now; of several the one that ends last."""
    held = [
        pause
        for pause in situation.pauses
        if pause.kind is kind and pause.in_force(situation.now) and fnmatchcase(situation.name, pause.endpoint)
    ]
    return max(held, key=lambda pause: pause.ends, default=None)


def _page(situation: Situation, incident: Incident) -> Iterator[Effect | str]:
    if silence := paused(situation, PauseKind.SILENCE):
        yield from _silenced(incident, silence)
        return
    yield Say(incident, "page", "a person must look")
    yield "a person is paged"


def _silenced(incident: Incident, silence: Pause) -> Iterator[Effect | str]:
    yield Note(incident, f"not paged: {silence}", "silenced")
    yield f"a page is silenced: {silence}"


def _roll_back(situation: Situation, incident: Incident, verdict: Verdict) -> Iterator[Effect | str]:
    last, mode = _last(situation, incident), situation.settings.mode
    hold = hold_reason(situation, last.plan if last else None, verdict.prior)
    if last and not last.state.ended:
        if mode is Mode.AUTO and last.mode == Mode.AUTO and last.state is Status.PROPOSED and not hold:
            yield ApproveAlone(incident, last)
            yield "what held the rollback back has gone: it starts by itself"
        else:
            yield f"a rollback is {last.state}: {last.progress.reason or 'under way'}"
        return
    again, anew, wait = _once_more(situation, last, verdict)
    if wait:
        yield wait
        return
    silence = paused(situation, PauseKind.SILENCE)
    try:
        plan = plan_for(situation, verdict.candidate, judged=verdict.prior, why=verdict.reason)
    except RefusedError as error:
        yield Note(incident, f"no rollback: {error}")
        if silence:
            yield f"no rollback is possible: {error}; a page is silenced: {silence}"
            return
        once = f"no rollback: {str(error).split(':', maxsplit=1)[0] if situation.endpoint is None else error}"
        yield Say(incident, once, f"no rollback is possible: {error}")
        yield f"no rollback is possible: {error}"
        return
    if silence and mode is not Mode.AUTO:
        yield from _silenced(incident, silence)
        return
    if mode is Mode.OBSERVE:
        yield Observe(incident, plan)
        yield "mode observe: it says what it would do"
        return
    hold = hold_reason(situation, plan, verdict.prior) if mode is Mode.AUTO else WAITING
    yield Propose(
        incident, plan, hold, evidence_of(verdict), alone=mode is Mode.AUTO and not hold, again=again, anew=anew
    )
    yield f"a rollback to version {plan.prior_version} is proposed: {'; '.join(filter(None, (anew, hold or 'it starts by itself')))}"


def evidence_of(verdict: Verdict) -> dict[str, Any]:
    """What a decision was taken on: the leading metric, its onset and the rate of bad requests."""
    worst: Finding | None = verdict.worst
    return {
        "metric": worst.metric if worst else "",
        "since": verdict.since.isoformat() if verdict.since else None,
        "rate": worst.new_rate if worst else None,
    }


def _once_more(situation: Situation, last: Rollback | None, verdict: Verdict) -> tuple[str, str, str]:
    """(suffix of the message's key when it must call a second time, why it does, why no further plan is made now)."""
    if last is None:
        return "", "", ""
    again = f"again-{last.id[:8]}"
    policy, now = situation.settings.policy, situation.now
    ended = last.ended_at or last.progress.since
    if last.state is Status.REJECTED:
        rejected = [r for r in situation.rollbacks if r.incident_id == last.incident_id and r.state is Status.REJECTED]
        news = all(_news(rollback, verdict) for rollback in rejected)
        who = last.progress.who
        return (
            (again, f"other evidence than {who} rejected", "")
            if news
            else ("", "", f"{who} rejected it on this evidence")
        )
    if last.state is Status.FAILED:
        if last.moved_at is not None:
            return "", "", f"the last rollback moved the traffic and did not help: {last.progress.reason}"
        tries = [r for r in situation.rollbacks if r.incident_id == last.incident_id and r.state is Status.FAILED]
        if len(tries) >= policy.max_attempts:
            return (
                "",
                "",
                f"{counted(len(tries), 'attempt')} failed: a person must act; the last one: {last.progress.reason}",
            )
        again_at = ended + timedelta(seconds=policy.retry_s * 2 ** (len(tries) - 1))
        if now < again_at:
            return "", "", f"the last attempt failed ({last.progress.reason}); the next is at {again_at:%H:%M:%S} UTC"
        return again, f"attempt {len(tries) + 1}: the last one failed", ""
    if last.state is Status.EXPIRED and last.progress.approvals:  # whoever approved it believes that it is done
        return again, f"a new plan: {last.progress.reason}", ""
    if last.state is Status.EXPIRED and verdict.judged_at < ended:
        return "", "", f"nobody decided ({last.progress.reason}): it is asked again with the next verdict"
    return "", "", ""


def _news(last: Rollback, verdict: Verdict) -> bool:
    """Whether a verdict is other evidence than what a person rejected: another metric, a later onset, or twice as bad. Where the evidence was not
    kept (before 0.2), only a later onset is."""
    before, current = last.evidence, evidence_of(verdict)
    rejected_at = last.ended_at or last.progress.since
    if before.get("metric", current["metric"]) != current["metric"]:
        return True
    if verdict.since and verdict.since > rejected_at:
        return True
    return bool(before.get("rate") and current["rate"] and current["rate"] >= WORSE * before["rate"])


def plan_for(situation: Situation, bad: str, *, why: str, judged: str | None = None, wanted: str | None = None) -> Plan:
    """The plan to leave version `bad`, with the reasons for the version it goes back to; of effective versions the served ones.

    Errors: RefusedError; also where the two are one served version, and differ in what it is asked with: no configuration tells that.
    """
    endpoint = situation.endpoint
    if endpoint is None:
        raise RefusedError(situation.problem)
    if hash_of(bad) and judged and base(bad) == base(judged) and wanted is None:
        raise RefusedError(
            f"version {base(bad)} serves as before; what it is asked with has changed ({hash_of(judged)} to {hash_of(bad)}), and no "
            "configuration of the endpoint undoes that: put back the prompt, tools, parameters, route or package of before"
        )
    bad, judged = base(bad), judged and base(judged)
    models = {e.entity_name for e in endpoint.entities if e.entity_version == bad}
    own = [s for s in situation.snapshots if not models or model_of(s.settings) in models]
    kept = {snapshot.version: snapshot for snapshot in reversed(own)}
    known = Known(
        judged,
        situation.aliases.get(next(iter(models)), {}) if len(models) == 1 else {},
        situation.served_well,
        list(dict.fromkeys(snapshot.version for snapshot in own)),
        situation.rolled_back,
    )
    choice = choose(endpoint, bad, known, wanted and base(wanted))
    return make_plan(
        endpoint,
        bad,
        choice.version,
        refused=() if wanted else situation.rolled_back,
        snapshot=kept.get(choice.version),
        reasons=(why, *choice.reasons),
        now=situation.now,
        write_only=situation.settings.write_only,
        registry_alias=situation.settings.registry_alias,
    )


def hold_reason(situation: Situation, plan: Plan | None, judged: str | None) -> str:
    """Why no rollback may start by itself now; empty when it may."""
    policy, now, switch = situation.settings.policy, situation.now, situation.switch
    if switch.on:
        return f"the kill switch is on ({switch.who}: {switch.why})"
    if freeze := paused(situation, PauseKind.FREEZE):
        return str(freeze)
    if plan is not None and plan.prior_version != (judged and base(judged)):
        return f"the judge compared with version {judged}, the plan goes back to version {plan.prior_version}"
    if plan is not None and plan.cautions and policy.less_capacity == "ask":
        return plan.cautions[0]
    if any(moment >= now - timedelta(seconds=policy.cooldown_s) for moment in situation.moved):
        return f"a rollback of this endpoint happened less than {policy.cooldown_s:g} s ago"
    if sum(moment >= now - timedelta(days=1) for moment in situation.moved) >= policy.max_rollbacks_per_day:
        return f"{policy.max_rollbacks_per_day} rollbacks a day are allowed"
    if situation.leased:
        return "another rollback of this endpoint is under way"
    if plan is not None and any(base(incident.candidate) == plan.prior_version for incident in situation.incidents):
        return f"version {plan.prior_version} has an open incident of its own"
    return ""
