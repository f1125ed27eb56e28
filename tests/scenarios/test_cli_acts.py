"""The acting commands, against the local workspace over HTTP with real requests, window counts and the real client."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from benchmarks.live import Live
from lastgood import tables
from lastgood.alerts.store import Store
from lastgood.cli.app import app
from lastgood.errors import ConfigError, LastgoodError, RefusedError
from lastgood.workspace import local
from lastgood.workspace.local import CHAT, MODELS, Running

Run = Callable[..., Result]
POLICY = {"verify_timeout_s": 30, "ready_timeout_s": 30}


@pytest.fixture
def running() -> Iterator[Running]:
    with local.serve(local.LocalConfig(update_s=0.3, latency_scale=0.2)) as space:
        yield space


@pytest.fixture
def config(tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOCAL_TOKEN", running.token)
    path = tmp_path / "lastgood.yaml"
    document = {
        "storage": str(tmp_path / "data"),
        "window_s": 1,
        "workspace": {"host": running.url, "token_env": "LOCAL_TOKEN", "retry_timeout_s": 5},
        "endpoints": {CHAT: {"mode": "approve", "policy": POLICY}},
    }
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def run(config: Path) -> Run:
    def call(*arguments: str, stdin: str = "") -> Result:
        result = CliRunner().invoke(app, [*arguments, "--config", str(config)], input=stdin)
        if isinstance(result.exception, LastgoodError):
            raise result.exception
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return call


@pytest.fixture
def live(running: Running, config: Path) -> Iterator[Live]:
    store = tables.Store(str(config.parent / "data"))
    traffic = Live(running.url, running.token, CHAT, store)
    yield traffic
    traffic.stop()


def traffic(running: Running) -> dict[str, int]:
    entities, shares = running.service.state.serving(CHAT)
    return {e["entity_version"]: share for e, share in zip(entities, shares, strict=True)}


def entries(config: Path) -> list[Any]:
    store = Store(f"sqlite:///{config.parent}/data/state.db")
    with store.read() as tx:
        assert tx.verify() == []
        return list(tx.audit())


def test_a_dry_run_shows_the_plan_as_a_diff_and_changes_nothing(run: Run, running: Running) -> None:
    running.service.state.aliases[MODELS[CHAT]] = {"champion": 1}
    shown = run("rollback", CHAT, "--dry-run").output
    for part in (
        "rollback of support-chat (fast path): 2 -> 1",
        "the registry calls it champion",
        '-    "support_chat-2": 100,',
        '+    "support_chat-1": 100',
        "traffic of support_chat-2: 100% -> 0%",
        "created by person@example.com",
    ):
        assert part in shown, shown
    document = json.loads(run("rollback", CHAT, "--dry-run", "--json").output)
    assert (document["bad_version"], document["prior_version"], document["path"]) == ("2", "1", "fast")
    assert traffic(running) == {"2": 100, "1": 0}


def test_it_asks_first_and_no_means_no(run: Run, running: Running) -> None:
    with pytest.raises(RefusedError, match="nothing was changed"):
        run("rollback", CHAT, stdin="n\n")
    with pytest.raises(RefusedError, match="--yes"):
        run("rollback", CHAT, "--json")
    assert traffic(running) == {"2": 100, "1": 0}


def test_a_rollback_moves_the_traffic_verifies_it_and_is_in_the_audit_log(
    run: Run, running: Running, live: Live, config: Path
) -> None:
    done = json.loads(run("rollback", CHAT, "--yes", "--json", "--why", "customers complain").output)
    assert done["state"] == "Done" and done["who"] == "person@example.com"
    assert re.search(r"0% of \d+ requests still reach version 2", done["reason"])
    assert traffic(running) == {"2": 0, "1": 100}
    told = [e["what"] for e in entries(config) if e["what"] != "registry written"]  # which is sent apart
    assert told == [
        "opened", "Proposed", "Approved", "Shifting", "Verifying", "Done", "asked of the registry", "resolved",
    ]  # fmt: skip
    assert {e["who"] for e in entries(config)} == {"person@example.com", "lastgood"}
    assert "customers complain" in run("audit", "show").output
    assert "unbroken" in run("audit", "verify").output
    with pytest.raises(RefusedError, match="version 2 was itself rolled back"):
        run("rollback", CHAT, "--dry-run")
    assert "the person's choice stands" in run("rollback", CHAT, "--to", "2", "--dry-run").output


@pytest.mark.parametrize(
    ("telemetry_timeout_s", "sentence"),
    [
        (
            2,
            "Failed: no recovery within 2 s: the configuration has moved the traffic; waiting for telemetry: 0 requests",
        ),
        (600, "the service verifies it when telemetry arrives"),
    ],
)
def test_without_telemetry_it_says_so_does_not_wait_for_hours_and_ends_with_1(
    run: Run, running: Running, config: Path, telemetry_timeout_s: int, sentence: str
) -> None:
    document = yaml.safe_load(config.read_text())
    policy = POLICY | {"verify_timeout_s": 2, "telemetry_timeout_s": telemetry_timeout_s}
    document["endpoints"][CHAT]["policy"] = policy
    config.write_text(yaml.safe_dump(document))
    result = run("rollback", CHAT, "--yes")
    assert result.exit_code == 1
    assert sentence in result.output
    assert traffic(running) == {"2": 0, "1": 100}


def test_what_cannot_be_is_refused_in_words(run: Run) -> None:
    with pytest.raises(RefusedError, match="version 3 is not deployed and no snapshot"):
        run("rollback", CHAT, "--to", "3", "--yes")
    with pytest.raises(RefusedError, match="both the bad and the prior"):
        run("rollback", CHAT, "--to", "2", "--yes")
    with pytest.raises(RefusedError, match="takes no traffic"):
        run("rollback", CHAT, "--from", "1", "--yes")
    with pytest.raises(ConfigError, match="no such endpoint"):
        run("rollback", "ghost", "--yes")


def test_the_kill_switch_from_the_command_line(run: Run, running: Running) -> None:
    assert run("kill", "status").output.strip() == "off"
    run("kill", "on", "--why", "migration")
    for command in (("rollback", CHAT, "--dry-run"), ("audit", "show"), ("kill", "status")):
        assert "migration" in run(*command).output, command
    with pytest.raises(RefusedError, match="kill switch is on"):
        run("rollback", CHAT, "--yes")
    assert traffic(running) == {"2": 100, "1": 0}
    run("kill", "off")
    assert json.loads(run("kill", "status", "--json").output)["on"] is False


def test_where_two_must_approve_the_command_line_is_one_of_them(run: Run, running: Running, config: Path) -> None:
    document = yaml.safe_load(config.read_text())
    document["endpoints"][CHAT]["policy"] = POLICY | {"approvals": 2}
    config.write_text(yaml.safe_dump(document))
    done = json.loads(run("rollback", CHAT, "--yes", "--json").output)
    assert (done["state"], done["reason"]) == ("Proposed", "approved by person@example.com: 1 more must approve")
    assert traffic(running) == {"2": 100, "1": 0}
    again = json.loads(run("rollback", CHAT, "--yes", "--json").output)
    assert again["state"] == "Proposed", "the same person twice is still one person"
    assert [e["what"] for e in entries(config)].count("Expired") == 1, "the newer plan replaced the older one"


def test_a_broken_audit_log_is_found(run: Run, config: Path) -> None:
    run("kill", "on", "--why", "x")
    run("kill", "off", "--why", "y")
    store = Store(f"sqlite:///{config.parent}/data/state.db")
    with store.begin() as tx:
        tx._db.exec_driver_sql("UPDATE audit SET who = 'mallory' WHERE seq = 1")
    result = run("audit", "verify", "--json")
    assert result.exit_code == 5
    assert json.loads(result.output)["problems"] == ["entry 1 is not what was written"]


def test_what_is_open_and_what_is_paused_shows_in_status_and_before_each_command(run: Run) -> None:
    run("freeze", "add", "support-*", "--hours", "2", "--why", "the shop's big day")
    run("silence", "add", "other", "--hours", "1", "--why", "load test")
    shown = json.loads(run("status", "--json").output)
    assert {row["endpoint"] for row in shown["paused"]} == {"other", "support-*"}
    assert shown["open incidents"] == []
    assert "the shop's big day" in run("rollback", CHAT, "--dry-run").output
