"""The verdict: what the judge says, with the figures it says it from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


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
    healthy version shows this much with a chance of at most 1 in 100). `ratio` (low..high, 95 %) compares the
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
    it. figures["trail"]: every number the evidence rests on."""

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

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; datetimes stay datetimes."""
        return asdict(self)
