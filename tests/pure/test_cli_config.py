"""`lastgood config`: what holds, from where; no password is printed."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lastgood.cli.app import app


def shown(*arguments: str) -> dict[str, tuple[Any, str]]:
    result = CliRunner().invoke(app, ["config", "show", "--json", *arguments])
    assert result.exit_code == 0, result.output
    return {one["key"]: (one["value"], one["origin"]) for one in json.loads(result.output)}


def test_each_value_is_shown_with_its_origin_and_passwords_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lastgood.yaml"
    path.write_text(
        "storage: /data\nstate_url: postgresql://lg:hunter2@db/lg\nendpoints:\n  chat:\n    policy: {cooldown_s: 60}\n"
    )
    monkeypatch.setenv("LASTGOOD_WEB__PORT", "9000")
    found = shown("--config", str(path))
    assert found["storage"] == ("/data", f"{path}:1")
    assert found["state_url"] == ("postgresql://lg:***@db/lg", f"{path}:2")
    assert found["endpoints.chat.policy.cooldown_s"] == (60.0, f"{path}:5")
    assert found["endpoints.chat.policy.watch_e"] == (5.0, "default")
    assert found["web.port"] == (9000, "LASTGOOD_WEB__PORT")
    changed = shown("--config", str(path), "--changed")
    assert changed.keys() == {"storage", "state_url", "endpoints.chat.policy.cooldown_s", "web.port"}


def test_people_get_a_table(tmp_path: Path) -> None:
    path = tmp_path / "lastgood.yaml"
    path.write_text("storage: /data\n")
    result = CliRunner().invoke(app, ["config", "show", "--changed", "--config", str(path)])
    assert "storage" in result.output
    assert '"/data"' in result.output
