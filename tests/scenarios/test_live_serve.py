"""`lastgood serve` on real exports: its live judge raises the alarm in seconds, the scheduled job agrees, one incident comes of both."""

import html
import json
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pyarrow.parquet as pq
import pytest
import requests
import yaml
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode
from serve_support import Service
from waiting import HANG_S, until

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

    def __init__(self, port: int, text: str | None = None) -> None:
        """`text` is in every place of a span where people's words can be."""
        super().__init__(daemon=True)
        self.sent, self.done, self.text = 0, threading.Event(), text
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
                    if self.text:
                        self._tell(span, self.text, failed)
                self.sent += 1
        self._provider.force_flush(20_000)
        self._provider.shutdown()

    def _tell(self, span: Span, text: str, failed: bool) -> None:
        span.set_attributes(dict.fromkeys(WORDY, text))
        span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": text})
        span.add_event(text, {"anything": text})
        if failed:
            span.record_exception(ValueError(text))
            span.set_status(StatusCode.ERROR, text)


WORDY = (
    "gen_ai.prompt", "gen_ai.completion", "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions", "input.value",
    "output.value", "llm.input_messages.0.message.content", "ai.prompt", "ai.response.text", "mlflow.spanInputs", "traceloop.entity.input",
    "gen_ai.tool.call.arguments", "exception.message", "url.query", "session.id", "tag.tags", "metadata", "anything.else",
)  # fmt: skip


def started(path: Path, space: local.Running, pager: str, capture: str = "full") -> Service:
    """The service, with its settings beside its data."""
    document = {
        "storage": str(path.parent / "data"), "window_s": 1, "live_every_s": 1.0,
        "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
        "receiver": {"grpc_port": 0, "http_port": 0, "commit_interval_s": 0.3, "spool": str(path.parent / "spool")},
        "web": {"port": 0}, "pagerduty": {"url": pager}, "default": {"mode": "approve", "capture": capture},
    }  # fmt: skip
    path.write_text(yaml.safe_dump(document))
    environment = {
        **os.environ, "LASTGOOD_LOCAL_TOKEN": space.token, "LASTGOOD_PAGERDUTY_KEY": "r0", "LASTGOOD_LINK_KEY": "k" * 32,
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    return Service(path, environment)


def config_of(*shares: int) -> dict[str, Any]:
    """Versions 2 and 3 of the endpoint `chat` with these shares of its traffic."""
    entities = [local.entity(local.MODELS[local.CHAT], version) for version in "23"]
    pairs = zip(entities, shares, strict=True)
    routes = [{"served_entity_name": entity["name"], "traffic_percentage": share} for entity, share in pairs]
    return {"served_entities": entities, "traffic_config": {"routes": routes}}


def shares(store: tables.Store) -> set[tuple[str, int]]:
    """(version, share) of every configuration in the ledger."""
    home = store.path(tables.DEPLOYMENTS)
    rows = delta.read(home).to_pylist() if delta.version(home) is not None else []
    return {(row["model_version"], row["traffic"]) for row in rows if row["endpoint"] == "chat"}


def written(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file as it is, and what Parquet has compressed."""
    for file in folder.rglob("*"):
        if file.is_file():
            yield str(file), file.read_bytes()
            if file.suffix == ".parquet" and not file.name.endswith(".checkpoint.parquet"):
                yield f"rows of {file}", str(pq.read_table(file).to_pylist()).encode()


QUERIES = 5
"""Addresses of a path that are looked at."""


def pages(url: str, first: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Every page that a link leads to, each with a few of its queries: ranges of time lead on to others for ever."""
    left, seen, queries = [*first, "/", "/metrics"], set[str](), Counter[str]()
    while left:
        address = html.unescape(urljoin(url, left.pop(0)))
        path = address.partition("?")[0]
        if address in seen or not address.startswith(url) or queries[path] >= QUERIES:
            continue
        seen.add(address)
        queries[path] += 1
        answer = requests.get(address, timeout=HANG_S)
        yield address, answer.content
        left += re.findall(r'href="([^"#]+)', answer.text) if "html" in answer.headers["content-type"] else []


@pytest.mark.parametrize(("capture", "hidden"), [("none", b"canary"), ("features", b"canary"), ("redacted", b"ann@")])
def test_no_file_page_metric_or_message_has_what_is_not_kept(
    tmp_path: Path, stack: ExitStack, capture: str, hidden: bytes
) -> None:
    """A canary in every place of every span, and in feedback: not one byte of it comes out anywhere."""
    text = "mail ann@example.com about the canary of tweet street"
    space = stack.enter_context(local.serve(local.LocalConfig(update_s=0.5)))
    pager = stack.enter_context(serve_fake())
    space.service.state.create({"name": "chat", "config": config_of(100, 0)})
    path = tmp_path / "lastgood.yaml"
    service = started(path, space, pager.url, capture)
    stack.callback(service.end)
    settings = load(path)
    store = tables.Store(settings.storage)
    until(lambda: shares(store) == {("2", 100), ("3", 0)}, "the first configuration in the ledger")
    space.service.state.update("chat", config_of(50, 50))
    client = Client(service.grpc, text)
    client.start()
    until(lambda: bool(pager.events()), "a page")
    told = {
        "request_id": "r1",
        "endpoint": "chat",
        "name": "thumbs",
        "value": 1,
        "explanation": text,
        "label": text,
    }
    assert requests.post(service.http + "/v1/feedback", json=told, timeout=HANG_S).ok
    client.done.set()
    client.join()
    until(lambda: len(delta.read(store.path(tables.INBOX), ["request_id"])) >= client.sent, "all requests in Delta")
    events = pager.events()
    links = [link["href"] for event in events for link in event.get("links", [])]
    places = [("the pager", json.dumps(events).encode())]
    places += [*written(tmp_path), *pages(service.url, links)]
    assert [name for name, content in places if hidden in content] == []
    assert len([name for name, _ in places if name.startswith(service.url)]) > 3, "pages were looked at"


def test_the_live_judge_pages_and_the_scheduled_judge_opens_no_second_incident(
    tmp_path: Path, spark: Any, stack: ExitStack
) -> None:
    space = stack.enter_context(local.serve(local.LocalConfig(update_s=0.5)))
    pager = stack.enter_context(serve_fake())
    space.service.state.create({"name": "chat", "config": config_of(100, 0)})
    path = tmp_path / "lastgood.yaml"
    service = started(path, space, pager.url)
    stack.callback(service.end)
    settings = load(path)
    store = tables.Store(settings.storage)
    until(lambda: shares(store) == {("2", 100), ("3", 0)}, "the first configuration in the ledger")
    space.service.state.update("chat", config_of(50, 50))
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
    assert shares(store) == {("2", 100), ("3", 0), ("2", 50), ("3", 50)}
