"""The verdict: what the judge says, with the figures it says it from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

SCHEDULED, LIVE = "scheduled", "live"
"""The judges: the job that sees everything, and the service's own that sees the newest requests."""
TIMES = ("judged_at", "since", "until")


class State(StrEnum):
    """From best to worst; `Inconclusive` is not a shade of good or bad: the evidence does not allow a judgement."""

    HEALTHY = "Healthy"
    INCONCLUSIVE = "Inconclusive"
    WATCH = "Watch"
    PAGE = "Page"
    ROLL_BACK = "RollBack"

    @property
    def severity(self) -> int:
        return list(State).index(self)


@dataclass(frozen=True)
class Finding:
    """One thing the judge looked at.

    `e_value`: evidence against "the new version is no worse than the tolerance" (1 = none; 100 means that a
    healthy version shows this much with a chance of at most 1 in 100). `ratio` (low..high, 95%) compares the
    new version's rate of bad requests with the prior version's. Rates are shares of requests, 0-1.
    """

    metric: str
    sentence: str
    e_value: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    new_rate: float | None = None
    prior_rate: float | None = None


@dataclass(frozen=True)
class Verdict:
    """`judge(...)` of one endpoint at one moment. `prior` is None when no prior version is known. `outlook`: what would change
    it. figures["trail"]: every number the evidence rests on. `until`: the end of the newest window that was looked at (UTC; None where
    nothing was). `judge`: which of the two judges speaks."""

    endpoint: str
    candidate: str
    prior: str | None
    state: State
    reason: str
    judged_at: datetime
    since: datetime | None = None
    e_value: float = 1.0
    findings: tuple[Finding, ...] = ()
    vetoes: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    outlook: str = ""
    until: datetime | None = None
    judge: str = SCHEDULED

    @property
    def bad(self) -> bool:
        return self.state in (State.PAGE, State.ROLL_BACK)

    @property
    def speaks_until(self) -> datetime:
        """The newest moment this verdict knows of."""
        return self.until or self.judged_at

    @property
    def worst(self) -> Finding | None:
        """The finding that carries the verdict: the one with the most evidence."""
        return max(self.findings, key=lambda finding: finding.e_value or 0, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; datetimes stay datetimes."""
        return asdict(self)

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON; times are ISO 8601."""
        document = self.as_dict()
        times = {key: document[key].isoformat() if document[key] else None for key in TIMES}
        plain: dict[str, Any] = json.loads(json.dumps(document | times, default=str))
        return plain

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Verdict":
        """What `as_json` wrote; fields that an earlier release did not write have their defaults."""
        times = {key: datetime.fromisoformat(document[key]) if document.get(key) else None for key in TIMES}
        findings = tuple(Finding(**finding) for finding in document["findings"])
        rest = {"state": State(document["state"]), "findings": findings, "vetoes": tuple(document["vetoes"])}
        named = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        return cls(**{**named, **times, **rest})
