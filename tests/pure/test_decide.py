"""The decision is a function of the facts: properties of it, without a database, a workspace or a clock."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from alerts_support import START, endpoint, verdict
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lastgood.alerts import messages
from lastgood.alerts.decide import (
    ApproveAlone,
    Close,
    Decision,
    Observe,
    Open,
    Propose,
    Renew,
    Say,
    ServedWell,
    Situation,
    WithdrawRollback,
    decide,
    plan_for,
)
from lastgood.alerts.records import Incident, KillSwitch, Pause, PauseKind, Rollback
from lastgood.alerts.rollback.machine import Progress, Status
from lastgood.alerts.rollback.plan import make_plan
from lastgood.record.verdict import LIVE, SCHEDULED, State, Verdict
from lastgood.settings import EndpointSettings, Mode, Policy
from lastgood.workspace import Endpoint

POLICY = Policy()
ENDPOINT = endpoint("1", "2", "3", "4", v2=20, v3=40, v4=40)
MINUTES = st.integers(-180, 0).map(lambda minutes: START + timedelta(minutes=minutes))


def spoken(candidate: str, state: State, at: datetime, judge: str) -> Verdict:
    return replace(
        verdict(state, at), candidate=candidate, prior="2", judge=judge, until=at, since=at - timedelta(minutes=5)
    )


VERDICTS = st.lists(
    st.builds(
        spoken, st.sampled_from(["3", "4"]), st.sampled_from(list(State)), MINUTES, st.sampled_from([LIVE, SCHEDULED])
    ),
    max_size=6,
    unique_by=lambda v: (v.candidate, v.judge),
)


def incident(candidate: str, opened: datetime, bad: State) -> Incident:
    made = messages.opened(spoken(candidate, bad, opened, SCHEDULED), opened)
    return replace(made, harm_at=opened)


def rollback(of: Incident, status: Status, at: datetime) -> Rollback:
    plan = make_plan(ENDPOINT, of.candidate, "2", refused=(), snapshot=None, reasons=("errors",), now=at)
    ended = at if status.ended else None
    moved = at if status in (Status.VERIFYING, Status.DONE) else None
    progress = Progress(status, at, at + timedelta(hours=1), "because", "ann")
    return Rollback(plan.id, of.id, "auto", "errors", plan, "n", progress, 0, at, ended_at=ended, moved_at=moved)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    opened = [
        incident(version, draw(MINUTES), draw(st.sampled_from([State.PAGE, State.ROLL_BACK])))
        for version in draw(st.sets(st.sampled_from(["3", "4"])))
    ]
    rollbacks = [rollback(i, draw(st.sampled_from(list(Status))), draw(MINUTES)) for i in opened if draw(st.booleans())]
    pauses = [
        Pause(
            "p",
            kind,
            draw(st.sampled_from(["*", "chat", "search"])),
            START - timedelta(hours=1),
            START + timedelta(hours=1),
            "ann",
            "why",
        )
        for kind in draw(st.sets(st.sampled_from(list(PauseKind))))
    ]
    serving: Endpoint | None = draw(st.sampled_from([ENDPOINT, endpoint("2", "3", "4", v2=100, v3=0, v4=0), None]))
    return Situation(
        "chat", START, EndpointSettings(mode=draw(st.sampled_from(list(Mode))), policy=POLICY), draw(VERDICTS), serving,
        "" if serving else "the workspace cannot be read", incidents=opened, rollbacks=rollbacks,
        moved=draw(st.lists(MINUTES, max_size=4)), leased=draw(st.booleans()),
        switch=KillSwitch(draw(st.booleans()), "ann", "why"), pauses=pauses,
    )  # fmt: skip


def paused(situation: Situation, kind: PauseKind) -> bool:
    return any(pause.kind is kind and pause.endpoint in ("*", "chat") for pause in situation.pauses)


def about(decision: Decision, version: str) -> list[object]:
    """The effects that concern one version."""

    def concerns(effect: object) -> bool:
        own = getattr(effect, "incident", None)
        bad = getattr(getattr(effect, "rollback", None), "plan", None)
        return (own is not None and own.candidate == version) or (
            own is None and bad is not None and bad.bad_version == version
        )

    return [effect for effect in decision.effects if concerns(effect)]


def identities(effects: Sequence[object]) -> list[tuple[str, str]]:
    """Effects by kind and words: ids of incidents that open are made anew each time."""
    return [(type(effect).__name__, str(getattr(effect, "why", getattr(effect, "sentence", "")))) for effect in effects]


@given(situations())
@hypothesis_settings(max_examples=300, deadline=None)
def test_nothing_acts_by_itself_while_the_switch_is_on_changes_are_frozen_or_the_mode_says_so(
    situation: Situation,
) -> None:
    decision = decide(situation)
    alone = [e for e in decision.effects if isinstance(e, ApproveAlone) or (isinstance(e, Propose) and e.alone)]
    if (
        situation.switch.on
        or paused(situation, PauseKind.FREEZE)
        or situation.leased
        or situation.settings.mode is not Mode.AUTO
    ):
        assert alone == []
    if situation.settings.mode is Mode.OBSERVE:
        assert not any(isinstance(e, Propose) for e in decision.effects)
    else:
        assert not any(isinstance(e, Observe) for e in decision.effects)


@given(situations(), VERDICTS)
@hypothesis_settings(max_examples=300, deadline=None)
def test_what_is_said_of_one_version_changes_nothing_about_another(situation: Situation, others: list[Verdict]) -> None:
    """In particular: healthy of version 4 closes nothing of version 3 and withdraws nothing of it."""
    own = [v for v in situation.verdicts if v.candidate == "3"]
    alone = replace(situation, verdicts=own)
    together = replace(situation, verdicts=[*own, *(v for v in others if v.candidate == "4")])
    assert identities(about(decide(alone), "3")) == identities(about(decide(together), "3"))


@given(situations())
@hypothesis_settings(max_examples=300, deadline=None)
def test_the_order_in_which_verdicts_arrived_does_not_matter(situation: Situation) -> None:
    turned = replace(situation, verdicts=list(reversed(situation.verdicts)))
    assert sorted(identities(decide(situation).effects)) == sorted(identities(decide(turned).effects))


@given(situations())
@hypothesis_settings(max_examples=300, deadline=None)
def test_an_incident_has_one_rollback_at_a_time_and_a_version_one_incident(situation: Situation) -> None:
    decision = decide(situation)
    busy = {r.incident_id for r in situation.rollbacks if not r.state.ended}
    assert not any(isinstance(e, Propose) and e.incident.id in busy for e in decision.effects)
    known = {i.candidate for i in situation.incidents}
    assert not any(isinstance(e, Open) and e.incident.candidate in known for e in decision.effects)
    for version in ("3", "4"):
        kinds = [type(e) for e in about(decision, version)]
        assert kinds.count(Propose) + kinds.count(Observe) <= 1
        if Close in kinds:
            assert set(kinds) <= {Close, WithdrawRollback, Renew}, "an incident that ends asks for nothing"


@given(situations())
@hypothesis_settings(max_examples=300, deadline=None)
def test_a_silence_keeps_pages_back_and_harm_without_a_silence_is_never_passed_over(situation: Situation) -> None:
    decision = decide(situation)
    if paused(situation, PauseKind.SILENCE):
        assert not any(isinstance(e, Say) and e.once == "page" for e in decision.effects)
    fresh = START - timedelta(seconds=POLICY.max_evidence_age_s)
    for version in ("3", "4"):
        own = [v for v in situation.verdicts if v.candidate == version and v.judged_at >= fresh]
        harmed = any(v.bad for v in own) and not any(v.state is State.HEALTHY for v in own)
        if harmed and situation.endpoint is ENDPOINT:
            opened = [e for e in decision.effects if isinstance(e, Open) and e.incident.candidate == version]
            assert opened or any(i.candidate == version for i in situation.incidents)
            assert any(line.startswith(f"version {version}:") for line in decision.because), "and it is said why"


@given(situations())
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_version_without_traffic_holds_no_incident_open_once_nothing_is_under_way(situation: Situation) -> None:
    at_rest = replace(situation, endpoint=endpoint("2", "3", "4", v2=100, v3=0, v4=0), problem="", rollbacks=())
    closed = {e.incident.candidate for e in decide(at_rest).effects if isinstance(e, Close)}
    assert closed == {i.candidate for i in at_rest.incidents}


EDITED, BEFORE = "3~bbbbbbbb", "3~aaaaaaaa"


def asked_with(*verdicts: Verdict, opened: datetime | None = None) -> Situation:
    """An endpoint whose version 3 is asked with two contents; with an incident of the newer one."""
    incidents = [incident(EDITED, opened, State.PAGE)] if opened else []
    return Situation("chat", START, EndpointSettings(policy=POLICY), verdicts, ENDPOINT, incidents=incidents)


def test_an_incident_of_a_prompt_that_was_put_back_ends_once_the_judge_is_silent_on_it_alone() -> None:
    long_ago = START - timedelta(hours=3)
    gone = spoken(EDITED, State.PAGE, long_ago, SCHEDULED)
    back = spoken(BEFORE, State.WATCH, START, SCHEDULED)
    (close,) = (e for e in decide(asked_with(gone, back, opened=long_ago)).effects if isinstance(e, Close))
    assert "not asked with that content" in close.why
    live = spoken("3", State.WATCH, START, LIVE)
    for silent in ((gone,), (gone, live), (replace(gone, judged_at=START, until=START), back)):
        assert not any(isinstance(e, Close) for e in decide(asked_with(*silent, opened=long_ago)).effects)


def test_a_version_is_not_called_good_while_it_does_harm_with_another_prompt() -> None:
    good, bad = spoken(BEFORE, State.HEALTHY, START, SCHEDULED), spoken(EDITED, State.PAGE, START, SCHEDULED)

    def well(situation: Situation) -> list[object]:
        return [effect for effect in decide(situation).effects if isinstance(effect, ServedWell)]

    assert well(asked_with(good, bad)) == well(asked_with(good, opened=START)) == []
    assert well(asked_with(good, replace(good, candidate=EDITED))) == [ServedWell("chat", "3", START)]


def test_people_may_name_effective_versions_in_a_rollback() -> None:
    plan = plan_for(asked_with(), "3~abcdef12", why="asked for", wanted="2~abcdef12")
    assert (plan.bad_version, plan.prior_version) == ("3", "2")
