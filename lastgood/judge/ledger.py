"""The ledger of configurations -> which versions are judged, against which, and since when (pure).

- A version's newest deployment begins with the configuration since which it has had traffic without a pause, or when traffic was last moved
  away from it if that was later. What it did before is spent.
- Its champion is the version that carried most traffic before that, the last days counting most, of those that have served beside it where
  there are any: with a release a day, the version that carried most may be gone. A version that was rolled back carries nothing from before
  its rollback. A version that is its own champion (it came back) has no prior version: history is what it is held to.
- Judged is every version with traffic, but for champions that serve beside what they are compared with.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lastgood.judge.evidence import Planned
from lastgood.record.windows import utc

FORGETS = timedelta(days=3)
"""Traffic carried so long before counts a third (exp(-1))."""
SEEN_LATE = timedelta(minutes=2)
"""A change of the configuration is observed at most so long after it was made."""
AGAIN_AFTER, AGAIN_ROWS = timedelta(minutes=10), 60
"""Where no ledger is kept: a version is there when it has served so many requests; one that was rolled back is tried again when it serves
so many, later than so long after traffic was moved away."""
STRAY = 0.001
"""Where no ledger is kept: a version with less than this share of an endpoint's requests is a stray row."""


Content = frozenset[tuple[str, str, int]]
"""(served entity, version, per cent) of a configuration."""


@dataclass(frozen=True)
class Configuration:
    """Per cent of traffic by version, in force from `since` until the next one."""

    since: datetime
    traffic: Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """A version that is judged, its champion (None: there is none beside it), and since when its newest deployment serves."""

    candidate: str
    prior: str | None
    since: datetime


@dataclass(frozen=True)
class Served:
    """A version as the windows show it: first and last window, rows."""

    version: str
    first: datetime
    last: datetime
    rows: int


Away = Mapping[str, Sequence[datetime]]


def judged(configurations: Iterable[Configuration], away: Away | None = None) -> list[Pair]:
    """The pairs of the newest configuration, the newest deployment first. away: version -> when traffic was moved away from it."""
    ordered, gone = sorted(configurations, key=lambda c: c.since), away or {}
    if not ordered:
        return []
    now = [version for version, share in ordered[-1].traffic.items() if share > 0 and version != "?"]
    pairs = []
    for version in now:
        since = max([_deployed(ordered, version), *gone.get(version, ())])
        carried = _carried(ordered, since, gone)
        beside = _served_from(ordered, since)
        if (beside - {version}) & set(carried):
            carried = {other: much for other, much in carried.items() if other in beside}
        champion = max(carried, key=lambda v: (carried[v], v), default=None)
        pairs.append(Pair(version, champion if champion != version else None, since))
    champions = {pair.prior for pair in pairs if pair.prior in now}
    return sorted(
        (pair for pair in pairs if pair.candidate not in champions),
        key=lambda pair: (pair.since, pair.candidate),
        reverse=True,
    )


def _deployed(ordered: Sequence[Configuration], version: str) -> datetime:
    """Since when the version has had traffic without a pause."""
    since = ordered[-1].since
    for configuration in reversed(ordered):
        if configuration.traffic.get(version, 0) <= 0:
            break
        since = configuration.since
    return since


def _served_from(ordered: Sequence[Configuration], since: datetime) -> set[str]:
    """The versions with traffic in the configurations in force from `since` on."""
    ends = [*(configuration.since for configuration in ordered[1:]), None]
    later = [c for c, end in zip(ordered, ends, strict=True) if end is None or end > since]
    return {version for configuration in later for version, share in configuration.traffic.items() if share > 0}


def _carried(ordered: Sequence[Configuration], until: datetime, away: Away) -> dict[str, float]:
    """version -> traffic carried before `until`: share x time, weighed by exp(-age / FORGETS)."""
    total: dict[str, float] = {}
    ends = [*(configuration.since for configuration in ordered[1:]), until]
    for configuration, end in zip(ordered, ends, strict=True):
        for version, share in configuration.traffic.items():
            begin = max([configuration.since, *away.get(version, ())])
            a, z = ((until - moment) / FORGETS for moment in (begin, min(end, until)))
            if a > z and share > 0 and version != "?":
                total[version] = total.get(version, 0.0) + share * (math.exp(-max(z, 0.0)) - math.exp(-a))
    return {version: carried for version, carried in total.items() if carried > 0}


def planned(configurations: Iterable[Configuration], pair: Pair) -> list[Planned]:
    """The splits planned for the pair, and when each was surely in force."""
    ordered = sorted(configurations, key=lambda configuration: configuration.since)
    stretches = []
    for i, configuration in enumerate(ordered):
        until = ordered[i + 1].since - SEEN_LATE if i + 1 < len(ordered) else None
        new, prior = configuration.traffic.get(pair.candidate, 0.0), configuration.traffic.get(pair.prior or "", 0.0)
        if new + prior > 0:
            stretches.append(Planned(new / (new + prior), configuration.since, until))
    return stretches


def from_traffic(served: Iterable[Served]) -> list[Configuration]:
    """What the windows show, as configurations, for want of a ledger: a version has traffic from its first to its last window, in
    proportion to its rate. Stray rows (see AGAIN_ROWS, STRAY) are no version."""
    known = [version for version in served if version.version != "?"]
    whole = sum(version.rows for version in known)
    known = [v for v in known if v.rows >= min(AGAIN_ROWS, whole / 2) and v.rows >= STRAY * whole]
    if not known:
        return []
    newest = max(version.last for version in known)
    silent = timedelta(hours=1)
    edges = {version.first for version in known}
    edges |= {version.last for version in known if version.last < newest - silent}
    made = []
    for edge in sorted(edges):
        active = [v for v in known if v.first <= edge and (edge < v.last or v.last >= newest - silent)]
        rates = {v.version: v.rows / max((v.last - v.first).total_seconds(), 60.0) for v in active}
        total = sum(rates.values())
        made.append(Configuration(edge, {version: 100 * rate / total for version, rate in rates.items()}))
    return made


def observations(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[datetime, int, Content]]]:
    """Rows of `deployments`: endpoint -> its observations in order: (when, config version, what it holds)."""
    cells: dict[tuple[str, datetime, int], set[tuple[str, str, int]]] = {}
    for row in rows:
        key = (row["endpoint"], utc(row["observed_at"]), row["config_version"])
        cells.setdefault(key, set()).add((row["served_entity"], row["model_version"], int(row["traffic"] or 0)))
    grouped: dict[str, list[tuple[datetime, int, Content]]] = {}
    for (endpoint, at, number), content in sorted(cells.items(), key=lambda cell: cell[0]):
        grouped.setdefault(endpoint, []).append((at, number, frozenset(content)))
    return grouped


Stints = Sequence[tuple[datetime, str]]
"""Since when a served entity has been which version, in order."""


def stints(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Stints]:
    """Rows of `deployments` -> (endpoint, served entity) -> its versions."""
    held: dict[tuple[str, str], list[tuple[datetime, str]]] = {}
    for endpoint, seen in observations(rows).items():
        for at, _, content in seen:
            for entity, version, _ in content:
                held.setdefault((endpoint, entity), []).append((at, version))
    return dict(held)


def version_then(held: Stints, at: datetime) -> str | None:
    """The version that an entity was at a time; before it was first observed, the first."""
    return next((version for since, version in reversed(held) if since <= at), held[0][1] if held else None)


def ledger(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Configuration]]:
    """Rows of `deployments` -> endpoint -> its configurations in order; one that was observed twice in a row counts from the first time."""
    configurations: dict[str, list[Configuration]] = {}
    for endpoint, seen in observations(rows).items():
        last: tuple[int, Content] | None = None
        for at, number, content in seen:
            if (number, content) != last:
                traffic: dict[str, float] = {}
                for _, version, share in content:
                    traffic[version] = traffic.get(version, 0.0) + share
                configurations.setdefault(endpoint, []).append(Configuration(at, traffic))
            last = (number, content)
    return configurations
