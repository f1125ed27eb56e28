"""What all commands have in common."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from lastgood.cli.app import app
from lastgood.errors import ConfigError

ALWAYS_JSON = {"audit anchor", "job", "mcp", "serve", "drift", "forget", "baseline set", "config schema"}


def commands(one: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    inner = getattr(one, "commands", None)
    if inner is None:
        yield name, one
        return
    for key, each in inner.items():
        yield from commands(each, f"{name} {key}".strip())


def test_every_command_has_a_machine_readable_answer_and_says_what_it_does() -> None:
    found = dict(commands(typer.main.get_command(app), ""))
    without = {name for name, one in found.items() if not any("--json" in each.opts for each in one.params)}
    assert without == ALWAYS_JSON
    assert all(one.help for one in found.values())


def test_the_kill_switch_loads_nothing_but_the_state_store(tmp_path: Path) -> None:
    """It must work at once, with the workspace away and no secret set: no Arrow, no Spark, no HTTP client, no SDK."""
    script = (
        "import json, sys\n"
        "from lastgood.cli.app import main\n"
        "sys.argv = ['lastgood', 'kill', 'on', '--why', 'test', '--config', sys.argv[1]]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(json.dumps([n for n in ('pyarrow', 'numpy', 'pandas', 'pyspark', 'httpx', 'databricks', 'alembic') if n in sys.modules]))\n"
    )
    config = tmp_path / "lastgood.yaml"
    config.write_text(f"storage: {tmp_path}/data\nworkspace: {{host: 'http://127.0.0.1:9', token_env: UNSET}}\n")
    for first in (True, False):
        done = subprocess.run([sys.executable, "-c", script, str(config)], capture_output=True, text=True, check=True)
        *_, loaded = done.stdout.splitlines()
        assert json.loads(loaded) == (["alembic"] if first else []), "the first time the state's tables are made"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("colect",), "no job 'colect'; did you mean collect?"),
        (("foo",), "no job 'foo'. There are collect, "),
        (("drift", "--backfill", "2026-03-01", "2026-03-02"), "job drift has no range to rebuild"),
        (("collect", "--forever"), "--forever goes with `all` alone"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_anything_is_made(
    words: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    config = tmp_path / "lastgood.yaml"
    config.write_text(f"storage: {tmp_path}/data\n")
    result = CliRunner().invoke(app, ["job", *words, "--config", str(config)])
    assert isinstance(result.exception, ConfigError)
    assert sentence in str(result.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lastgood.yaml"]
