"""Agents, end to end: spans of OpenTelemetry's SDK reach the receiver, the jobs count runs and tools, the judge names what got worse, and a
rollback is planned for a person to approve, or is not, for the version is as good as the one before."""

import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alerts_support import START, House, settings
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, set_span_in_context
from otlp_support import inbox, receiving

from lastgood import tables
from lastgood.alerts.rollback.machine import Approve, Status
from lastgood.jobs.agents import agents
from lastgood.jobs.conform import conform
from lastgood.jobs.judge import run_judge
from lastgood.jobs.windows import windows
from lastgood.judge import State
from lastgood.settings import Mode, WorkspaceSettings, load
from lastgood.tables import delta, measures
from lastgood.tables.runs import Context
from lastgood.workspace import Update, deployments, local
from lastgood.workspace.databricks import connect

MINUTES, PER_MINUTE = 30, 14
HEALTHY = 0.04
"""Share of tool calls that fail."""


class Agent:
    """An application that answers with an agent: a span for the run, one for the model's call, one for each call of a tool."""

    def __init__(self, url: str) -> None:
        """`url`: of the receiver."""
        self.tools = 0
        self.provider = TracerProvider()
        self.provider.add_span_processor(
            BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces"), max_queue_size=100_000)
        )
        self.tracer = self.provider.get_tracer("support")

    def runs(self, failing: float, seed: int) -> int:
        """Runs of both versions over MINUTES before START; of version 3's tool calls `failing` fail. How many runs."""
        r = random.Random(seed)
        for i in range(MINUTES * PER_MINUTE):
            version = r.choice("23")
            at = START - timedelta(minutes=MINUTES) + timedelta(minutes=i / PER_MINUTE)
            self.run(int(at.timestamp() * 1e9), version, failing if version == "3" else HEALTHY, r)
        self.provider.force_flush()
        return MINUTES * PER_MINUTE

    def run(self, at: int, version: str, failing: float, r: random.Random) -> None:
        marks = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "support", "lastgood.endpoint": "chat", "model_version": version,
                 "enduser.id": f"u{r.randrange(80)}"}  # fmt: skip
        root = self.tracer.start_span("invoke_agent support", kind=SpanKind.SERVER, attributes=marks, start_time=at)
        self._child(root, at, 300, {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 90,
                                    "gen_ai.usage.output_tokens": 12})  # fmt: skip
        for k in range(r.randrange(1, 5)):
            tool = r.choice(["search_orders", "send_mail"])
            told: dict[str, Any] = {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool,
                "gen_ai.tool.call.arguments": str(k),
            }
            if r.random() < (failing if tool == "search_orders" else HEALTHY):
                told["error.type"] = "TimeoutError"
            self._child(root, at + (400 + 100 * k) * 10**6, r.lognormvariate(4, 0.3), told)
            self.tools += 1
        root.end(at + 10**9)

    def _child(self, root: Span, at: int, ms: float, marks: dict[str, Any]) -> None:
        span = self.tracer.start_span("step", set_span_in_context(root), SpanKind.CLIENT, marks, start_time=at)
        span.end(at + int(ms * 1e6))


def both() -> list[dict[str, Any]]:
    return [local.entity(local.MODELS[local.CHAT], version) for version in "23"]


def split(*shares: int) -> dict[str, Any]:
    routes = [
        {"served_entity_name": e["name"], "traffic_percentage": share} for e, share in zip(both(), shares, strict=True)
    ]
    return {"served_entities": both(), "traffic_config": {"routes": routes}}


def served(path: Path, ctx: Context, failing: float) -> int:
    """The receiver takes the runs; how many calls of tools there were. The jobs count them."""
    with receiving(path) as receiver:
        agent = Agent(f"http://127.0.0.1:{receiver.http_port}")
        runs = agent.runs(failing, seed=4)
        inbox(path, receiver)
    for job in (conform, windows, agents):
        job(ctx)
    assert delta.read(ctx.store.path(tables.AGENT_RUNS)).num_rows == runs
    return agent.tools


@pytest.mark.parametrize(("failing", "state"), [(0.8, State.ROLL_BACK), (HEALTHY, State.HEALTHY)])
def test_a_version_whose_tool_calls_fail_is_planned_to_be_rolled_back_and_its_healthy_twin_is_not(
    tmp_path: Path, spark: Any, monkeypatch: pytest.MonkeyPatch, failing: float, state: State
) -> None:
    store = tables.Store(str(tmp_path))
    store.ensure(spark)
    ctx = Context(spark, store, load(storage=store.location, window_s=60), lambda: START)
    with local.serve(local.LocalConfig(update_s=0.1)) as running:
        monkeypatch.setenv("LOCAL_TOKEN", running.token)
        workspace = connect(WorkspaceSettings(host=running.url, token_env="LOCAL_TOKEN"))
        running.service.state.create({"name": "chat", "config": split(100, 0)})
        deployments.record(store, [workspace.endpoint("chat")], START - timedelta(hours=1))
        running.service.state.update("chat", split(50, 50))
        while workspace.endpoint("chat").update is Update.IN_PROGRESS:
            time.sleep(0.02)
        deployments.record(store, [workspace.endpoint("chat")], START - timedelta(minutes=MINUTES))
        tools = served(tmp_path, ctx, failing)
        (verdict,) = (each for each in run_judge(ctx) if each.candidate == "3")
        house = House(tmp_path, workspace, settings(Mode.APPROVE))
        house.controller.observe_endpoints()
        house.controller.handle(verdict)
        house.tick(2)
        if state is State.HEALTHY:
            assert verdict.state not in (State.PAGE, State.ROLL_BACK), verdict.reason
            assert house.rollbacks() == 0
        else:
            assert (verdict.state, verdict.prior) == (state, "2"), verdict.reason
            assert (
                "of a run's tool calls fail" in verdict.reason
                and "of a run's tool calls fail" in house.notifier.summaries()[0]
            )
            shown = measures.tools(store, "chat", "3", "2", START - timedelta(hours=1))
            assert sum(side["calls"] for row in shown for side in (row["new"], row["prior"])) == tools
            assert shown[0]["tool"] == "search_orders"
            assert shown[0]["new"]["error_rate"] > 5 * shown[0]["prior"]["error_rate"]
            assert house.rollback().state is Status.PROPOSED
            assert dict(workspace.endpoint("chat").traffic) == {e["name"]: 50 for e in both()}, (
                "nothing moves before a person says so"
            )
            house.controller.people.decide(house.token(), Approve("ann"))
            while not house.rollback().state.ended:
                time.sleep(0.02)
                house.tick(every_s=1)
            old, new = (e["name"] for e in both())
            assert house.rollback().state is Status.DONE
            assert dict(workspace.endpoint("chat").traffic) == {old: 100, new: 0}
        house.close()
