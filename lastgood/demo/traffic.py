"""Demo traffic: an application that calls the endpoint by the prompt contract and reports spans with opentelemetry-sdk."""

import asyncio
import csv
import itertools
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode

from lastgood.errors import ConfigError
from lastgood.workspace.local.models import CHAT, Prompts

SYSTEM = "Answer from Python's reference."


def arrivals(trace: Path, seconds: float, per_s: float) -> list[tuple[float, int]]:
    """(second, context words) of a trace's requests, its whole span compressed to `seconds`, thinned to `per_s`.

    Errors: ConfigError when the file is not a CSV with TIMESTAMP, ContextTokens, GeneratedTokens.
    """
    try:
        with trace.open(newline="") as file:
            rows = [
                (
                    datetime.fromisoformat(row["TIMESTAMP"][:26]),
                    int(row["ContextTokens"]),
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{trace}: expected a CSV with TIMESTAMP, ContextTokens, GeneratedTokens ({error})"
        ) from error
    if len(rows) < 2:
        raise ConfigError(f"{trace}: expected at least two requests, found {len(rows)}")
    first, whole = rows[0][0], (rows[-1][0] - rows[0][0]).total_seconds() or 1.0
    keep = max(1, round(len(rows) / (seconds * per_s)))
    return [((at - first).total_seconds() * seconds / whole, min(words // 10, 60)) for at, words in rows[::keep]]


@dataclass
class Traffic:
    """Sends until stopped. `drifted` switches the population of prompts; counts are by served version ('?' on failure)."""

    url: str
    token: str
    otlp_port: int
    seed: int
    per_s: float = 20.0
    trace: Path | None = None
    drifted: bool = False
    sent: int = 0
    failed: int = 0
    by_entity: Counter[str] = field(default_factory=Counter)
    first_seen: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        resource = Resource.create({"service.name": "support-app", "deployment.environment.name": "demo"})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{self.otlp_port}", insecure=True)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("lastgood.demo")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop sending, wait for answers, export every span."""
        self._stop.set()
        self._thread.join(30)
        self._provider.shutdown()

    def _times(self, rng: np.random.Generator) -> Iterator[tuple[float, int | None]]:
        if self.trace:
            real = arrivals(self.trace, 120.0, self.per_s)
            for round_ in itertools.count():
                yield from ((at + 120.0 * round_, words) for at, words in real)
        at = 0.0
        while True:
            at += float(rng.exponential(1 / self.per_s))
            yield at, None

    async def _run(self) -> None:
        rng = np.random.default_rng(self.seed)
        started, pending = time.monotonic(), set()
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=self.url, timeout=30, limits=limits) as client:
            for at, words in self._times(rng):
                while not self._stop.is_set() and (wait := started + at - time.monotonic()) > 0:
                    await asyncio.sleep(min(wait, 0.2))
                if self._stop.is_set():
                    break
                task = asyncio.create_task(self._one(client, rng, words))
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.gather(*pending)

    async def _one(self, client: httpx.AsyncClient, rng: np.random.Generator, words: int | None) -> None:
        client_id, user = (
            str(uuid.UUID(bytes=rng.bytes(16))),
            f"user-{int(rng.integers(25))}",
        )
        prompt = Prompts(self.drifted).draw(rng, None if self.drifted else words)
        team = ("search", "billing", "docs")[int(rng.integers(3))]
        body = {
            "prompt": prompt, "system_message": SYSTEM, "max_tokens": 512, "temperature": 0.0,
            "metadata": {"team": team, "env": "demo"}, "client_request_id": client_id,
        }  # fmt: skip
        headers = {"authorization": f"Bearer {self.token}", "x-requester": user}
        marks = {
            "lastgood.request_id": client_id,
            "lastgood.endpoint": CHAT,
            "gen_ai.operation.name": "chat",
            "enduser.id": user,
            "team": team,
        }
        self.sent += 1
        with self._tracer.start_as_current_span(f"chat {CHAT}", kind=SpanKind.CLIENT, attributes=marks) as span:
            try:
                answer = await client.post(f"/serving-endpoints/{CHAT}/invocations", json=body, headers=headers)
                self._note(span, answer)
            except httpx.HTTPError as error:
                self.failed += 1
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)

    def _note(self, span: Span, answer: httpx.Response) -> None:
        entity = answer.headers.get("served-model-name", "?")
        self.by_entity[entity] += 1
        self.first_seen.setdefault(entity, datetime.now(UTC))
        span.set_attribute("http.response.status_code", answer.status_code)
        span.set_attribute("databricks.served_entity.name", entity)
        if age := answer.headers.get("x-feature-age-ms"):
            span.set_attribute("feature.age_ms", float(age))
        document = answer.json()
        if answer.status_code != 200:
            self.failed += 1
            span.set_attribute("error.type", str(document.get("error_code", answer.status_code)))
            span.set_status(StatusCode.ERROR)
            return
        span.set_attribute("model_version", document["model_version"])
        span.set_attribute("gen_ai.usage.input_tokens", document["usage"]["prompt_tokens"])
        span.set_attribute("gen_ai.usage.output_tokens", document["usage"]["completion_tokens"])
        span.set_attribute("gen_ai.response.finish_reasons", [document["finish_reason"]])
