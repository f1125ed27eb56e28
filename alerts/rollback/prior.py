"""An endpoint + what is known of its versions -> the version to go back to, with the reasons (pure)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from lastgood.errors import RefusedError
from lastgood.record.words import counted
from lastgood.workspace import Endpoint


@dataclass(frozen=True)
class Known:
    """What is known of versions besides the endpoint itself.

    `judged`: the version the judge compared with. `aliases`: registry alias -> version, best first.
    `served_well`: (version, when it was last judged healthy, how often), newest first. `snapshots`: versions whose served
    entity is stored, so that they can be put back, newest first.
    """

    judged: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    served_well: Sequence[tuple[str, datetime, int]] = ()
    snapshots: Sequence[str] = ()
    rolled_back: Collection[str] = ()


@dataclass(frozen=True)
class Choice:
    """`reasons`: first why this version, then why not the others."""

    version: str
    reasons: tuple[str, ...]


def choose(endpoint: Endpoint, bad: str, known: Known, wanted: str | None = None) -> Choice:
    """The version to go back to: the judge's, else by alias, else what served well, else what is deployed or was.

    `wanted`: a person's choice; it may be a version that was rolled back. Errors: RefusedError with every reason.
    """
    own = _of_model(endpoint, bad)
    if wanted is not None:
        return _wanted(own, bad, known, wanted)
    because = _candidates(own, known)
    against = {version: why for version in because if (why := _against(own, bad, known, version))}
    left = [version for version in because if version not in against]
    others = [f"not version {version}: {why}" for version, why in against.items() if version != bad]
    if not left:
        raise RefusedError("no prior version is known to go back to" + "".join(f"; {reason}" for reason in others))
    return Choice(left[0], (f"version {left[0]}: {', '.join(because[left[0]])}", *others))


def _of_model(endpoint: Endpoint, bad: str) -> Endpoint:
    """The endpoint with only the served entities of the model whose version is bad: another model's version of that number is another one."""
    models = {e.entity_name for e in endpoint.entities if e.entity_version == bad}
    if not models:
        return endpoint
    return replace(endpoint, entities=tuple(e for e in endpoint.entities if e.entity_name in models))


def _wanted(endpoint: Endpoint, bad: str, known: Known, wanted: str) -> Choice:
    if wanted == bad:
        raise RefusedError(f"version {bad} is both the bad and the prior version")
    if missing := _not_deployable(endpoint, known, wanted):
        raise RefusedError(f"version {wanted} {missing}")
    reasons = [f"version {wanted}: chosen by a person"]
    if wanted in known.rolled_back:
        reasons.append(f"version {wanted} was itself rolled back before; the person's choice stands")
    return Choice(wanted, tuple(reasons))


def _candidates(endpoint: Endpoint, known: Known) -> dict[str, list[str]]:
    """version -> why it could be gone back to, best first."""
    because: dict[str, list[str]] = {}
    if known.judged:
        because[known.judged] = ["the judge compared with it"]
    for alias, version in known.aliases.items():
        because.setdefault(version, []).append(f"the registry calls it {alias}")
    for version, at, times in known.served_well:
        because.setdefault(version, []).append(f"judged healthy {counted(times, 'time')}, last {at:%Y-%m-%d %H:%M} UTC")
    for entity in sorted(endpoint.entities, key=lambda e: endpoint.traffic.get(e.name, 0), reverse=True):
        share = endpoint.traffic.get(entity.name, 0)
        because.setdefault(entity.entity_version, []).append(f"deployed at {share}%")
    for version in known.snapshots:
        because.setdefault(version, []).append("took traffic in an earlier configuration")
    return because


def _against(endpoint: Endpoint, bad: str, known: Known, version: str) -> str:
    """Why it must not be gone back to; empty when it may."""
    if version == bad:
        return "it is the bad version"
    if version in known.rolled_back:
        return f"version {version} was itself rolled back"
    return _not_deployable(endpoint, known, version)


def _not_deployable(endpoint: Endpoint, known: Known, version: str) -> str:
    deployed = [e for e in endpoint.entities if e.entity_version == version]
    if deployed and not any(e.ready for e in deployed):
        return f"is deployed but not ready ({deployed[0].deployment})"
    if not deployed and version not in known.snapshots:
        return "is not deployed and no snapshot of it is stored"
    return ""
