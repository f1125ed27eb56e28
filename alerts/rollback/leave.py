"""An endpoint, the ledger of its configurations and its open incidents -> the version that a rollback leaves, and why (pure).

One rule for the command line, for what other systems report, and for pages: the version with most traffic says nothing (a bad canary has
least of it, and at 50/50 nothing is most).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from lastgood.errors import RefusedError
from lastgood.judge.ledger import Configuration, judged
from lastgood.workspace import Endpoint

NAME_IT = "name the version to leave (--from)"


@dataclass(frozen=True)
class Leaving:
    """The version to leave, and why it is that one."""

    version: str
    why: str


def choose_leaving(
    endpoint: Endpoint,
    configurations: Sequence[Configuration],
    away: Mapping[str, Sequence[datetime]],
    accused: Collection[str],
    now: datetime,
) -> Leaving:
    """The version to leave: the one that an open incident is about, else the only one with traffic, else the newest deployment by the ledger
    (as the judge takes it), else the newest of one model by its number in the registry.

    `away`: version -> when rollbacks moved traffic away from it. `accused`: versions with an open incident.
    Errors: RefusedError where that is unclear.
    """
    serving = sorted({e.entity_version for e in endpoint.entities if endpoint.share(e.entity_version)})
    if not serving:
        raise RefusedError(f"{endpoint.name} serves nothing")
    suspects = [version for version in serving if version in accused]
    if len(suspects) == 1:
        return Leaving(suspects[0], f"an open incident is about version {suspects[0]}")
    if len(suspects) > 1:
        raise RefusedError(f"{endpoint.name} has open incidents on versions {' and '.join(suspects)}: {NAME_IT}")
    if len(serving) == 1:
        return Leaving(serving[0], f"version {serving[0]} takes all traffic")
    newest = _newest_deployed(endpoint, configurations, away, now)
    if len(newest) == 1:
        others = ", ".join(version for version in serving if version != newest[0])
        return Leaving(newest[0], f"version {newest[0]} was deployed after {others}, by the deployment history")
    return _newest_registered(endpoint, newest or serving)


def _newest_deployed(
    endpoint: Endpoint,
    configurations: Sequence[Configuration],
    away: Mapping[str, Sequence[datetime]],
    now: datetime,
) -> list[str]:
    """The serving versions whose deployment is the newest that the judge would judge; several where the ledger does not tell them apart."""
    if not configurations:
        return []
    current = {e.entity_version: float(endpoint.share(e.entity_version)) for e in endpoint.entities}
    shown = sorted(configurations, key=lambda configuration: configuration.since)
    if _serving(shown[-1].traffic) != _serving(current):
        shown = [*shown, Configuration(now, current)]
    pairs = judged(shown, away)
    return [pair.candidate for pair in pairs if pair.since == pairs[0].since]


def _serving(traffic: Mapping[str, float]) -> frozenset[str]:
    return frozenset(version for version, share in traffic.items() if share > 0)


def _newest_registered(endpoint: Endpoint, versions: Sequence[str]) -> Leaving:
    """Of versions of one model, the one with the highest number in the registry."""
    models = {e.entity_name for e in endpoint.entities if e.entity_version in versions}
    if len(models) > 1 or not all(version.isdigit() for version in versions):
        listed = " and ".join(sorted(versions))
        raise RefusedError(f"{endpoint.name} serves {listed}, and nothing says which of them is the newest: {NAME_IT}")
    newest = max(versions, key=int)
    return Leaving(newest, f"version {newest} is the newest of {', '.join(sorted(versions))} in the registry")
