"""Every kind of served entity is a version: a payload row, a span's name for it, a plan and a rollback, and nowhere a None."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from alerts_support import House, settings
from waiting import HANG_S

from lastgood import tables
from lastgood.alerts.rollback.machine import Status
from lastgood.settings import Mode, WorkspaceSettings
from lastgood.workspace import deployments, local
from lastgood.workspace.databricks import connect, parse
from lastgood.workspace.identity import model_of, version_of

CHAT_MODEL = local.MODELS[local.CHAT]


def external(name: str, model: str, provider: str = "openai", **config: Any) -> dict[str, Any]:
    keys = {f"{provider}_api_key": "{{secrets/llm/key}}"} | config
    return {
        "name": name,
        "external_model": {"provider": provider, "name": model, "task": "llm/v1/chat", f"{provider}_config": keys},
    }


def registered(version: str, **more: Any) -> dict[str, Any]:
    return local.entity(CHAT_MODEL, version, **more)


def units(version: str) -> dict[str, Any]:
    return {
        "name": f"llama-{version}", "entity_name": "system.ai.llama_v3", "entity_version": version, "provisioned_model_units": 50,
        "scale_to_zero_enabled": False,
    }  # fmt: skip


def features(name: str) -> dict[str, Any]:
    return {"name": name, "entity_name": f"main.default.{name}_feature_spec", "scale_to_zero_enabled": True}


def old(version: str) -> dict[str, Any]:
    return {
        "name": f"chat-{version}",
        "model_name": CHAT_MODEL,
        "model_version": version,
        "scale_to_zero_enabled": False,
    }


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "custom model": (registered("1"), registered("2")),
    "agent": (registered("1", environment_vars={"ENABLE_MLFLOW_TRACING": "true"}), registered("2")),
    "external model": (external("old", "gpt-4o"), external("new", "gpt-5")),
    "external model of another provider": (external("old", "gpt-5"), external("new", "claude", "anthropic")),
    "model units": (units("1"), units("2")),
    "feature spec": (features("old"), features("new")),
    "served models": (old("1"), old("2")),
}


@pytest.fixture
def space(tmp_path: Path) -> Iterator[local.Running]:
    config = local.LocalConfig(
        str(tmp_path / "payload"), update_s=0.1, latency_scale=0.01, payload_batch_s=60, duplicate_share=0
    )
    with local.serve(config) as running:
        yield running


def create(space: local.Running, kind: str, shares: tuple[int, int] = (10, 90)) -> None:
    prior, new = KINDS[kind]
    key = "served_models" if kind == "served models" else "served_entities"
    names = [prior["name"], new["name"]]
    routes = [
        {"served_entity_name": name, "traffic_percentage": share} for name, share in zip(names, shares, strict=True)
    ]
    body = {"name": "chat", "config": {key: [prior, new], "traffic_config": {"routes": routes}}}
    call(space, "POST", "/api/2.0/serving-endpoints", body)


def call(space: local.Running, method: str, path: str, body: Any = None) -> Any:
    headers = {"authorization": f"Bearer {space.token}"}
    answer = httpx.request(method, space.url + path, json=body, headers=headers, timeout=HANG_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_version_of_every_kind_is_rolled_back_and_named_alike_everywhere(
    kind: str, space: local.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL", space.token)
    create(space, kind)
    workspace = connect(WorkspaceSettings(host=space.url, token_env="LOCAL"))
    prior, new = (version_of(document) for document in KINDS[kind])
    endpoint = workspace.endpoint("chat")
    assert {e.entity_version: endpoint.share(e.entity_version) for e in endpoint.entities} == {prior: 10, new: 90}

    answer = call(space, "POST", "/serving-endpoints/chat/invocations", {"prompt": "hello"})
    assert answer["model_version"] in (prior, new)
    assert space.flush()["rows"] == 1

    store = tables.Store(str(tmp_path / "data"))
    deployments.record(store, [endpoint], datetime.now(UTC))
    assert {row["model_version"] for row in deployments.read(store)} == {prior, new}

    house = House(tmp_path, workspace, settings(Mode.AUTO))
    house.controller.observe_endpoints()
    house.verdict(candidate=new, prior=prior)
    plan = house.rollback().plan
    assert (plan.bad_version, plan.prior_version) == (new, prior)
    assert f"version {new} stays deployed at 0 %" in plan.diff()
    deadline = time.monotonic() + HANG_S
    while not house.rollback().state.ended and time.monotonic() < deadline:
        house.tick()
        time.sleep(0.05)
    assert house.rollback().state is Status.DONE
    assert workspace.endpoint("chat").share(prior) == 100
    with house.store.read() as tx:
        written = json.dumps([plan.as_dict(), tx.audit(), house.notifier.events], default=str)
    assert new in written
    assert "version None" not in written
    house.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_and_what_is_sent_is_the_same_version(kind: str) -> None:
    for document in KINDS[kind]:
        shown = parse(
            {"name": "chat", "config": {"served_entities": [document | {"state": {}, "creator": "x"}]}}
        ).entities[0]
        assert shown.entity_version == version_of(document) == version_of(shown.settings)
        assert shown.entity_name == model_of(document)


def test_another_key_or_size_is_the_same_version_and_another_model_is_not() -> None:
    base = external("chat", "gpt-5")
    assert version_of(base) == version_of(external("chat", "gpt-5", openai_api_key="{{secrets/llm/next}}"))
    others = [
        external("chat", "gpt-4o"),
        external("chat", "gpt-5", openai_deployment_name="eu"),
        external("other", "gpt-5"),
    ]
    assert len({version_of(document) for document in (base, *others)}) == 4


def test_an_entity_without_anything_still_has_a_name_and_takes_all() -> None:
    shown = parse({"name": "chat", "config": {"served_entities": [{"entity_name": "main.default.f_feature_spec"}]}})
    assert shown.traffic == {"f_feature_spec": 100}
    assert shown.entities[0].entity_version.startswith("f_feature_spec@")
    empty = parse({"name": "chat", "config": {}})
    assert (empty.entities, empty.traffic) == ((), {})
