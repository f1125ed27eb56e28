"""The model registry of the local workspace: what MLflow's client and databricks-sdk read and write of it."""

from typing import Any

from lastgood.workspace.local.state import ApiError

VERSIONS = range(1, 10)
"""Versions that every model of the local workspace has."""


class ModelRegistry:
    """Aliases (shared with the API of Unity Catalog), tags and stages. Documents have the fields of MLflow's registry messages."""

    def __init__(self, aliases: dict[str, dict[str, int]]) -> None:
        self._aliases = aliases
        self._tags: dict[tuple[str, str], dict[str, str]] = {}
        self._stages: dict[tuple[str, str], str] = {}

    def model(self, name: str) -> dict[str, Any]:
        own = self._aliases.get(name, {})
        staged = [self.version(name, version) for (model, version), stage in self._stages.items() if model == name]
        return {
            "name": name, "aliases": [{"alias": alias, "version": str(version)} for alias, version in own.items()],
            "tags": self._pairs(name, ""), "latest_versions": staged,
        }  # fmt: skip

    def version(self, name: str, version: str) -> dict[str, Any]:
        """Errors: ApiError 404 where there is no such version."""
        if not version.isdigit() or int(version) not in VERSIONS:
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"Model Version (name={name}, version={version}) not found")
        own = [alias for alias, held in self._aliases.get(name, {}).items() if str(held) == version]
        stage = self._stages.get((name, version), "None")
        return {
            "name": name,
            "version": version,
            "current_stage": stage,
            "status": "READY",
            "aliases": own,
            "tags": self._pairs(name, version),
        }

    def tag(self, name: str, version: str, key: str, value: str | None) -> dict[str, Any]:
        """Set a tag of a version (of the model where `version` is empty), or take it away."""
        if version:
            self.version(name, version)
        tags = self._tags.setdefault((name, version), {})
        if value is None:
            if tags.pop(key, None) is None:
                raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"no tag {key} of {name} {version}")
        else:
            tags[key] = str(value)
        return {}

    def alias(self, name: str, alias: str, version: str | None) -> dict[str, Any]:
        own = self._aliases.setdefault(name, {})
        if version is None:
            own.pop(alias, None)
        else:
            self.version(name, version)
            own[alias] = int(version)
        return {}

    def by_alias(self, name: str, alias: str) -> dict[str, Any]:
        version = self._aliases.get(name, {}).get(alias)
        if version is None:
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"alias {alias} does not exist")
        return self.version(name, str(version))

    def stage(self, name: str, version: str, stage: str) -> dict[str, Any]:
        self._stages[name, version] = stage
        return self.version(name, version)

    def _pairs(self, name: str, version: str) -> list[dict[str, str]]:
        return [{"key": key, "value": value} for key, value in self._tags.get((name, version), {}).items()]
