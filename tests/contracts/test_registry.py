"""The model registry through databricks-sdk and through MLflow's own client: both see the same, in Unity Catalog and in the workspace."""

from collections.abc import Iterator
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from mlflow import MlflowClient

from lastgood.alerts.registry import REASON, ROLLED_BACK
from lastgood.errors import ConfigError, GoneError, TransientError
from lastgood.workspace import RegistryMark
from lastgood.workspace.databricks import DatabricksWorkspace
from lastgood.workspace.local import CHAT, MODELS, LocalConfig, Running, serve

IN_UC, IN_WORKSPACE = MODELS[CHAT], "support_chat"


@pytest.fixture
def local() -> Iterator[Running]:
    with serve(LocalConfig(latency_scale=0.0)) as running:
        yield running


@pytest.fixture
def workspace(local: Running) -> DatabricksWorkspace:
    config = Config(host=local.url, token=local.token, auth_type="pat", retry_timeout_seconds=1)
    return DatabricksWorkspace(WorkspaceClient(config=config))


@pytest.fixture
def mlflow(local: Running, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's client of either registry."""
    monkeypatch.setenv("DATABRICKS_HOST", local.url)
    monkeypatch.setenv("DATABRICKS_TOKEN", local.token)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return lambda uri: MlflowClient(tracking_uri="databricks", registry_uri=uri)


def test_what_we_write_to_unity_catalog_mlflow_reads_and_the_other_way_round(
    workspace: DatabricksWorkspace, mlflow: Any
) -> None:
    client = mlflow("databricks-uc")
    workspace.put_mark(RegistryMark(IN_UC, "3", {ROLLED_BACK: None}, "lastgood", True))
    assert client.get_model_version_by_alias(IN_UC, "lastgood").version == "3"
    left = RegistryMark(IN_UC, "3", {ROLLED_BACK: "2026-03-01", REASON: "6% fail; \u00e4 \u6587"}, "lastgood", False)
    for _ in range(2):  # again is as once
        workspace.put_mark(left)
    assert dict(client.get_model_version(IN_UC, "3").tags) == {
        ROLLED_BACK: "2026-03-01",
        REASON: "6% fail; \u00e4 \u6587",
    }
    assert "lastgood" not in workspace.aliases(IN_UC)
    client.set_registered_model_alias(IN_UC, "champion", 2)
    client.set_model_version_tag(IN_UC, "2", "owner", "ann")
    client.delete_model_version_tag(IN_UC, "3", REASON)
    assert workspace.aliases(IN_UC) == {"champion": "2"}
    assert workspace.version_tags(IN_UC, "2") == {"owner": "ann"}
    assert workspace.version_tags(IN_UC, "3") == {ROLLED_BACK: "2026-03-01"}
    workspace.put_mark(RegistryMark(IN_UC, "2", {ROLLED_BACK: None}, "lastgood", True))
    workspace.put_mark(left)
    assert workspace.aliases(IN_UC) == {"champion": "2", "lastgood": "2"}, "another version keeps the alias"


def test_the_workspace_registry_has_stages_and_tags(workspace: DatabricksWorkspace, mlflow: Any) -> None:
    client = mlflow("databricks")
    client.set_model_version_tag(IN_WORKSPACE, "4", "owner", "ann")
    assert workspace.version_tags(IN_WORKSPACE, "4") == {"owner": "ann"}
    with pytest.warns(FutureWarning):
        client.transition_model_version_stage(IN_WORKSPACE, "4", "Production")
    assert workspace.aliases(IN_WORKSPACE) == {"Production": "4"}
    workspace.put_mark(RegistryMark(IN_WORKSPACE, "5", {ROLLED_BACK: None}, "lastgood", True))
    assert workspace.aliases(IN_WORKSPACE) == {"Production": "4", "lastgood": "5"}
    assert dict(client.get_registered_model(IN_WORKSPACE).tags) == {"lastgood": "5"}
    workspace.put_mark(RegistryMark(IN_WORKSPACE, "5", {ROLLED_BACK: "2026-03-01"}, "lastgood", False))
    assert workspace.aliases(IN_WORKSPACE) == {"Production": "4"}
    assert dict(client.get_model_version(IN_WORKSPACE, "5").tags) == {ROLLED_BACK: "2026-03-01"}


def test_what_goes_wrong_is_told_apart(workspace: DatabricksWorkspace, local: Running) -> None:
    with pytest.raises(GoneError):
        workspace.version_tags(IN_UC, "99")
    with pytest.raises(GoneError):
        workspace.put_mark(RegistryMark(IN_UC, "99", {ROLLED_BACK: "x"}))
    wrong = DatabricksWorkspace(WorkspaceClient(config=Config(host=local.url, token="wrong", auth_type="pat")))
    with pytest.raises(ConfigError):
        wrong.put_mark(RegistryMark(IN_UC, "3", {}, "lastgood", True))
    nobody = Config(host="http://127.0.0.1:1", token="t", auth_type="pat", retry_timeout_seconds=1)
    with pytest.raises(TransientError):
        DatabricksWorkspace(WorkspaceClient(config=nobody)).put_mark(RegistryMark(IN_UC, "3", {}, "lastgood", True))
