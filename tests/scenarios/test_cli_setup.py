"""`lastgood init` and `doctor` as a newcomer uses them, against the local workspace."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from typer.testing import CliRunner

from lastgood.alerts.store import Store
from lastgood.cli import doctor
from lastgood.cli.app import app
from lastgood.errors import RefusedError
from lastgood.settings import Settings, load
from lastgood.workspace import local

ASKED = "./tables here\nhttps://w.example.com\nchat=main.s.chat_payload, shop, odd: name\nobserve\n"


def test_init_asks_and_writes_a_file_that_holds_what_was_said(tmp_path: Path) -> None:
    out = tmp_path / "conf" / "lastgood.yaml"
    done = CliRunner().invoke(app, ["init", "--out", str(out)], input=ASKED)
    assert done.exit_code == 0, done.output
    found = load(out)
    assert (found.storage, found.workspace.host, found.default.mode) == (
        "./tables here",
        "https://w.example.com",
        "observe",
    )
    assert {name: one.payload_table for name, one in found.endpoints.items()} == {
        "chat": "main.s.chat_payload", "shop": None, "odd: name": None,
    }  # fmt: skip
    schema = json.loads((out.parent / "lastgood.schema.json").read_text())
    assert jsonschema_rs.validator_for(schema).is_valid(yaml.safe_load(out.read_text()))
    again = CliRunner().invoke(app, ["init", "--out", str(out)], input=ASKED)
    assert isinstance(again.exception, RefusedError)
    assert CliRunner().invoke(app, ["init", "--out", str(out), "--force"], input=ASKED).exit_code == 0


@pytest.fixture
def space() -> Iterator[local.Running]:
    with local.serve(local.LocalConfig()) as running:
        yield running


def examined(
    tmp_path: Path, space: local.Running, monkeypatch: pytest.MonkeyPatch, **changed: Any
) -> dict[str, dict[str, str]]:
    monkeypatch.setenv("LASTGOOD_LOCAL_TOKEN", space.token)
    document = {
        "storage": str(tmp_path / "data"), "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
        "endpoints": {local.CHAT: {}},
    }  # fmt: skip
    config = tmp_path / "lastgood.yaml"
    config.write_text(yaml.safe_dump(document | changed))
    done = CliRunner().invoke(app, ["doctor", "--json", "--config", str(config)])
    found = {one["name"]: one for one in json.loads(done.output)}
    assert done.exit_code == (1 if any(one["health"] == "fail" for one in found.values()) else 0)
    return found


def test_doctor_finds_everything_that_is_right(
    tmp_path: Path, space: local.Running, monkeypatch: pytest.MonkeyPatch, java: None
) -> None:
    monkeypatch.setenv("LASTGOOD_LINK_KEY", "k" * 32)
    monkeypatch.setenv("LASTGOOD_PERSON_TOKEN", "t")
    monkeypatch.setenv("LASTGOOD_PAGERDUTY_KEY", "p")
    found = examined(tmp_path, space, monkeypatch)
    assert {name for name, one in found.items() if one["health"] == "fail"} == set()
    assert {"Java", "operational state", "audit log", "signing key", "workspace", "clock"} <= {
        name for name, one in found.items() if one["health"] == "ok"
    }
    assert "versions 2 100%, 1 0%" in found[f"endpoint {local.CHAT}"]["sentence"]
    assert found["service"]["health"] == "warn", "nothing serves yet"


def test_doctor_says_what_is_wrong_and_how_to_mend_it(
    tmp_path: Path, space: local.Running, monkeypatch: pytest.MonkeyPatch, java: None
) -> None:
    (tmp_path / "file").write_text("")
    endpoints = {"nothing": {}, "tumour-risk": {"payload_table": str(tmp_path / "no table")}}
    state = f"sqlite:///{tmp_path}/state.db"
    store = Store(state)
    with store.begin() as tx:
        tx.record(doctor.datetime.now(doctor.UTC), "ann", "kill switch on")
    store.close()
    import sqlite3

    with sqlite3.connect(tmp_path / "state.db") as db:
        db.execute("UPDATE audit SET who = 'eve'")
    changed = {"storage": str(tmp_path / "file"), "state_url": state, "endpoints": endpoints}
    found = examined(tmp_path, space, monkeypatch, **changed)
    wrong = {name: one for name, one in found.items() if one["health"] == "fail"}
    assert wrong.keys() == {"storage", "audit log", "endpoint nothing"}
    assert "no such endpoint" in wrong["endpoint nothing"]["sentence"]
    assert all(one["fix"] for one in found.values() if one["health"] != "ok")
    missing = {"workspace": {"host": space.url, "token_env": "LASTGOOD_OTHER"}}
    monkeypatch.setenv("LASTGOOD_OTHER", "wrong")
    refused = examined(tmp_path, space, monkeypatch, **missing)["workspace"]
    assert (refused["health"], "renew it" in refused["sentence"]) == ("fail", True)


class _Late(BaseHTTPRequestHandler):
    """A server whose clock stands in 2001, and that answers as a Prometheus that scrapes nobody."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Mon, 01 Jan 2001 00:00:00 GMT"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "success", "data": {"result": []}}')

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_clock_that_is_off_and_a_prometheus_that_does_not_scrape_are_found() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Late)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        (clock,) = doctor.clock(url)
        (prometheus,) = doctor.examine(Settings(), (doctor.prometheus(url),))
    finally:
        server.shutdown()
        server.server_close()
    assert (clock.health, prometheus.health) == (doctor.Health.FAIL, doctor.Health.FAIL)
    assert "does not scrape" in prometheus.sentence


def test_a_check_that_cannot_be_made_is_a_finding() -> None:
    (found,) = doctor.examine(Settings(), (doctor.prometheus("http://127.0.0.1:1"),))
    assert found.health is doctor.Health.FAIL


def test_what_doctor_says_to_copy_is_whole_on_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, java: None
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("LASTGOOD_LINK_KEY", "LASTGOOD_PERSON_TOKEN", "LASTGOOD_PAGERDUTY_KEY"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "lastgood.yaml"
    config.write_text(
        yaml.safe_dump({"storage": str(tmp_path / ("deep" * 20)), "state_url": f"sqlite:///{tmp_path}/state.db"})
    )
    findings = list(doctor.examine(load(config), (doctor.secrets, doctor.storage)))
    monkeypatch.setattr(doctor, "CHECKS", (doctor.secrets, doctor.storage))
    lines = [line.strip() for line in CliRunner().invoke(app, ["doctor", "--config", str(config)]).output.splitlines()]
    fixes = [finding.fix for finding in findings if finding.health != "ok"]
    assert "export LASTGOOD_LINK_KEY=$(openssl rand -hex 32)" in fixes
    assert set(fixes) <= set(lines)
    assert max(map(len, lines)) > 80, "a path longer than the terminal is whole too"
