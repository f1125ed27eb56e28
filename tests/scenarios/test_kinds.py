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
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from otlp_support import pairs
from waiting import HANG_S

from lastgood import tables
from lastgood.alerts.rollback.leave import choose_leaving
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.rollback.prior import Known, choose
from lastgood.collectors.otlp.columns import TraceDecoder
from lastgood.errors import ConfigError, RefusedError
from lastgood.judge.ledger import Configuration, ledger, stints
from lastgood.service.live import Live
from lastgood.settings import Mode, WorkspaceSettings, load
from lastgood.workspace import deployments, local
from lastgood.workspace.databricks import connect, parse, update_body
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
    "route-optimised": (registered("1", scale_to_zero_enabled=True), registered("2")),
    "gateway with fallbacks": (external("old", "gpt-4o"), external("new", "gpt-5")),
}
ENDPOINT: dict[str, dict[str, Any]] = {
    "route-optimised": {"route_optimized": True},
    "gateway with fallbacks": {"ai_gateway": {"fallback_config": {"enabled": True}}},
}
"""What an endpoint of a kind has besides its configuration."""
SHARES = {"route-optimised": (0, 100)}
"""Of prior and new, where they are not 10 and 90: a prior version without traffic may have scaled to zero, and is woken first."""


@pytest.fixture
def space(tmp_path: Path) -> Iterator[local.Running]:
    config = local.LocalConfig(
        str(tmp_path / "payload"), update_s=0.1, latency_scale=0.01, payload_batch_s=60, duplicate_share=0
    )
    with local.serve(config) as running:
        yield running


def create(space: local.Running, kind: str) -> None:
    (prior, new), shares = KINDS[kind], SHARES.get(kind, (10, 90))
    key = "served_models" if kind == "served models" else "served_entities"
    names = [prior["name"], new["name"]]
    routes = [
        {"served_entity_name": name, "traffic_percentage": share} for name, share in zip(names, shares, strict=True)
    ]
    config = {key: [prior, new], "traffic_config": {"routes": routes}}
    body = {"name": "chat", "config": config, **ENDPOINT.get(kind, {})}
    call(space, "POST", "/api/2.0/serving-endpoints", body)


def call(space: local.Running, method: str, path: str, body: Any = None) -> Any:
    headers = {"authorization": f"Bearer {space.token}"}
    answer = httpx.request(method, space.url + path, json=body, headers=headers, timeout=HANG_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def of_spans(store: tables.Store, entities: list[str]) -> list[str | None]:
    """The versions of requests whose spans name the served entity only, by the ledger of configurations."""
    now = time.time_ns()
    spans = [
        Span(
            trace_id=bytes([i + 1]) * 16, span_id=bytes([i + 1]) * 8, kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=now, end_time_unix_nano=now + 10**8,
            attributes=pairs({"lastgood.endpoint": "chat", "databricks.served_entity.name": name}),
        )
        for i, name in enumerate(entities)
    ]  # fmt: skip
    export = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
    live, rows = Live(load(), lambda: datetime.now(UTC)), deployments.read(store)
    live.learn(ledger(rows), stints(rows))
    table = TraceDecoder().decode([(export.SerializeToString(), datetime.now(UTC))]).table
    assert table["served_entity"].to_pylist() == entities
    live.take(table)
    return sorted(
        live._endpoints["chat"].rows["model_version"].to_pylist(), key=[r["model_version"] for r in rows].index
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_version_of_every_kind_is_rolled_back_and_named_alike_everywhere(
    kind: str, space: local.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL", space.token)
    create(space, kind)
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", "app")
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", space.token)
    workspace = connect(WorkspaceSettings(host=space.url))
    prior, new = (version_of(document) for document in KINDS[kind])
    shares = dict(zip((prior, new), SHARES.get(kind, (10, 90)), strict=True))
    endpoint = workspace.endpoint("chat")
    assert {e.entity_version: endpoint.share(e.entity_version) for e in endpoint.entities} == shares

    answer = workspace.invoke("chat", {"prompt": "hello"})
    assert answer.status == 200, answer
    assert answer.body["model_version"] in (prior, new)
    assert space.flush()["rows"] == 1

    store = tables.Store(str(tmp_path / "data"))
    deployments.record(store, [endpoint], datetime.now(UTC))
    assert {row["model_version"] for row in deployments.read(store)} == {prior, new}
    assert of_spans(store, [entity.name for entity in endpoint.entities]) == [prior, new]

    house = House(tmp_path, workspace, settings(Mode.AUTO))
    house.controller.observe_endpoints()
    house.verdict(candidate=new, prior=prior)
    plan = house.rollback().plan
    assert (plan.bad_version, plan.prior_version) == (new, prior)
    assert f"version {new} stays deployed at 0%" in plan.diff()
    assert any("falls back" in reason for reason in plan.reasons) == (kind == "gateway with fallbacks")
    deadline = time.monotonic() + HANG_S
    while not house.rollback().state.ended and time.monotonic() < deadline:
        house.tick()
        time.sleep(0.05)
    assert house.rollback().state is Status.DONE, house.rollback()
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


def test_the_version_to_leave_is_clear_for_every_kind_without_from() -> None:
    """By the ledger: nothing else orders versions that no registry has."""
    for prior, new in KINDS.values():
        entities = [{**document, "state": {}} for document in (prior, new)]
        shown = parse({"name": "chat", "config": {"served_entities": entities, "traffic_config": {"routes": [
            {"served_entity_name": document["name"], "traffic_percentage": share} for document, share in ((prior, 90), (new, 10))
        ]}}})  # fmt: skip
        then, now = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 2, tzinfo=UTC)
        seen = [
            Configuration(then, {version_of(prior): 100.0}),
            Configuration(now, {version_of(prior): 90.0, version_of(new): 10.0}),
        ]
        assert choose_leaving(shown, seen, {}, (), now).version == version_of(new)


def hosted(model: str, **more: Any) -> dict[str, Any]:
    """As the platform shows an endpoint of its own that is paid by token (databricks-sdk, ServedEntityOutput)."""
    return {"foundation_model": {"name": model, "display_name": "A model", "docs": "https://example.com"}, **more}


def test_a_model_paid_by_token_is_the_version_that_serves_and_nobody_moves_its_traffic(
    space: local.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint is the platform's: there is a row, a version and a page, and a rollback that says why there is none."""
    monkeypatch.setenv("LOCAL", space.token)
    config = {"served_entities": [hosted("system.ai.claude-5", name="databricks-claude")]}
    call(space, "POST", "/api/2.0/serving-endpoints", {"name": "chat", "config": config})
    workspace = connect(WorkspaceSettings(host=space.url, token_env="LOCAL"))
    endpoint = workspace.endpoint("chat")
    (served,) = endpoint.entities
    assert endpoint.traffic == {"databricks-claude": 100}
    assert served.entity_version == version_of(config["served_entities"][0])
    assert workspace.invoke("chat", {"prompt": "hello"}).body["model_version"] == served.entity_version
    assert space.flush()["rows"] == 1
    store = tables.Store(str(tmp_path / "data"))
    deployments.record(store, [endpoint], datetime.now(UTC))
    assert [row["model_version"] for row in deployments.read(store)] == [served.entity_version]

    house = House(tmp_path, workspace, settings(Mode.AUTO))
    house.controller.observe_endpoints()
    house.verdict(candidate=served.entity_version, prior=None)
    house.tick()
    assert house.notifier.events, "somebody is paged"
    assert "None" not in json.dumps(house.notifier.events, default=str).replace("null", "")
    assert choose_leaving(endpoint, [], {}, (), datetime.now(UTC)).version == served.entity_version
    with pytest.raises(RefusedError, match="no prior version"):
        choose(endpoint, served.entity_version, Known())
    with pytest.raises(ConfigError, match="the platform's own"):
        workspace.update_config("chat", [dict(served.settings)], dict(endpoint.traffic), {})
    house.close()


def test_another_hosted_model_under_the_same_name_is_another_version_and_other_words_about_it_are_not() -> None:
    one, other = hosted("system.ai.claude-4", name="chat"), hosted("system.ai.claude-5", name="chat")
    assert version_of(one) != version_of(other)
    assert version_of(one) == version_of(one | {"foundation_model": one["foundation_model"] | {"docs": "moved"}})
    shown = parse({"name": "chat", "config": {"served_entities": [hosted("system.ai.a"), hosted("system.ai.b")]}})
    assert [entity.name for entity in shown.entities] == ["a", "b"]
    assert len({entity.entity_version for entity in shown.entities}) == 2
    body = update_body([shown.entities[0].settings], {"a": 100}, {})
    assert "foundation_model" not in body["served_entities"][0], "it is shown and never taken"


def test_an_external_model_without_a_name_has_the_platforms() -> None:
    """databricks-sdk: external_model.name, with '.' and ':' replaced with '-'. The route names it so."""
    document = external("x", "gpt-4.1:mini")
    del document["name"]
    routes = [{"served_entity_name": "gpt-4-1-mini", "traffic_percentage": 100}]
    shown = parse({"name": "chat", "config": {"served_entities": [document], "traffic_config": {"routes": routes}}})
    assert shown.share(shown.entities[0].entity_version) == 100


def test_a_route_optimised_endpoint_is_asked_at_its_own_address_and_a_personal_token_is_no_use(
    space: local.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL", space.token)
    create(space, "route-optimised")
    workspace = connect(WorkspaceSettings(host=space.url, token_env="LOCAL"))
    with pytest.raises(ConfigError, match="OAuth tokens only"):
        workspace.invoke("chat", {"prompt": "hello"})
    assert workspace.invoke("chat", {"prompt": "hello"}, token="").status == 401
