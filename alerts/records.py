"""The rows the room works with: incidents, rollbacks, messages, the kill switch."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lastgood.alerts.rollback.machine import Progress, Status
from lastgood.alerts.rollback.plan import Plan


@dataclass(frozen=True)
class Incident:
    """One (endpoint, candidate) in trouble. `verdict` is the newest one, as plain JSON values."""

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


@dataclass(frozen=True)
class Rollback:
    """One plan on its way. `nonce` is that of the newest link; `revision` guards against two writers."""

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

    @property
    def state(self) -> Status:
        return self.progress.state


@dataclass(frozen=True)
class KillSwitch:
    on: bool = False
    who: str = ""
    why: str = ""


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
