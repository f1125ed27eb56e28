"""The endpoint's telemetry as databricks-sdk has it, through its own classes against the local workspace; and the tables that are found by it."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from databricks.sdk.errors import BadRequest
from databricks.sdk.service.serving import (
    EndpointCoreConfigInput,
    ExternalModel,
    ExternalModelProvider,
    OpenAiConfig,
    ServedEntityInput,
    TelemetryConfig,
    TelemetryInferenceTableConfig,
    UnityCatalogTableNames,
)
from typer.testing import CliRunner

from lastgood.cli.app import app
from lastgood.settings import WorkspaceSettings
from lastgood.workspace import local
from lastgood.workspace.databricks import client, connect, parse
from lastgood.workspace.local.state import TELEMETRY

NAMES = UnityCatalogTableNames(
    logs_table="main.obs.chat_logs", traces_table="main.obs.chat_traces", annotations_table="main.obs.chat_notes"
)
WANTED = TelemetryConfig(table_names=NAMES, inference_table_config=TelemetryInferenceTableConfig(sampling_fraction=0.5))
CHAT = ServedEntityInput(entity_name="main.default.support_chat", entity_version="1", scale_to_zero_enabled=False)


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkspaceSettings]:
    with local.serve() as space:
        monkeypatch.setenv("LOCAL", space.token)
        yield WorkspaceSettings(host=space.url, token_env="LOCAL", retry_timeout_s=5)


def test_the_local_workspace_knows_the_fields_the_sdk_has() -> None:
    assert {one.name for one in fields(UnityCatalogTableNames)} == TELEMETRY["table_names"]
    assert {one.name for one in fields(TelemetryInferenceTableConfig)} == TELEMETRY["inference_table_config"]
    assert {one.name for one in fields(TelemetryConfig)} == {
        *TELEMETRY,
        "telemetry_profile_id",
        "enabled_telemetry_features",
    }


def test_table_names_make_a_profile_and_the_payload_table_is_named_after_the_logs(settings: WorkspaceSettings) -> None:
    sdk = client(settings)
    sdk.serving_endpoints.create(
        "watched", config=EndpointCoreConfigInput("x", served_entities=[CHAT]), telemetry_config=WANTED
    )
    shown = sdk.serving_endpoints.get("watched").telemetry_config
    assert shown is not None
    assert shown.table_names is None
    assert shown.telemetry_profile_id
    assert connect(settings).endpoint("watched").payload_table == "main.obs.chat_logs_payload"


def test_telemetry_of_external_models_only_is_refused(settings: WorkspaceSettings) -> None:
    model = ExternalModel(
        provider=ExternalModelProvider.OPENAI, name="gpt", task="llm/v1/chat", openai_config=OpenAiConfig(openai_api_key="{{secrets/a/b}}")
    )  # fmt: skip
    config = EndpointCoreConfigInput("x", served_entities=[ServedEntityInput(name="gpt", external_model=model)])
    with pytest.raises(BadRequest, match="external models"):
        client(settings).serving_endpoints.create("elsewhere", config=config, telemetry_config=WANTED)


@pytest.mark.parametrize(
    ("document", "table"),
    [
        ({"ai_gateway": {"inference_table_config": {"enabled": True, "catalog_name": "c", "schema_name": "s"}}}, "c.s.chat_payload"),
        ({"ai_gateway": {"inference_table_config": {"enabled": False, "catalog_name": "c", "schema_name": "s"}}}, ""),
        ({"config": {"auto_capture_config": {"enabled": True, "catalog_name": "c", "schema_name": "s", "table_name_prefix": "p"}}}, "c.s.p_payload"),
        ({}, ""),
    ],
)  # fmt: skip
def test_the_payload_table_is_found_however_it_was_turned_on(document: dict[str, object], table: str) -> None:
    assert parse({"name": "chat"} | document).payload_table == table


def test_init_proposes_the_table_that_the_endpoint_names(
    settings: WorkspaceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client(settings).serving_endpoints.create(
        "watched", config=EndpointCoreConfigInput("x", served_entities=[CHAT]), telemetry_config=WANTED
    )
    words = [
        "init",
        "--storage",
        "./data",
        "--host",
        str(settings.host),
        "--token-env",
        "LOCAL",
        "--endpoints",
        "watched",
        "--mode",
        "observe",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    written = yaml.safe_load((tmp_path / "conf" / "lastgood.yaml").read_text())
    assert written["endpoints"] == {"watched": {"payload_table": "main.obs.chat_logs_payload"}}
