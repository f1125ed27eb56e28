"""The endpoint's telemetry as databricks-sdk has it, through its own classes against the local workspace; and the tables that are found by it."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
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
from deltalake import write_deltalake
from typer.testing import CliRunner

from lastgood.cli import doctor
from lastgood.cli.app import app
from lastgood.settings import Sources, WorkspaceSettings, load
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


@pytest.mark.parametrize(
    ("features", "kinds"),
    [
        (None, {"spans", "logs", "annotations"}),
        (["TELEMETRY_FEATURE_TRACES", "TELEMETRY_FEATURE_LOGS"], {"spans", "logs", "annotations"}),
        (["TELEMETRY_FEATURE_LOGS"], {"logs"}),
        (["TELEMETRY_FEATURE_INFERENCE_TABLE"], set()),
    ],
)
def test_telemetry_is_where_the_platforms_own_naming_puts_it(features: list[str] | None, kinds: set[str]) -> None:
    telemetry = {
        "inference_table_config": {"name": "main.obs.chat_otel_logs_payload"},
        "enabled_telemetry_features": features,
    }
    exported = parse({"name": "chat", "telemetry_config": telemetry}).telemetry
    assert set(exported.values()) == {f"main.obs.chat_otel_{kind}" for kind in kinds}
    assert set(exported) <= set(Sources.model_fields)
    other = {"inference_table_config": {"name": "main.obs.our_logs_payload"}}
    assert parse({"name": "chat", "telemetry_config": other}).telemetry == {}, "names of people's own tell nothing"
    assert parse({"name": "chat"}).telemetry == {}


@pytest.mark.parametrize("kinds", [("spans", "logs", "annotations"), ("spans",), ()])
def test_init_proposes_the_telemetry_that_is_there_and_doctor_misses_what_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    catalog = local.LocalCatalog({"main.obs": str(tmp_path / "obs")})
    for kind in kinds:
        write_deltalake(str(tmp_path / "obs" / f"chat_otel_{kind}"), pa.table({"trace_id": ["a"]}))
    names = UnityCatalogTableNames(logs_table="main.obs.chat_otel_logs", traces_table="main.obs.chat_otel_spans")
    wanted = TelemetryConfig(table_names=names, inference_table_config=TelemetryInferenceTableConfig())
    with local.serve(local.LocalConfig(catalog=catalog)) as space:
        monkeypatch.setenv("LOCAL", space.token)
        own = WorkspaceSettings(host=space.url, token_env="LOCAL", retry_timeout_s=5)
        config = EndpointCoreConfigInput("x", served_entities=[CHAT])
        client(own).serving_endpoints.create("watched", config=config, telemetry_config=wanted)
        words = ["init", "--storage", "./data", "--host", space.url, "--token-env", "LOCAL", "--endpoints", "watched"]
        assert CliRunner().invoke(app, [*words, "--mode", "observe"]).exit_code == 0
        path = tmp_path / "conf" / "lastgood.yaml"
        written = yaml.safe_load(path.read_text())
        read = {
            kind: [f"main.obs.chat_otel_{kind}"] if kind in kinds else [] for kind in ("spans", "logs", "annotations")
        }
        assert {kind: written["sources"][f"{kind[:-1]}_tables"] for kind in read} == read
        assert written["endpoints"] == {"watched": {"payload_table": "main.obs.chat_otel_logs_payload"}}
        missed = [finding for finding in doctor.workspace(load(path)) if finding.name == "endpoint watched: spans"]
        assert bool(missed) is ("spans" not in kinds)
        unread = yaml.safe_dump(written | {"sources": {}})
        path.write_text(unread)
        named = {
            finding.name.split(": ")[1] for finding in doctor.workspace(load(path)) if "is not read" in finding.sentence
        }
        assert named == {"spans", *kinds}, "of logs and annotations those that are there"
