"""Two `lastgood serve` processes on one PostgreSQL see the same verdict: one rollback, one page; the kill switch reaches both."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import yaml
from alerts_support import verdict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serve_support import Service
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from waiting import HANG_S, until

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serve_fake, serving
from lastgood.alerts.store import Store
from lastgood.record.telemetry import arrow_schema
from lastgood.tables import delta
from lastgood.workspace import local


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


def write(storage: str, name: str) -> None:
    """A verdict, as the judge job writes it."""
    from dataclasses import replace

    said = replace(verdict(at=datetime.now(UTC)), endpoint=name)
    row: dict[str, Any] = {key: getattr(said, key) for key in ("endpoint", "candidate", "prior", "reason", "e_value")}
    row |= {
        "state": str(said.state),
        "since": said.since,
        "judged_at": said.judged_at,
        "document": json.dumps(said.as_json()),
    }
    schema = arrow_schema(tables.VERDICTS.fields)
    delta.append(tables.Store(storage).path(tables.VERDICTS), pa.Table.from_pylist([row], schema))


def create(space: local.Running, name: str) -> None:
    """An endpoint that serves version 3, with version 2 ready beside it."""
    entities = [local.entity(local.MODELS[local.CHAT], v) for v in "23"]
    routes = [
        {"served_entity_name": e["name"], "traffic_percentage": s} for e, s in zip(entities, (0, 100), strict=True)
    ]
    config = {"served_entities": entities, "traffic_config": {"routes": routes}}
    space.service.state.create({"name": name, "config": config})


def test_two_processes_one_rollback_and_a_kill_switch(tmp_path: Path, postgres_url: str, stack: ExitStack) -> None:
    space = stack.enter_context(local.serve(local.LocalConfig(update_s=0.5)))
    pager = stack.enter_context(serve_fake())
    policy = {"telemetry_timeout_s": 3, "cooldown_s": 0}
    document = {
        "storage": str(tmp_path / "data"), "state_url": postgres_url, "window_s": 1,
        "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
        "receiver": {"grpc_port": 0, "http_port": 0}, "web": {"port": 0}, "pagerduty": {"url": pager.url},
        "default": {"mode": "auto", "policy": policy},
    }  # fmt: skip
    config = tmp_path / "lastgood.yaml"
    config.write_text(yaml.safe_dump(document))
    environment = {
        **os.environ, "LASTGOOD_LOCAL_TOKEN": space.token, "LASTGOOD_PAGERDUTY_KEY": "r0",
        "LASTGOOD_LINK_KEY": "k" * 32, "LASTGOOD_PERSON_TOKEN": "t", "OMP_NUM_THREADS": "1", "LOGNAME": "ann",
    }  # fmt: skip
    for name in ("first", "second"):
        create(space, name)
    services = []
    for name in ("one", "two"):
        spool = {"LASTGOOD_RECEIVER__SPOOL": str(tmp_path / name)}
        services.append(Service(config, environment | spool))
        stack.callback(services[-1].end)
    write(document["storage"], "first")  # type: ignore[arg-type]
    until(lambda: len(pager.events()) == 2, "a page at the start, and one because no telemetry shows a recovery")
    said = [e["payload"]["summary"] for e in pager.events()]
    assert "rolling back to version 2 by itself" in said[0] and "no recovery within 3 s" in said[1]
    assert space.service.state.get("first")["config"]["config_version"] == 2
    assert space.service.chaos.calls["update"] == 1, "the workspace was asked once"
    subprocess.run(
        [sys.executable, "-m", "lastgood", "kill", "on", "--why", "migration", "--config", str(config)],
        env=environment, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert all(httpx.get(f"{s.url}/healthz").json()["kill_switch"] for s in services)
    write(document["storage"], "second")  # type: ignore[arg-type]
    until(lambda: len(pager.events()) == 3, "a page that asks")
    assert "kill switch is on (ann: migration)" in pager.events()[-1]["payload"]["summary"]
    assert space.service.chaos.calls["update"] == 1
    store = Store(postgres_url)
    with store.read() as tx:
        assert tx.verify() == []
    store.close()


@contextmanager
def traces() -> Iterator[tuple[str, list[str]]]:
    """An OTLP/HTTP receiver: its address, and the names of the spans it got."""
    names: list[str] = []

    async def take(request: Request) -> Response:
        export = ExportTraceServiceRequest.FromString(await request.body())
        names.extend(one.name for group in export.resource_spans for scope in group.scope_spans for one in scope.spans)
        return Response(b"", media_type="application/x-protobuf")

    with serving(Starlette(routes=[Route("/v1/traces", take, methods=["POST"])])) as url:
        yield url, names


def test_policies_are_taken_over_while_it_runs_and_a_wrong_file_keeps_the_old_ones(
    tmp_path: Path, stack: ExitStack
) -> None:
    space = stack.enter_context(local.serve(local.LocalConfig(update_s=0.5)))
    config = tmp_path / "lastgood.yaml"
    collector, spans = stack.enter_context(traces())

    def settings(mode: str) -> str:
        return yaml.safe_dump(
            {
                "storage": str(tmp_path / "data"), "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
                "receiver": {"grpc_port": 0, "http_port": 0, "spool": str(tmp_path / "spool")}, "web": {"port": 0},
                "default": {"mode": mode}, "traces_url": collector,
            }
        )  # fmt: skip

    create(space, "first")
    config.write_text(settings("observe"))
    environment = {**os.environ, "LASTGOOD_LOCAL_TOKEN": space.token, "DO_NOT_TRACK": "1"}
    service = Service(config, environment)
    stack.callback(service.process.kill)

    def refused() -> bool:
        return "lastgood_settings_refused 1.0" in httpx.get(f"{service.url}/metrics", timeout=HANG_S).text

    def rollbacks() -> list[Any]:
        return [
            one["rollback"]
            for one in httpx.get(f"{service.url}/api/incidents", timeout=HANG_S).json()
            if one["rollback"]
        ]

    config.write_text(settings("observe").replace("mode: observe", "mode: perhaps"))
    until(refused, "the wrong file is not said")
    write(str(tmp_path / "data"), "first")
    until(lambda: bool(httpx.get(f"{service.url}/api/incidents", timeout=HANG_S).json()), "no incident")
    assert rollbacks() == [], "the old policy observes"
    config.write_text(settings("approve"))
    until(lambda: not refused(), "the right file is not taken")
    write(str(tmp_path / "data"), "first")
    until(lambda: bool(rollbacks()), "the new policy does not propose")
    service.end()
    assert {"verdicts", "rollbacks", "settings", "metrics"} <= set(spans), "it traces itself"


def test_what_the_receiver_refused_shows_on_metrics_and_in_status(tmp_path: Path, stack: ExitStack) -> None:
    space = stack.enter_context(local.serve(local.LocalConfig()))
    config = tmp_path / "lastgood.yaml"
    document = {
        "storage": str(tmp_path / "data"), "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
        "receiver": {"grpc_port": 0, "http_port": 0, "spool": str(tmp_path / "spool")}, "web": {"port": 0},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(document))
    environment = {**os.environ, "LASTGOOD_LOCAL_TOKEN": space.token}
    service = Service(config, environment)
    stack.callback(service.process.kill)
    for body, kind in ((b"{", "application/json"), (b"{", "text/plain"), (b"{}", "application/json")):
        httpx.post(f"{service.http}/v1/traces", content=body, headers={"content-type": kind}, timeout=HANG_S)
    text = httpx.get(f"{service.url}/metrics", timeout=HANG_S).text
    assert 'lastgood_exports_refused_total{reason="invalid"} 1.0' in text
    assert 'lastgood_exports_refused_total{reason="share"} 0.0' in text
    command = [sys.executable, "-m", "lastgood", "status", "--json", "--config", str(config)]
    at = {"LASTGOOD_WEB__BASE_URL": service.url}
    done = subprocess.run(command, env=environment | at, capture_output=True, text=True, check=True, timeout=HANG_S)
    (shown,) = json.loads(done.stdout)["receiver"]
    assert shown == {"spans_accepted": 0, "spool_bytes": 0, "exports_refused": {"type": 1, "invalid": 1}}
    service.end()
