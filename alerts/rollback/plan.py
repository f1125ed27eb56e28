"""An endpoint as it is + the bad and the prior version -> the exact change a rollback makes (pure)."""

import difflib
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from lastgood.alerts.rollback.capacity import asleep, cautions
from lastgood.errors import CorruptError, RefusedError
from lastgood.workspace import Endpoint, ServedEntity, Update
from lastgood.workspace.identity import may_be_marked, model_of, version_of

MAX_ENTITIES = 15  # a serving endpoint holds no more served entities
WHOLE = 100
ADDED = ("cautions", "wake", "registry_alias")
"""Fields that plans of earlier releases do not have."""


class Kind(StrEnum):
    """What a plan is for. A promotion moves traffic to a new version; a drill rehearses a rollback on staging."""

    ROLLBACK = "rollback"
    PROMOTE = "promote"
    DRILL = "drill"


class Route(StrEnum):
    """`fast`: the prior version is deployed and ready. `slow`: it must be put back and become ready first."""

    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True)
class Snapshot:
    """A version's served entity as it was in a configuration in which it took traffic."""

    endpoint: str
    config_version: int
    version: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One configuration the workspace is asked for: complete, so that asking twice changes nothing."""

    entities: tuple[Mapping[str, Any], ...]
    traffic: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """What a rollback will do. Everything of the endpoint that is not named in `diff()` stays as it is.

    `entities` are the served entities' whole input documents afterwards; `traffic_*` map served entity name to
    per cent. The version that loses traffic stays deployed. `made_at` is ISO 8601 UTC; `id` is the hash of all else.
    For a promotion `bad_version` is the one that gives traffic up, `prior_version` the one that is promoted.
    `cautions`: see capacity. `wake`: the version that takes traffic may have scaled to zero and is asked once before it gets any.
    """

    endpoint: str
    bad_version: str
    prior_version: str
    prior_entity: str
    path: Route
    config_version: int
    traffic_before: Mapping[str, int]
    traffic_after: Mapping[str, int]
    entities: tuple[Mapping[str, Any], ...]
    passthrough: Mapping[str, Any]
    reasons: tuple[str, ...]
    made_at: str
    kind: Kind = Kind.ROLLBACK
    cautions: tuple[str, ...] = ()
    wake: bool = False
    registry_alias: str = ""

    @property
    def id(self) -> str:
        document = asdict(self)
        for name in ADDED:
            if not document[name]:
                del document[name]  # plans that earlier releases stored keep their id
        return hashlib.sha256(canonical(document).encode()).hexdigest()[:32]

    @property
    def targets(self) -> tuple[Target, ...]:
        """The configurations to reach, in order: on the slow path the prior version first becomes ready at 0%."""
        shift = Target(self.entities, self.traffic_after)
        if self.path is Route.FAST:
            return (shift,)
        return (Target(self.entities, {**self.traffic_before, self.prior_entity: 0}), shift)

    def diff(self) -> list[str]:
        """The change in lines a person reads. Settings are not shown: they may hold secrets."""
        lines = []
        if self.path is Route.SLOW:
            lines.append(f"put version {self.prior_version} back as served entity {self.prior_entity} (takes minutes)")
        for name in sorted({*self.traffic_before, *self.traffic_after}):
            before, after = self.traffic_before.get(name, 0), self.traffic_after.get(name, 0)
            if before != after:
                lines.append(f"traffic of {name}: {before}% -> {after}%")
        left = sum(
            self.traffic_after.get(str(e["name"]), 0) for e in self.entities if version_of(e) == self.bad_version
        )
        if self.wake:
            lines.insert(0, f"wake {self.prior_entity}: it may have scaled to zero")
        lines += [f"caution: {sentence}" for sentence in self.cautions]
        if written := self._registry():
            lines.append(f"registry: {written}")
        return [*lines, f"version {self.bad_version} stays deployed at {left}%", "nothing else changes"]

    @property
    def model(self) -> str:
        """The registered model of the version that is left; empty where it has none."""
        return next((model_of(e) for e in self.entities if version_of(e) == self.bad_version), "")

    def _registry(self) -> str:
        """What the registry is told, if this works out."""
        if not self.registry_alias or not may_be_marked(self.model):
            return ""
        if self.kind is Kind.ROLLBACK:
            return f"version {self.bad_version} of {self.model} is tagged as rolled back and loses the alias {self.registry_alias}"
        if self.kind is Kind.PROMOTE and self.traffic_after.get(self.prior_entity) == WHOLE:
            return f"the alias {self.registry_alias} of {self.model} moves to version {self.prior_version} when it is judged healthy"
        return ""

    def config_diff(self) -> str:
        """A unified diff of the endpoint's whole config; values that may be secrets are hidden in it."""
        before = [e for e in self.entities if self.path is Route.FAST or e["name"] != self.prior_entity]
        old, new = (
            json.dumps(redacted({"served_entities": list(entities), "traffic": traffic}), indent=2).splitlines()
            for entities, traffic in ((before, self.traffic_before), (self.entities, self.traffic_after))
        )
        names = f"{self.endpoint} config {self.config_version}", f"{self.endpoint} after"
        return "\n".join(difflib.unified_diff(old, new, *names, n=2, lineterm=""))

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, **asdict(self)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "Plan":
        """The stored plan. Errors: CorruptError when it is not what was stored."""
        try:
            values = {f.name: document[f.name] for f in fields(cls) if f.name not in ADDED or f.name in document}
            values |= {
                "path": Route(values["path"]),
                "kind": Kind(values["kind"]),
                "entities": tuple(values["entities"]),
            }
            values |= {"cautions": tuple(values.get("cautions", ())), "reasons": tuple(values["reasons"])}
            plan = cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"a stored plan cannot be read: {error!r}") from error
        if plan.id != document.get("id"):
            raise CorruptError(f"plan {document.get('id')} is not what was stored")
        return plan


_SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)


def redacted(value: Any, hide: bool = False) -> Any:
    """A config document for people: environment values and whatever is named like a secret are hidden.

    References to a secret (`{{secrets/scope/key}}`) are not secret and stay.
    """
    if isinstance(value, Mapping):
        return {
            k: redacted(v, hide or k == "environment_vars" or bool(_SECRET.search(str(k)))) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redacted(item, hide) for item in value]
    return value if not hide or value is None or str(value).startswith("{{secrets/") else "(hidden)"


def canonical(document: Any) -> str:
    """JSON that is equal for equal documents."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def make_plan(
    endpoint: Endpoint,
    bad: str,
    prior: str | None,
    *,
    refused: Collection[str],
    snapshot: Snapshot | None,
    reasons: Sequence[str],
    now: datetime,
    kind: Kind = Kind.ROLLBACK,
    share: int | None = None,
    write_only: Mapping[str, Any] | None = None,
    registry_alias: str = "",
) -> Plan:
    """The plan that moves the traffic of `bad` to `prior`, or only so much that `prior` takes `share` per cent.

    `write_only`: fields of every served entity that the workspace does not report (burst_scaling_enabled).
    `refused`: versions rolled back before. `snapshot`: of the prior version, for the slow path.
    Errors: RefusedError with the reason there is none.
    """
    bad_entities = _bad(endpoint, bad)
    if prior is None:
        raise RefusedError("no prior version is known to go back to")
    if prior == bad:
        raise RefusedError(f"version {bad} is both the bad and the prior version")
    if prior in refused:
        raise RefusedError(f"prior version {prior} was itself rolled back")
    if endpoint.update is Update.IN_PROGRESS:
        raise RefusedError("another update of the endpoint is in progress")
    model = bad_entities[0].entity_name
    deployed, hidden = _prior(endpoint, prior, model), write_only or {}
    entities = [{**hidden, **e.settings, "name": e.name} for e in endpoint.entities]
    if deployed is None:
        entities.append({**hidden, **_restore(endpoint, prior, model, snapshot)})
    name = deployed.name if deployed else str(entities[-1]["name"])
    documents = {str(document["name"]): document for document in entities}
    after = _moved(endpoint.traffic, [e.name for e in bad_entities], name, share)
    if after == endpoint.traffic:
        raise RefusedError(f"nothing to do: version {prior} takes {after.get(name, 0)}% already")
    return Plan(
        endpoint=endpoint.name,
        bad_version=bad,
        prior_version=prior,
        prior_entity=name,
        path=Route.FAST if deployed else Route.SLOW,
        config_version=endpoint.config_version,
        traffic_before=dict(endpoint.traffic),
        traffic_after=after,
        entities=tuple(entities),
        passthrough=dict(endpoint.passthrough),
        reasons=(*reasons, *_fallback(endpoint, bad)),
        made_at=now.isoformat(),
        kind=kind,
        cautions=cautions(documents, endpoint.traffic, after, name),
        wake=asleep(documents[name], endpoint.traffic.get(name, 0)),
        registry_alias=registry_alias,
    )


def _fallback(endpoint: Endpoint, bad: str) -> tuple[str, ...]:
    """What the AI Gateway does with requests that fail, in a sentence: a version at 0% is not out of reach."""
    if not (endpoint.gateway.get("fallback_config") or {}).get("enabled"):
        return ()
    return (
        f"the gateway falls back: a request that fails is tried on the other served entities, version {bad} among them",
    )


def besides(plan: Plan, endpoint: Endpoint, write_only: Collection[str]) -> tuple[str, ...]:
    """What differs from the plan in a configuration that has its entities and traffic, in sentences without values (they may be secrets).

    The workspace may add defaults of its own to an entity that was put back. `write_only`: fields it does not report.
    """
    lines = []
    present = {entity.name: entity.settings for entity in endpoint.entities}
    for wanted in plan.entities:
        name = str(wanted["name"])
        shown = present.get(name, {})
        added = plan.path is Route.SLOW and name == plan.prior_entity
        lines += [
            f"served entity {name}: {key} {'is gone' if key not in shown else 'changed'}"
            for key, value in wanted.items()
            if key not in write_only and shown.get(key) != value
        ]
        lines += [f"served entity {name}: {key} is new" for key in shown if key not in wanted and not added]
    planned = {str(wanted["name"]) for wanted in plan.entities}
    lines += [f"served entity {name} is new" for name in sorted(present.keys() - planned)]
    now, then = dict(endpoint.passthrough), dict(plan.passthrough)
    lines += [f"{key} changed" for key in sorted({*now, *then}) if now.get(key) != then.get(key)]
    return tuple(lines)


def _moved(traffic: Mapping[str, int], giving: Sequence[str], taking: str, share: int | None) -> dict[str, int]:
    """The traffic after `giving` have given all of theirs, or so much that `taking` takes `share` per cent."""
    after = dict(traffic)
    left = sum(after.get(name, 0) for name in giving)
    if share is not None:
        left = max(0, min(left, share - after.get(taking, 0)))
    if left:
        after[taking] = after.get(taking, 0) + left
    for name in giving:
        given = min(left, after.get(name, 0))
        left -= given
        if name in after:
            after[name] -= given
    return after


def _bad(endpoint: Endpoint, version: str) -> list[ServedEntity]:
    matches = [e for e in endpoint.entities if e.entity_version == version]
    if not matches:
        raise RefusedError(f"nothing to do: version {version} is not deployed")
    if len({e.entity_name for e in matches}) > 1:
        raise RefusedError(f"version {version} is served of several models: which one is bad is not known")
    if not endpoint.share(version):
        raise RefusedError(f"nothing to do: version {version} takes no traffic")
    return matches


def _prior(endpoint: Endpoint, version: str, model: str) -> ServedEntity | None:
    """The deployed, ready entity of the prior version, or None when it is not deployed. Another model's version of that number is not it."""
    matches = [e for e in endpoint.entities if e.entity_version == version and e.entity_name == model]
    ready = [e for e in matches if e.ready]
    if matches and not ready:
        raise RefusedError(f"prior version {version} is deployed but not ready ({matches[0].deployment})")
    return max(ready, key=lambda e: endpoint.traffic.get(e.name, 0), default=None)


def _restore(endpoint: Endpoint, version: str, model: str, snapshot: Snapshot | None) -> dict[str, Any]:
    """The prior version's stored document; renamed only when the name is taken by another version."""
    if snapshot is None:
        raise RefusedError(f"prior version {version} is not deployed and no snapshot of it is stored")
    if (snapshot.endpoint, snapshot.version) != (endpoint.name, version):
        raise RefusedError(f"the snapshot is of {snapshot.endpoint} version {snapshot.version}")
    if model_of(snapshot.settings) != model:
        raise RefusedError(
            f"the snapshot of version {version} is of the model {model_of(snapshot.settings) or '-'}, not of {model or '-'}"
        )
    if len(endpoint.entities) >= MAX_ENTITIES:
        raise RefusedError(f"the endpoint already holds {MAX_ENTITIES} served entities")
    settings = dict(snapshot.settings)
    taken = {e.name for e in endpoint.entities}
    name = settings.get("name") or f"prior-{version}"
    settings["name"] = f"{name}-{version}" if name in taken else name
    if settings["name"] in taken:
        raise RefusedError(f"the served entity names {name} and {settings['name']} are both taken")
    return settings
