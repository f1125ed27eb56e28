"""State of a rollback + what happened -> next state and what to do about it (pure).

Proposed -> Approved -> Shifting -> Verifying -> Done
Proposed <-> Held;  Proposed, Held -> Rejected;  Proposed, Held, Approved -> Expired
Approved, Shifting, Verifying -> Failed;  with two approvals asked for, the first one keeps it Proposed
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from lastgood.alerts.rollback.verify import Recovery
from lastgood.errors import RefusedError
from lastgood.record.words import counted
from lastgood.settings import Policy

WAITING = "the configuration has moved the traffic; waiting for telemetry"


class Status(StrEnum):
    PROPOSED = "Proposed"
    HELD = "Held"
    APPROVED = "Approved"
    SHIFTING = "Shifting"
    VERIFYING = "Verifying"
    DONE = "Done"
    REJECTED = "Rejected"
    EXPIRED = "Expired"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        return self in (Status.DONE, Status.REJECTED, Status.EXPIRED, Status.FAILED)

    @property
    def under_way(self) -> bool:
        """Approved and not ended: such a rollback owns its endpoint."""
        return self in (Status.APPROVED, Status.SHIFTING, Status.VERIFYING)


@dataclass(frozen=True)
class Progress:
    """Where a rollback stands. `since`: when the state was entered; `until`: when a proposal or a hold ends."""

    state: Status
    since: datetime
    until: datetime | None = None
    reason: str = ""
    who: str = ""
    approvals: tuple[str, ...] = ()

    @property
    def waits_for_telemetry(self) -> bool:
        """Whether the configuration has moved the traffic and only telemetry is missing."""
        return self.state is Status.VERIFYING and self.reason.startswith(WAITING)


class View(StrEnum):
    """What the workspace shows of the endpoint, read against the plan."""

    BASE = "base"  # as when the plan was made: nothing was sent, or it never arrived
    SENT = "sent"  # our update is under way, or accepted and not visible yet
    RESTORED = "restored"  # slow path: the prior version is back at 0% and ready
    SHIFTED = "shifted"  # the configuration the plan wants
    BUSY = "busy"  # somebody else's update is under way, or the workspace cannot be read
    CHANGED = "changed"  # somebody else changed the configuration
    BROKEN = "broken"  # our update failed, or was refused for good


@dataclass(frozen=True)
class Approve:
    """`alone`: no second person is asked for (the automatic mode)."""

    who: str
    alone: bool = False


@dataclass(frozen=True)
class Hold:
    who: str
    minutes: int


@dataclass(frozen=True)
class Reject:
    who: str
    reason: str


@dataclass(frozen=True)
class Withdraw:
    """The reason for it is gone: a proposal expires, a promotion under way stops."""

    reason: str


@dataclass(frozen=True)
class Seen:
    """`besides`: what differs from the plan although the traffic is as planned."""

    view: View
    detail: str = ""
    besides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tick:
    """Time passed; `detail` says what is being waited for."""

    detail: str = ""


Event = Approve | Hold | Reject | Withdraw | Seen | Recovery | Tick


class Effect(StrEnum):
    RESTORE = "restore"  # ask for the prior version back at 0%
    SHIFT = "shift"  # ask for the traffic to move
    ASK = "ask"  # send a fresh link
    TOLD = "told"  # a person took it on
    PAGE = "page"  # it did not work: a person must look
    WARN = "warn"  # it goes on, and a person must look
    RESOLVE = "resolve"  # it worked


Step = tuple[Progress, tuple[Effect, ...]]
MAX_HOLD_MINUTES = 24 * 60


def step(progress: Progress, event: Event, now: datetime, policy: Policy, slow: bool) -> Step:
    """The next state and its effects; the same state and no effects when there is nothing to do yet.

    Errors: RefusedError when the event is not possible in this state.
    """
    match progress.state:
        case Status.PROPOSED | Status.HELD:
            return _decide(progress, event, now, policy)
        case Status.APPROVED | Status.SHIFTING:
            return _shift(progress, event, now, policy, slow)
        case Status.VERIFYING:
            return _verify(progress, event, now, policy)
    raise RefusedError(f"this rollback has ended ({progress.state}): {progress.reason or 'nothing more to do'}")


def _decide(progress: Progress, event: Event, now: datetime, policy: Policy) -> Step:
    match event:
        case Approve(who) if progress.state is Status.PROPOSED and progress.until and now >= progress.until:
            raise RefusedError(f"the proposal expired before {who} approved it")
        case Approve(who) if who.casefold() in {name.casefold() for name in progress.approvals}:
            raise RefusedError(f"{who} has approved it already: another person must")
        case Approve(who, alone):
            given = (*progress.approvals, who)
            missing = 0 if alone else policy.approvals - len(given)
            if missing > 0:
                until = now + timedelta(seconds=policy.proposal_ttl_s)
                sentence = f"approved by {who}: {missing} more must approve"
                return Progress(Status.PROPOSED, now, until, sentence, who, given), (Effect.ASK,)
            return Progress(Status.APPROVED, now, None, progress.reason, " and ".join(given), given), (Effect.TOLD,)
        case Hold(who, minutes) if 1 <= minutes <= MAX_HOLD_MINUTES:
            until = now + timedelta(minutes=minutes)
            return Progress(Status.HELD, now, until, f"held for {counted(minutes, 'minute')}", who), (Effect.ASK,)
        case Hold():
            raise RefusedError(f"a hold lasts 1 to {MAX_HOLD_MINUTES} minutes")
        case Reject(who, reason) if reason.strip():
            return Progress(Status.REJECTED, now, None, reason.strip(), who), (Effect.TOLD,)
        case Reject():
            raise RefusedError("a rejection needs a reason")
        case Withdraw(reason):
            return Progress(Status.EXPIRED, now, None, reason), ()
        case Tick() if progress.until and now >= progress.until:
            if progress.state is Status.HELD:
                until = now + timedelta(seconds=policy.proposal_ttl_s)
                return Progress(Status.PROPOSED, now, until, "the hold ended", progress.who), (Effect.ASK,)
            return Progress(Status.EXPIRED, now, None, "nobody approved it in time"), ()
        case Tick():
            return progress, ()
    raise RefusedError(f"{type(event).__name__} is not possible while {progress.state}")


def _shift(progress: Progress, event: Event, now: datetime, policy: Policy, slow: bool) -> Step:
    shifting = progress if progress.state is Status.SHIFTING else replace(progress, state=Status.SHIFTING, since=now)
    late = now - progress.since >= timedelta(seconds=policy.ready_timeout_s)
    match event:
        case Seen(View.SHIFTED, _, besides) if besides:
            reason = f"the traffic has moved, and the configuration differs from the plan: {'; '.join(besides)}"
            return replace(progress, state=Status.VERIFYING, since=now, until=None, reason=reason), (Effect.WARN,)
        case Seen(View.SHIFTED, detail):
            return replace(progress, state=Status.VERIFYING, since=now, until=None, reason=detail), ()
        case Seen(View.CHANGED, detail) if progress.state is Status.APPROVED:
            return replace(progress, state=Status.EXPIRED, since=now, reason=detail), ()
        case Seen(View.CHANGED | View.BROKEN, detail):
            return replace(progress, state=Status.FAILED, since=now, reason=detail), (Effect.PAGE,)
        case Withdraw(reason):
            return replace(progress, state=Status.FAILED, since=now, reason=reason), (Effect.PAGE,)
        case Seen() | Tick() if late:
            reason = f"not shifted within {policy.ready_timeout_s:g} s: {event.detail or progress.reason}"
            return replace(progress, state=Status.FAILED, since=now, reason=reason), (Effect.PAGE,)
        case Seen(View.BASE | View.RESTORED as view, detail):
            effect = Effect.RESTORE if slow and view is View.BASE else Effect.SHIFT
            return replace(shifting, reason=detail or shifting.reason), (effect,)
        case Seen(View.SENT | View.BUSY, detail) | Tick(detail):
            return replace(progress, reason=detail or progress.reason), ()
    raise RefusedError(f"{type(event).__name__} is not possible while {progress.state}")


def _verify(progress: Progress, event: Event, now: datetime, policy: Policy) -> Step:
    match event:
        case Recovery(traffic_moved=True, recovered=True, sentence=sentence):
            return replace(progress, state=Status.DONE, since=now, reason=sentence), (Effect.RESOLVE,)
        case Recovery(hopeless=True, sentence=reason) | Withdraw(reason):
            return replace(progress, state=Status.FAILED, since=now, reason=reason), (Effect.PAGE,)
        # The workspace shows that it moved; requests are late, or too few to say.
        case Recovery(traffic_moved=None, sentence=sentence) | Recovery(True, None, sentence=sentence):
            return _wait(progress, f"{WAITING}: {sentence}", now, policy.telemetry_timeout_s)
        case Recovery(sentence=sentence) | Tick(sentence):
            return _wait(progress, sentence or progress.reason, now, policy.verify_timeout_s)
    raise RefusedError(f"{type(event).__name__} is not possible while {progress.state}")


def _wait(progress: Progress, reason: str, now: datetime, timeout_s: float) -> Step:
    """Verification goes on, or has failed after `timeout_s`."""
    if now - progress.since < timedelta(seconds=timeout_s):
        return replace(progress, reason=reason), ()
    reason = f"no recovery within {timeout_s:g} s: {reason}"
    return replace(progress, state=Status.FAILED, since=now, reason=reason), (Effect.PAGE,)
