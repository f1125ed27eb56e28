"""What identifies the version behind a served entity, of every kind there is (pure).

A registered model has a version of its own, and so have agents and foundation models with provisioned throughput. External models, feature
specs and models paid by token have none: for them it is the served entity's name and a hash of what it serves, so that another
provider, model or deployment is another version, and another key or size is not.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

SECRET = re.compile(r"key|token|secret|password|credential", re.IGNORECASE)
HASH_CHARS = 8


def version_of(entity: Mapping[str, Any]) -> str:
    """The version of a served entity's document: the registry's, else NAME@HASH. Never empty, and the same for what is read and what is sent."""
    for key in ("entity_version", "model_version"):
        if entity.get(key) not in (None, ""):
            return str(entity[key])
    served = {key: _public(entity[key]) for key in ("external_model", "entity_name") if entity.get(key)}
    if hosted := _hosted(entity):
        served["foundation_model"] = hosted
    text = json.dumps(served, sort_keys=True, separators=(",", ":"))
    return f"{name_of(entity)}@{hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]}"


def model_of(entity: Mapping[str, Any]) -> str:
    """The registered model whose version it is; empty for what has no version in a registry: such entities stand in for each other."""
    if entity.get("entity_version") in (None, "") and entity.get("model_version") in (None, ""):
        return ""
    return str(entity.get("entity_name") or entity.get("model_name") or "")


def may_be_marked(model: str) -> bool:
    """Whether the registry can be told of a model's versions: it is in one, and not in the platform's own catalog, where nobody else writes."""
    return bool(model) and not model.startswith("system.")


def name_of(entity: Mapping[str, Any]) -> str:
    """The served entity's name; where it has none, the one the platform would give it (databricks-sdk, ServedEntityInput.name)."""
    if entity.get("name"):
        return str(entity["name"])
    if external := entity.get("external_model"):
        return re.sub(r"[.:]", "-", str(external.get("name") or "external"))
    model, version = (
        str(entity.get("entity_name") or entity.get("model_name") or ""),
        entity.get("entity_version") or entity.get("model_version"),
    )
    short = (model or _hosted(entity)).rpartition(".")[2]
    return f"{short}-{version}" if version else short or "entity"


def _hosted(entity: Mapping[str, Any]) -> str:
    """The foundation model that the platform hosts and is paid by token; empty for any other entity."""
    return str((entity.get("foundation_model") or {}).get("name") or "")


def _public(value: Any) -> Any:
    """A document without what is named like a secret: a key that is renewed makes no new version."""
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items() if not SECRET.search(str(key))}
    return value


def modern(entity: Mapping[str, Any]) -> dict[str, Any]:
    """A document of `served_models` (old endpoints) as `served_entities` takes it; any other unchanged."""
    renamed = {"model_name": "entity_name", "model_version": "entity_version"}
    return {renamed.get(key, key): value for key, value in entity.items()}
