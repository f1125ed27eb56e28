"""`lastgood serve` on real exports: its live judge raises the alarm in seconds, the scheduled job agrees, one incident comes of both."""

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from serve_support import Service
from waiting import until

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serve_fake
from lastgood.alerts.store import Store
from lastgood.jobs.conform import conform
from lastgood.jobs.windows import windows
from lastgood.judge import State
from lastgood.record.verdict import SCHEDULED
from lastgood.service import loop
from lastgood.settings import load
from lastgood.tables import delta
from lastgood.tables.runs import Context
from lastgood.workspace import local


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as one:
        yield one


class Client(threading.Thread):
    """Sends about 120 requests a second through the official exporter: version 2 alone for two seconds, then versions 2 and 3 by turns of a
    coin, of which version 3 fails four times in ten."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.sent, self.done = 0, threading.Event()
        self._provider = TracerProvider()
        exporter = OTLPSpanExporter(f"http://127.0.0.1:{port}", insecure=True)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=100))

    def run(self) -> None:
        tracer, r, began = self._provider.get_tracer("client"), random.Random(5), time.monotonic()
        while not self.done.wait(0.05):
            for _ in range(6):
                version = "3" if time.monotonic() - began > 2 and r.random() < 0.5 else "2"
                marks = {"lastgood.endpoint": "chat", "lastgood.request_id": f"r{self.sent}", "model_version": version}
                marks |= {"enduser.id": f"u{r.randrange(30)}", "gen_ai.operation.name": "chat"}
                failed = version == "3" and r.random() < 0.4
                with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=marks) as span:
                    if failed:
                        span.set_attribute("error.type", "HTTP_500")
                self.sent += 1
        self._provider.force_flush(20_000)
        self._provider.shutdown()


def started(path: Path, space: local.Running, pager: str) -> Service:
    """The service, with its settings beside its data."""
    document = {
        "storage": str(path.parent / "data"), "window_s": 1, "live_every_s": 1.0,
        "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
        "receiver": {"grpc_port": 0, "http_port": 0, "commit_interval_s": 0.3, "spool": str(path.parent / "spool")},
        "web": {"port": 0}, "pagerduty": {"url": pager}, "default": {"mode": "approve"},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    environment = {
        **os.environ, "LASTGOOD_LOCAL_TOKEN": space.token, "LASTGOOD_PAGERDUTY_KEY": "r0", "LASTGOOD_LINK_KEY": "k" * 32,
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return Service(path, environment)


def test_the_live_judge_pages_and_the_scheduled_judge_opens_no_second_incident(
    tmp_path: Path, spark: Any, stack: ExitStack
) -> None:
    space = stack.enter_context(local.serve(local.LocalConfig(update_s=0.5)))
    pager = stack.enter_context(serve_fake())
    entities = [local.entity(local.MODELS[local.CHAT], v) for v in "23"]

    def config(*shares: int) -> dict[str, Any]:
        pairs = zip(entities, shares, strict=True)
        routes = [{"served_entity_name": one["name"], "traffic_percentage": share} for one, share in pairs]
        return {"served_entities": entities, "traffic_config": {"routes": routes}}

    space.service.state.create({"name": "chat", "config": config(100, 0)})
    path = tmp_path / "lastgood.yaml"
    service = started(path, space, pager.url)
    stack.callback(service.end)
    settings = load(path)
    store = tables.Store(settings.storage)

    def shares() -> set[tuple[str, int]]:
        home = store.path(tables.DEPLOYMENTS)
        rows = delta.read(home).to_pylist() if delta.version(home) is not None else []
        return {(row["model_version"], row["traffic"]) for row in rows if row["endpoint"] == "chat"}

    until(lambda: shares() == {("2", 100), ("3", 0)}, "the first configuration in the ledger")
    space.service.state.update("chat", config(50, 50))
    client = Client(service.grpc)
    client.start()
    state = Store(settings.state)
    stack.callback(state.close)

    def incidents() -> list[Any]:
        with state.read() as tx:
            return tx.incidents("chat")

    until(lambda: any(one.verdict["state"] == State.ROLL_BACK for one in incidents()), "a rollback of the live judge's")
    client.done.set()
    client.join()
    until(
        lambda: any("roll back to version 2?" in one["payload"]["summary"] for one in pager.events()),
        "a page that asks",
    )
    assert "version 3 fails" in pager.events()[-1]["payload"]["summary"]
    until(lambda: len(delta.read(store.path(tables.INBOX), ["request_id"])) >= client.sent, "all requests in Delta")
    store.ensure(spark)
    ctx = Context(spark, store, settings, lambda: datetime.now(UTC))
    conform(ctx)
    windows(ctx)
    scheduled = loop.judge(ctx)[0]
    assert (scheduled.state, scheduled.candidate, scheduled.prior) == (State.ROLL_BACK, "3", "2"), scheduled.vetoes
    assert scheduled.figures["new"]["requests"] + scheduled.figures["prior"]["requests"] <= client.sent

    def taken() -> bool:
        with state.read() as tx:
            return any(v.judge == SCHEDULED and v.judged_at >= scheduled.judged_at for v in tx.verdicts("chat"))

    until(taken, "the scheduled verdict at the controller")
    time.sleep(1.5)
    assert [one.candidate for one in incidents()] == ["3"]
    assert len({one["dedup_key"] for one in pager.events()}) == 1, "one incident at the pager too"
    assert shares() == {("2", 100), ("3", 0), ("2", 50), ("3", 50)}
