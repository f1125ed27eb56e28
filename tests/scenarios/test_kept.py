"""A rollback through the real client leaves everything of the endpoint that it does not name as it was, field by field."""

import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import pytest
from alerts_support import EVERY_SETTING, House, settings, verdict
from databricks.sdk.service.serving import (
    AutoCaptureConfigInput,
    EndpointCoreConfigOutput,
    ServedEntityInput,
    ServingEndpointDetailed,
)

from lastgood.settings import EndpointSettings, Mode, WorkspaceSettings
from lastgood.workspace import local
from lastgood.workspace.databricks import connect
from lastgood.workspace.local.state import KEPT

MODEL = local.MODELS[local.CHAT]
BESIDES: dict[str, Any] = {
    "ai_gateway": {
        "rate_limits": [{"calls": 100, "key": "endpoint", "renewal_period": "minute"}],
        "usage_tracking_config": {"enabled": True},
        "guardrails": {"input": {"pii": {"behavior": "BLOCK"}}},
    },
    "budget_policy_id": "policy-1",
    "description": "answers customers",
    "email_notifications": {"on_update_failure": ["ann@example.com"]},
    "route_optimized": True,
    "telemetry_config": {
        "telemetry_profile_id": "profile-1",
        "enabled_telemetry_features": ["TRACES"],
        "inference_table_config": {"name": "main.logs.chat_payload", "sampling_fraction": 1.0},
    },
}
CAPTURE = {"catalog_name": "main", "schema_name": "logs", "table_name_prefix": "chat", "enabled": True}
CHANGED = {"config", "pending_config", "state", "last_updated_timestamp"}


@pytest.fixture
def running() -> Iterator[local.Running]:
    with local.serve(local.LocalConfig(update_s=0.2)) as space:
        yield space


def entity(version: str, **more: Any) -> dict[str, Any]:
    return {**local.entity(MODEL, version), **EVERY_SETTING, **more}


def put(running: local.Running, traffic: dict[str, int], *entities: dict[str, Any]) -> dict[str, Any]:
    routes = [{"served_entity_name": name, "traffic_percentage": share} for name, share in traffic.items()]
    return {"served_entities": list(entities), "traffic_config": {"routes": routes}, "auto_capture_config": CAPTURE}


def test_the_test_knows_every_field_the_sdk_has() -> None:
    assert {one.name for one in fields(ServedEntityInput)} == {*EVERY_SETTING, "name", "entity_name", "entity_version"}
    assert {one.name for one in fields(AutoCaptureConfigInput)} == set(CAPTURE)
    assert {one.name for one in fields(EndpointCoreConfigOutput)} == {
        "config_version", "served_entities", "traffic_config", "auto_capture_config",
        "served_models",  # the old name of served_entities
    }  # fmt: skip
    given_by_the_service = {"creation_timestamp", "creator", "data_plane_info", "endpoint_url", "id", "name", "tags"}
    given_by_the_service |= {"permission_level", "task"}
    assert {one.name for one in fields(ServingEndpointDetailed)} - CHANGED - given_by_the_service == set(KEPT)
    assert set(BESIDES) == set(KEPT)


@pytest.mark.parametrize("path", ["fast", "slow"])
def test_all_but_the_traffic_stays(
    running: local.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("LOCAL_TOKEN", running.token)
    state = running.service.state
    old, new, third = entity("2", workload_size="Large"), entity("3"), entity("1", workload_size="Small")
    names = {e["entity_version"]: e["name"] for e in (old, new, third)}
    tags = [{"key": "owner", "value": "ann"}]
    config = put(running, {names["2"]: 90, names["1"]: 10}, old, third)
    state.create({"name": "chat", "config": config, "tags": tags, **BESIDES})
    base = settings(Mode.AUTO)
    mine = base.endpoint("chat").model_copy(update={"write_only": {"burst_scaling_enabled": True}})
    config_of = base.model_copy(update={"endpoints": {"chat": EndpointSettings(**mine.model_dump())}})
    house = House(tmp_path, connect(WorkspaceSettings(host=running.url, token_env="LOCAL_TOKEN")), config_of)
    house.controller.observe_endpoints()
    kept = () if path == "slow" else (old,)
    shares = {names["3"]: 90, names["1"]: 10} | {e["name"]: 0 for e in kept}
    state.update("chat", put(running, shares, new, third, *kept))
    api = httpx.Client(base_url=running.url, headers={"authorization": f"Bearer {running.token}"})
    while (before := api.get("/api/2.0/serving-endpoints/chat").json())["state"]["config_update"] == "IN_PROGRESS":
        time.sleep(0.02)
    house.controller.handle(verdict(at=house.clock.now))
    while not house.rollback().state.ended:
        time.sleep(0.02)
        house.tick(every_s=1)
    assert house.rollback().plan.path == path
    after = api.get("/api/2.0/serving-endpoints/chat").json()
    assert {k: v for k, v in after.items() if k not in CHANGED} == {k: v for k, v in before.items() if k not in CHANGED}
    assert {key: after[key] for key in BESIDES} == BESIDES
    assert after["config"]["auto_capture_config"] == CAPTURE
    routes = {r["served_entity_name"]: r["traffic_percentage"] for r in after["config"]["traffic_config"]["routes"]}
    assert routes == {names["2"]: 90, names["3"]: 0, names["1"]: 10}
    stored, _ = state.serving("chat")
    assert {e["entity_version"]: e for e in stored} == {"1": third, "2": old, "3": new}, (
        "bit for bit, what is hidden too"
    )
    house.close()
    api.close()
