"""The brief of an incident, in a terminal and to an assistant: the same words, at once, and nothing is changed by asking."""

import asyncio
import json
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from alerts_support import START, Build, House, MemoryWorkspace, endpoint, entity
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from typer.testing import CliRunner

from lastgood import tables
from lastgood.alerts.brief import Brief, difference, read
from lastgood.alerts.messages import sureness
from lastgood.alerts.notify.webhooks import to_slack
from lastgood.alerts.rollback.machine import Approve
from lastgood.alerts.rollback.plan import Snapshot
from lastgood.cli.app import app
from lastgood.record.telemetry import arrow_schema
from lastgood.record.verdict import State
from lastgood.record.windows import middle
from lastgood.service.assistant import TOOLS
from lastgood.settings import Mode
from lastgood.tables import delta
from lastgood.tables.measures import FAILING, failing, tools


@pytest.fixture
def house(build: Build) -> House:
    """Version 3 beside version 2, which Lastgood has seen serving."""
    return build(Mode.APPROVE, MemoryWorkspace(endpoint("2", "3", v2=90, v3=10)))


def brief_of(house: House) -> Brief:
    with house.store.read() as tx:
        return read(tx, tx.incidents()[0], house.clock.now)


def test_it_says_what_to_do_in_every_state(house: House) -> None:
    house.verdict()
    house.tick()
    first = brief_of(house)
    assert (first.version, first.prior, first.state, first.minutes) == ("3", "2", "open", 4)
    assert "6.1% of requests fail" in first.what
    assert first.next.startswith("approve the rollback to version 2")
    assert any("Proposed" in line for line in first.tried)
    house.controller.people.decide(house.token(), Approve("ann"))
    assert brief_of(house).next.startswith("wait: the rollback to version 2 is")
    house.tick_until(lambda rollback: rollback.state.ended)
    assert brief_of(house).next.startswith("nothing")


def test_without_a_plan_or_with_the_kill_switch_it_names_the_command(build: Build) -> None:
    house = build(Mode.APPROVE, MemoryWorkspace(endpoint("3")))
    house.verdict(prior=None)
    assert "no prior version is known" in brief_of(house).next
    house.controller.people.set_kill_switch(True, "ann", "a test")
    assert "lastgood kill off" in brief_of(house).next


def test_the_difference_of_two_versions_shows_no_value_of_the_environment() -> None:
    new = Snapshot(
        "chat", 8, "3", entity("3", workload_size="Large", environment_vars={"KEY": "secret-1", "SAME": "x"}).settings
    )
    prior = Snapshot("chat", 7, "2", entity("2", environment_vars={"KEY": "secret-0", "SAME": "x"}).settings)
    lines = difference(new, prior)
    assert lines == [
        "entity_version: 2 -> 3",
        "environment_vars: KEY (values not shown)",
        "workload_size: Small -> Large",
    ]
    assert difference(new, None) == []


@pytest.mark.parametrize(
    ("e", "words"),
    [
        (1.0, "no statistical evidence"),
        (312.7, "less than once in 310 times"),
        (79_954_874_098_562_720.0, "practically certain"),
    ],
)
def test_how_sure_is_said_in_round_numbers(e: float, words: str) -> None:
    assert words in sureness(e)


def test_the_alert_carries_it_to_every_channel(house: House) -> None:
    house.verdict()
    house.tick()
    event = house.notifier.events[0]
    told = event["payload"]["custom_details"]["brief"]
    assert "next     approve the rollback to version 2" in told
    message = json.dumps(to_slack(event))
    assert "next     approve the rollback to version 2" in message and "if not" in message


@pytest.fixture
def config(house: House) -> Path:
    house.verdict()
    path = house.folder / "lastgood.yaml"
    path.write_text(
        yaml.safe_dump(
            {"storage": str(house.folder), "state_url": house.url, "endpoints": {"chat": {"mode": "approve"}}}
        )
    )
    return path


def test_the_command_gives_text_and_json(house: House, config: Path) -> None:
    with house.store.read() as tx:
        number = tx.incidents()[0].id
    run = CliRunner().invoke
    text = run(app, ["incident", "brief", number[:6], "--config", str(config)]).output
    document = json.loads(run(app, ["incident", "brief", number[:6], "--json", "--config", str(config)]).output)
    assert document["next"] in text and document["what"] in text
    assert document["incident"] == number


def contents(folder: Path) -> dict[str, bytes]:
    """Every file; of the state its rows, for its file changes when its log is folded into it."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("state.db")]
    with closing(sqlite3.connect(folder / "state.db")) as state:
        rows = "\n".join(state.iterdump()).encode()
    return {str(path): path.read_bytes() for path in files} | {"state": rows}


def test_an_assistant_may_ask_everything_and_changes_nothing(house: House, config: Path) -> None:
    """Over standard input and output by the protocol's own client, every tool with every argument it takes."""
    store = tables.Store(str(house.folder))
    for table in (tables.DRIFT, tables.WINDOWS, tables.QUALITY):
        delta.create(store.path(table), arrow_schema(table.fields), table.partition_by)
    row: dict[str, Any] = dict.fromkeys(tables.WINDOWS.columns)
    row |= {
        "endpoint": "chat",
        "model_version": "3",
        "stratum": "?/?",
        "window_start": START,
        "rows": 4,
        "requests": 4.0,
    }
    row |= {"errors": [("HTTP_500", 1.0)]}
    delta.append(store.path(tables.WINDOWS), pa.Table.from_pylist([row], arrow_schema(tables.WINDOWS.fields)))
    with house.store.read() as tx:
        number, before = tx.incidents()[0].id, tx.audit_head()
    asked: dict[str, dict[str, Any]] = {
        "endpoints": {}, "verdict": {"endpoint": "chat"}, "incidents": {"ended_too": True}, "incident_brief": {"incident": number},
        "windows": {"endpoint": "chat"}, "drift": {"endpoint": "chat"},
    }  # fmt: skip
    files = contents(house.folder)

    async def ask() -> dict[str, Any]:
        command = StdioServerParameters(command=sys.executable, args=["-m", "lastgood", "mcp", "--config", str(config)])
        async with Client(stdio_client(command)) as client:
            offered = (await client.list_tools()).tools
            assert {tool.name for tool in offered} == set(TOOLS) == set(asked)
            assert all(tool.annotations and tool.annotations.read_only_hint and tool.description for tool in offered)
            answers = {name: await client.call_tool(name, arguments) for name, arguments in asked.items()}
            wrong = await client.call_tool("incident_brief", {"incident": "nothing"})
            assert wrong.is_error and "ask `incidents`" in wrong.content[0].text
            return {name: json.loads(answer.content[0].text) for name, answer in answers.items()}

    answers = asyncio.run(ask())
    assert answers["endpoints"][0]["open_incident"] == number == answers["incidents"][0]["id"]
    assert answers["incident_brief"]["next"].startswith("approve")
    assert answers["verdict"]["state"] == State.ROLL_BACK
    assert answers["windows"]["3"]["error_rate"] == 0.25
    assert answers["drift"] == []
    assert contents(house.folder) == files
    with house.store.read() as tx:
        assert tx.audit_head() == before


def test_the_newest_failed_requests_of_a_version_are_read_without_their_texts(tmp_path: Path) -> None:
    store, fields = tables.Store(str(tmp_path)), tables.REQUESTS.fields
    assert failing(store, "chat", "3", START) == []
    rows = [
        {"endpoint": "chat", "request_id": f"r{i}", "model_version": version, "requested_at": START + timedelta(seconds=i), "error_code": code}
        for i, (version, code) in enumerate([("3", "HTTP_500"), ("3", None), ("2", "HTTP_500"), ("3", "HTTP_503"), ("3", "HTTP_504"), ("3", "timeout")])
    ]  # fmt: skip
    delta.append(store.path(tables.REQUESTS), pa.Table.from_pylist(rows, arrow_schema(fields)))
    shown = failing(store, "chat", "3", START)
    assert [row["request_id"] for row in shown] == ["r5", "r4", "r3"]
    assert [*shown[0]] == [*FAILING]
    assert [row["request_id"] for row in failing(store, "chat", "3", START + timedelta(seconds=4))] == ["r5", "r4"]


def test_the_tools_of_two_versions_are_read_with_the_worst_first_and_the_rest_as_one(tmp_path: Path) -> None:
    store = tables.Store(str(tmp_path))
    assert tools(store, "chat", "3", "2", START) == []
    counts = [
        {"endpoint": "chat", "model_version": version, "tool": name, "window_start": START + timedelta(minutes=minute), "calls": 10.0, "errors": errors,
         "runs": 5.0, "runs_failed": errors, "latency": [(300, 9.0), (400, 1.0)]}
        for minute in (-1, 0, 1) for version in "123" for name, errors in (("a", 0.0), ("b", 2.0 if version == "3" else 0.0), ("c", 1.0))
    ]  # fmt: skip
    delta.append(
        store.path(tables.TOOL_WINDOWS), pa.Table.from_pylist(counts, arrow_schema(tables.TOOL_WINDOWS.fields))
    )
    shown = tools(store, "chat", "3", "2", START + timedelta(seconds=30), most=1)
    assert [row["tool"] for row in shown] == ["b", "other"]
    assert (shown[0]["new"]["calls"], shown[0]["new"]["error_rate"], shown[0]["prior"]["error_rate"]) == (20, 0.2, 0)
    assert (shown[1]["new"]["calls"], shown[1]["new"]["error_rate"]) == (40, 0.05)
    assert shown[0]["new"]["p95_ms"] == middle(400)
