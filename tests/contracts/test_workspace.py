"""databricks-sdk through DatabricksWorkspace against the local workspace over HTTP."""

import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from alerts_support import EVERY_SETTING
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.service.serving import EndpointCoreConfigInput, ServedEntityInput, TrafficConfig

from lastgood.alerts.rollback.plan import make_plan
from lastgood.collectors.endpoint_metrics import row
from lastgood.errors import ConfigError, LastgoodError, RefusedError, TransientError
from lastgood.settings import WorkspaceSettings
from lastgood.workspace import Endpoint, SourceState, Update
from lastgood.workspace.databricks import DatabricksWorkspace, connect, parse
from lastgood.workspace.local import CHAT, MODELS, TABULAR, LocalConfig, Running, entity, serve

UPDATE_S = 0.2
V1, V2, V3 = (entity(MODELS[CHAT], version) for version in "123")
ONE, TWO, THREE = (one["name"] for one in (V1, V2, V3))


@pytest.fixture
def local() -> Iterator[Running]:
    with serve(LocalConfig(update_s=UPDATE_S, latency_scale=0.0)) as running:
        yield running


def client(local: Running, token: str | None = None) -> WorkspaceClient:
    return WorkspaceClient(
        config=Config(host=local.url, token=token or local.token, auth_type="pat", retry_timeout_seconds=2)
    )


@pytest.fixture
def workspace(local: Running) -> DatabricksWorkspace:
    return DatabricksWorkspace(client(local))


def settled(workspace: DatabricksWorkspace, name: str = CHAT) -> Endpoint:
    until = time.monotonic() + 10
    while (found := workspace.endpoint(name)).update is Update.IN_PROGRESS and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_endpoints_are_read_as_they_are(workspace: DatabricksWorkspace) -> None:
    assert workspace.names() == [CHAT, TABULAR]
    found = workspace.endpoint(CHAT)
    assert found.traffic == {TWO: 100, ONE: 0}
    assert (found.share("2"), found.share("1"), found.share("9")) == (100, 0, 0)
    assert [one.entity_version for one in found.entities] == ["2", "1"]
    assert all(one.ready for one in found.entities)
    assert (found.config_version, found.update, found.pending_traffic) == (1, Update.NOT_UPDATING, None)


def test_an_update_is_pending_then_done(workspace: DatabricksWorkspace) -> None:
    workspace.update_config(CHAT, [V3, V2], {THREE: 10, TWO: 90}, {})
    pending = workspace.endpoint(CHAT)
    assert (pending.update, pending.traffic) == (Update.IN_PROGRESS, {TWO: 100, ONE: 0})
    assert pending.pending_traffic == {THREE: 10, TWO: 90}
    assert not any(one.ready for one in pending.pending_entities)
    done = settled(workspace)
    assert (done.update, done.traffic, done.config_version) == (Update.NOT_UPDATING, {THREE: 10, TWO: 90}, 2)
    assert done.pending_traffic is None


def test_an_update_that_never_gets_ready_fails_and_the_old_config_serves(
    local: Running, workspace: DatabricksWorkspace
) -> None:
    put = httpx.put(f"{local.url}/local/faults/{CHAT}/3", json={"never_ready": True}, headers=bearer(local))
    assert put.status_code == 200
    workspace.update_config(CHAT, [V3, V2], {THREE: 100, TWO: 0}, {})
    failed = settled(workspace)
    assert (failed.update, failed.ready, failed.traffic, failed.config_version) == (
        Update.FAILED,
        True,
        {TWO: 100, ONE: 0},
        1,
    )
    workspace.update_config(CHAT, [V2, V1], {TWO: 0, ONE: 100}, {})
    assert settled(workspace).traffic == {TWO: 0, ONE: 100}


def test_an_update_by_someone_else_refuses_ours(local: Running, workspace: DatabricksWorkspace) -> None:
    client(local).serving_endpoints.update_config(
        CHAT, served_entities=[ServedEntityInput.from_dict(V3)],
        traffic_config=TrafficConfig.from_dict({"routes": [{"served_entity_name": THREE, "traffic_percentage": 100}]}),
    )  # fmt: skip
    with pytest.raises(RefusedError, match="someone else"):
        workspace.update_config(CHAT, [V2, V1], {TWO: 0, ONE: 100}, {})
    assert settled(workspace).traffic == {THREE: 100}


def test_our_own_update_whose_answer_was_lost_is_a_success(workspace: DatabricksWorkspace) -> None:
    for _ in range(2):
        workspace.update_config(CHAT, [V2, V1], {TWO: 0, ONE: 100}, {})
    assert settled(workspace).config_version == 2


BAD = {
    "traffic that does not sum to 100": ([V1, V2], {ONE: 50, TWO: 49}, "sum to 100"),
    "a share below 0": ([V1, V2], {ONE: -1, TWO: 101}, "sum to 100"),
    "a route to nothing": ([V1], {ONE: 50, "ghost": 50}, "not served"),
    "sixteen entities": ([entity(MODELS[CHAT], str(i)) for i in range(16)], {f"support_chat-{i}": 10 for i in range(10)}, "1 to 15"),
    "no entity": ([], {}, "1 to 15"),
    "the same name twice": ([V1, V1], {ONE: 100}, "names repeat"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_an_update_that_cannot_be_is_refused_in_words_and_changes_nothing(
    workspace: DatabricksWorkspace, case: str
) -> None:
    entities, traffic, said = BAD[case]
    with pytest.raises(ConfigError, match=said):
        workspace.update_config(CHAT, entities, traffic, {})
    found = workspace.endpoint(CHAT)
    assert (found.update, found.config_version) == (Update.NOT_UPDATING, 1)


def bearer(local: Running) -> dict[str, str]:
    return {"authorization": f"Bearer {local.token}"}


CALLS: dict[str, Callable[[DatabricksWorkspace], Any]] = {
    "read": lambda one: one.endpoint("ghost"),
    "update": lambda one: one.update_config("ghost", [V1], {ONE: 100}, {}),
}


@pytest.mark.parametrize("call", CALLS)
def test_no_such_endpoint_is_for_a_person_to_fix(workspace: DatabricksWorkspace, call: str) -> None:
    with pytest.raises(ConfigError, match="ghost: there is no such endpoint"):
        CALLS[call](workspace)


def test_a_wrong_token_is_for_a_person_to_fix(local: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="renew it"):
        DatabricksWorkspace(client(local, "wrong")).endpoint(CHAT)
    assert httpx.get(f"{local.url}/api/2.0/serving-endpoints").status_code == 401
    monkeypatch.setenv("LOCAL_TOKEN", local.token)
    assert connect(WorkspaceSettings(host=local.url, token_env="LOCAL_TOKEN")).endpoint(CHAT).name == CHAT


def test_a_workspace_that_is_not_there_is_worth_another_try() -> None:
    nobody = DatabricksWorkspace(
        WorkspaceClient(config=Config(host="http://127.0.0.1:9", token="t", auth_type="pat", retry_timeout_seconds=1))
    )
    with pytest.raises(TransientError):
        nobody.endpoint(CHAT)


def test_create_delete_tags_and_permissions_by_the_sdk(local: Running, workspace: DatabricksWorkspace) -> None:
    api = client(local)
    api.serving_endpoints.create("fresh", config=EndpointCoreConfigInput.from_dict({"served_entities": [V1]}))
    assert workspace.endpoint("fresh").traffic == {ONE: 100}
    with pytest.raises(LastgoodError):
        workspace.endpoint("stale")
    from databricks.sdk.service.serving import (
        EndpointTag,
        ServingEndpointAccessControlRequest,
        ServingEndpointPermissionLevel,
    )

    api.serving_endpoints.patch("fresh", add_tags=[EndpointTag("team", "search"), EndpointTag("old", "x")])
    api.serving_endpoints.patch("fresh", delete_tags=["old"])
    assert workspace.endpoint("fresh").tags == {"team": "search"}
    made = api.serving_endpoints.get("fresh").id
    level = ServingEndpointPermissionLevel.CAN_MANAGE
    api.serving_endpoints.set_permissions(
        made,
        access_control_list=[ServingEndpointAccessControlRequest(user_name="a@example.com", permission_level=level)],
    )
    granted = api.serving_endpoints.get_permissions(made).access_control_list[0]
    assert (granted.user_name, granted.all_permissions[0].permission_level) == ("a@example.com", level)
    api.serving_endpoints.delete("fresh")
    with pytest.raises(ConfigError, match="no such endpoint"):
        workspace.endpoint("fresh")


def test_versions_and_aliases_by_the_sdk(local: Running) -> None:
    api = client(local)
    assert [one.version for one in api.model_versions.list(MODELS[CHAT])] == [1, 2, 3]
    assert str(api.model_versions.get(MODELS[CHAT], 2).status.value) == "READY"
    api.registered_models.set_alias(MODELS[CHAT], "champion", 2)
    assert api.model_versions.get_by_alias(MODELS[CHAT], "champion").version == 2
    from databricks.sdk.errors import NotFound

    with pytest.raises(NotFound):
        api.model_versions.get_by_alias(MODELS[CHAT], "nobody")
    with pytest.raises(NotFound):
        api.model_versions.get(MODELS[CHAT], 4)


WRITE_ONLY = "burst_scaling_enabled"
EVERY: dict[str, Any] = {"entity_name": MODELS[CHAT], "entity_version": "2", "name": TWO, **EVERY_SETTING}


def test_every_setting_of_an_entity_survives_get_and_update_bit_for_bit(
    local: Running, workspace: DatabricksWorkspace
) -> None:
    missing = {one.name for one in fields(ServedEntityInput)} - EVERY.keys()
    assert not missing, f"databricks-sdk knows new entity settings: {missing}"
    capture = {"catalog_name": "main", "schema_name": "logs", "table_name_prefix": "chat", "enabled": True}
    workspace.update_config(CHAT, [EVERY, V1], {TWO: 100, ONE: 0}, {"auto_capture_config": capture})
    first = settled(workspace)
    shown = {name: value for name, value in EVERY.items() if name != WRITE_ONLY}
    assert dict(first.entities[0].settings) == shown, "the workspace does not report burst scaling"
    assert first.passthrough == {"auto_capture_config": capture}
    workspace.update_config(CHAT, [one.settings for one in first.entities], {TWO: 40, ONE: 60}, first.passthrough)
    again = settled(workspace)
    assert again.config_version == first.config_version + 1
    assert (again.traffic, again.passthrough) == ({TWO: 40, ONE: 60}, first.passthrough)
    assert [one.settings for one in again.entities] == [one.settings for one in first.entities]
    stored, _ = local.service.state.serving(CHAT)
    assert stored[0] == shown


def test_fields_that_the_pinned_sdk_does_not_know_survive_get_and_update(
    local: Running, workspace: DatabricksWorkspace
) -> None:
    """At every level of the configuration: what a later platform adds is sent back as it was read."""
    newer = {"new_setting_of_2027": {"level": 3}}
    route = {"served_entity_name": TWO, "traffic_percentage": 100, "weight_2027": 7}
    config = {
        "served_entities": [V2 | newer, V1],
        "traffic_config": {
            "routes": [route, {"served_entity_name": ONE, "traffic_percentage": 0}],
            "sticky_2027": "user",
        },
        "retention_2027": {"days": 9},
    }
    httpx.put(
        f"{local.url}/api/2.0/serving-endpoints/{CHAT}/config",
        json=config,
        headers={"Authorization": f"Bearer {local.token}"},
    ).raise_for_status()
    endpoint = settled(workspace)
    plan = make_plan(endpoint, "2", "1", refused=(), snapshot=None, reasons=("test",), now=datetime.now(UTC))
    workspace.update_config(CHAT, plan.entities, plan.traffic_after, plan.passthrough)
    after = settled(workspace)
    assert after.traffic == {TWO: 0, ONE: 100}
    stored = httpx.get(
        f"{local.url}/api/2.0/serving-endpoints/{CHAT}", headers={"Authorization": f"Bearer {local.token}"}
    ).json()["config"]
    assert stored["served_entities"][0]["new_setting_of_2027"] == {"level": 3}
    assert stored["retention_2027"] == {"days": 9}
    assert stored["traffic_config"]["sticky_2027"] == "user"
    assert stored["traffic_config"]["routes"][0] == route | {"traffic_percentage": 0}


def test_an_endpoint_with_one_entity_and_no_routes_takes_all_and_an_external_model_is_a_version() -> None:
    document = {"name": "e", "config": {"served_entities": [{"name": "gpt", "external_model": {"name": "gpt-4"}}]}}
    endpoint = parse(document | {"state": {"config_update": "A_STATE_OF_2027"}})
    version = endpoint.entities[0].entity_version
    assert endpoint.traffic == {"gpt": 100} and version.startswith("gpt@")
    assert parse(document).entities[0].entity_version == version, "the same model is the same version"
    assert endpoint.update is Update.IN_PROGRESS, "nothing is changed in a state that is not known"


def test_the_endpoints_own_metrics_count_the_last_minute(local: Running, workspace: DatabricksWorkspace) -> None:
    for body in ({"prompt": "a"}, {"prompt": "b"}, {"prompt": 7}):
        workspace.invoke(CHAT, body)
    now = datetime.now(UTC)
    found = row(CHAT, workspace.metrics(CHAT), now)
    assert found is not None
    assert (found["requests"], found["errors_4xx"], found["errors_5xx"]) == (3.0, 1.0, 0.0)
    with pytest.raises(ConfigError, match="no such"):
        workspace.metrics("nothing")


SOURCES: dict[str, tuple[dict[str, Any], SourceState]] = {
    "synced_table": (
        {
            "name": "m.s.t",
            "data_synchronization_status": {
                "detailed_state": "SYNCED_TABLE_ONLINE",
                "last_sync": {
                    "delta_table_sync_info": {
                        "delta_commit_timestamp": "2026-03-01T12:00:00Z",
                        "delta_commit_version": 3,
                    },
                    "sync_end_timestamp": "2026-03-01T12:05:00Z",
                },
            },
        },
        SourceState("SYNCED_TABLE_ONLINE", datetime(2026, 3, 1, 12, tzinfo=UTC)),
    ),
    "online_table": (
        {
            "name": "m.s.t",
            "status": {
                "detailed_state": "ONLINE_NO_PENDING_UPDATE",
                "triggered_update_status": {"timestamp": "2026-03-01T12:00:00Z"},
            },
        },
        SourceState("ONLINE_NO_PENDING_UPDATE", datetime(2026, 3, 1, 12, tzinfo=UTC)),
    ),
    "vector_index": (
        {"name": "m.s.t", "status": {"ready": True, "indexed_row_count": 12}},
        SourceState("READY", None, 12),
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_sources_of_features_say_how_old_they_are(local: Running, workspace: DatabricksWorkspace, kind: str) -> None:
    document, expected = SOURCES[kind]
    with pytest.raises(ConfigError, match=r"m\.s\.t"):
        workspace.source(kind, "m.s.t")
    httpx.put(f"{local.url}/local/sources/{kind}/m.s.t", json=document, headers=bearer(local)).raise_for_status()
    assert workspace.source(kind, "m.s.t") == expected
    httpx.put(f"{local.url}/local/sources/{kind}/m.s.t", json={"name": "m.s.t"}, headers=bearer(local))
    assert workspace.source(kind, "m.s.t") == SourceState("UNKNOWN")
