"""The rows the room works with: incidents, rollbacks, messages, the kill switch, silences and freezes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from lastgood.alerts.rollback.machine import Progress, Status
from lastgood.alerts.rollback.plan import Plan

PERSON = "a person"


@dataclass(frozen=True)
class Incident:
    """One (endpoint, candidate) in trouble. `verdict` is the newest one, as plain JSON values; `harm_at`: when a judge last saw the harm."""

    id: str
    endpoint: str
    candidate: str
    prior: str | None
    verdict: Mapping[str, Any]
    note: str
    opened_at: datetime
    updated_at: datetime
    resolved_at: datetime | None
    resolution: str
    harm_at: datetime | None = None
    acked_at: datetime | None = None
    acked_by: str = ""

    @property
    def source(self) -> str:
        """Who opened it: empty for the judge."""
        return str(self.verdict.get("source") or "")

    @property
    def reported_by(self) -> str:
        """The other system whose alert it is; empty for the judge's and a person's."""
        return "" if self.source == PERSON else self.source


@dataclass(frozen=True)
class Rollback:
    """One plan on its way. `nonce` is that of the newest link; `revision` guards against two writers.

    `shifted_at`: when the first change was about to be sent; `moved_at`: when the workspace showed that the traffic had moved.
    `evidence`: what it was proposed on (see decide.evidence_of).
    """

    id: str
    incident_id: str
    mode: str
    metric: str
    plan: Plan
    nonce: str
    progress: Progress
    revision: int
    created_at: datetime
    shifted_at: datetime | None = None
    ended_at: datetime | None = None
    moved_at: datetime | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> Status:
        return self.progress.state


@dataclass(frozen=True)
class KillSwitch:
    on: bool = False
    who: str = ""
    why: str = ""


class PauseKind(StrEnum):
    """`silence`: pages are not sent; rollbacks are proposed and done as ever. `freeze`: nothing changes by itself; a person may."""

    SILENCE = "silence"
    FREEZE = "freeze"


@dataclass(frozen=True)
class Pause:
    """A silence or a freeze of the endpoints that match a pattern, from `starts` to `ends`."""

    id: str
    kind: PauseKind
    endpoint: str
    starts: datetime
    ends: datetime
    who: str
    why: str

    def in_force(self, now: datetime) -> bool:
        return self.starts <= now < self.ends

    def __str__(self) -> str:
        what = "silenced" if self.kind is PauseKind.SILENCE else "changes are frozen"
        return f"{what} until {self.ends:%Y-%m-%d %H:%M} UTC ({self.who}: {self.why})"


@dataclass(frozen=True)
class Check:
    """One run of the release checklist. `document`: its rows as plain values."""

    endpoint: str
    version: str
    at: datetime
    passed: bool
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Message:
    id: int
    channel: str
    event: Mapping[str, Any]
    attempts: int
    created_at: datetime
