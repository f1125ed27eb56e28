"""What all commands have in common."""

from collections.abc import Iterator

import click
import typer

from lastgood.cli.app import app

ALWAYS_JSON = {"audit anchor", "job", "serve", "drift", "forget", "baseline set", "config schema"}


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
