"""What is known of one version of an endpoint, and what was done to it before: all that the judge may look at (pure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lastgood.judge.columns import Columns
from lastgood.judge.corrected import Judgements
from lastgood.record.windows import Counts


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
class Planned:
    """Share of the two versions' requests that the configuration sends to the new one, while it was in force (None: unbounded)."""

    share: float
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Evidence:
    """All that is known of one version. `windows`: closed windows of both versions, or the same as Columns. `completeness`: rows
    seen over rows expected, None when nothing says what to expect. `prior_ready`: whether the prior version could serve, None:
    unknown. `planned`: the splits the endpoint's configuration asked for, by time; windows under none of them are not asked.
    `usual`: hourly counts of earlier weeks, of whatever versions served well, for want of a prior version beside it. `deployed`: when the
    version's newest deployment began (None: with the first window). `scaled`: when replicas were added. `own_requests`: requests lately by
    the endpoint's own count, and those of them that were seen. `waiting`: starts of windows in which requests failed whose version is not
    known yet (a table names it later). `totals`: version -> all its windows added up, where `windows` are Columns. `judged`: what people label -> pairs
    of answers that a model judged, settled by now.
    """

    endpoint: str
    candidate: str
    prior: str | None
    windows: Sequence[Counts] | Columns
    window_s: int
    drift: Sequence[Drifted] = ()
    completeness: float | None = None
    prior_ready: bool | None = None
    planned: Sequence[Planned] = ()
    usual: Sequence[Counts] = ()
    deployed: datetime | None = None
    scaled: Sequence[datetime] = ()
    own_requests: tuple[float, float] | None = None
    waiting: Sequence[datetime] = ()
    totals: Mapping[str, Counts] = field(default_factory=dict)
    judged: Mapping[str, Judgements] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """What was done before. rolled_back: version -> when traffic of this endpoint was moved away from it, oldest first. share: part of
    the budget this look may spend, where several looks that do not know of each other judge the same version (see `budget`)."""

    rolled_back: Mapping[str, Sequence[datetime]] = field(default_factory=dict)
    share: float = 1.0

    @property
    def last_rollback(self) -> datetime | None:
        return max((moment for times in self.rolled_back.values() for moment in times), default=None)

    def attempt(self, version: str) -> int:
        """The how-manieth time this version is being tried: its evidence must be the stronger."""
        return len(self.rolled_back.get(version, ())) + 1
