"""The model registry through databricks-sdk: Unity Catalog (catalog.schema.model) and, for names without dots, the workspace registry.

Tags of Unity Catalog's versions are in no class of the SDK: MLflow's own client asks `/api/2.0/mlflow/unity-catalog/...` for them, and so
do we; a contract test holds the local workspace to that client. The workspace registry has stages and no aliases: a stage reads as an
alias, and the alias that Lastgood sets is a tag of the model with the version as its value.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound

from lastgood.workspace import RegistryMark


class Registry:
    """Aliases and tags of models. Errors: those of databricks-sdk."""

    def __init__(self, client: WorkspaceClient) -> None:
        self._client = client

    def aliases(self, model: str) -> dict[str, str]:
        """Alias (or stage) -> version."""
        if in_unity_catalog(model):
            registered = self._client.registered_models.get(model, include_aliases=True)
            return {str(alias.alias_name): str(alias.version_num) for alias in registered.aliases or ()}
        document = self._ask("GET", "registered-models/get", {"name": model}).get("registered_model", {})
        stages = {
            str(version["current_stage"]): str(version["version"])
            for version in document.get("latest_versions", ())
            if version.get("current_stage", "None") != "None"
        }
        return stages | {key: value for key, value in _pairs(document).items() if value.isdigit()}

    def tags(self, model: str, version: str) -> dict[str, str]:
        """Tags of a version."""
        where = "unity-catalog/" if in_unity_catalog(model) else ""
        document = self._ask("GET", f"{where}model-versions/get", {"name": model, "version": version})
        return _pairs(document.get("model_version", {}))

    def put(self, mark: RegistryMark) -> None:
        """Make it so; doing it twice changes nothing."""
        where = "unity-catalog/" if in_unity_catalog(mark.model) else ""
        version = {"name": mark.model, "version": mark.version}
        for key, value in mark.tags.items():
            if value is None:
                self._untag(f"{where}model-versions/delete-tag", {**version, "key": key})
            else:
                self._ask("POST", f"{where}model-versions/set-tag", {**version, "key": key, "value": value})
        if not mark.alias:
            return
        held = self.aliases(mark.model).get(mark.alias)
        if mark.holds and held != mark.version:
            self._set_alias(mark.model, mark.alias, mark.version)
        elif not mark.holds and held == mark.version:
            self._drop_alias(mark.model, mark.alias)

    def _set_alias(self, model: str, alias: str, version: str) -> None:
        if in_unity_catalog(model):
            self._client.registered_models.set_alias(model, alias, int(version))
        else:
            self._client.model_registry.set_model_tag(name=model, key=alias, value=version)

    def _drop_alias(self, model: str, alias: str) -> None:
        if in_unity_catalog(model):
            self._client.registered_models.delete_alias(model, alias)
        else:
            self._client.model_registry.delete_model_tag(model, alias)

    def _ask(self, method: str, path: str, values: Mapping[str, Any]) -> dict[str, Any]:
        sent: dict[str, Any] = {"query" if method == "GET" else "body": dict(values)}
        answer = self._client.api_client.do(method, f"/api/2.0/mlflow/{path}", **sent)
        return answer if isinstance(answer, dict) else {}

    def _untag(self, path: str, values: Mapping[str, Any]) -> None:
        with contextlib.suppress(NotFound):
            self._ask("DELETE", path, values)


def in_unity_catalog(model: str) -> bool:
    """Whether a model's name is catalog.schema.model."""
    return model.count(".") == 2


def _pairs(document: Mapping[str, Any]) -> dict[str, str]:
    return {str(tag["key"]): str(tag.get("value", "")) for tag in document.get("tags", ())}
