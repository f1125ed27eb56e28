"""`lastgood config show` and `schema`: which value holds and where it comes from; the JSON Schema for editors."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from lastgood.cli.acts import AsJson, ConfigFile, strict_json
from lastgood.settings import Settings, load
from lastgood.settings.mistakes import Location, line_of

app = typer.Typer(no_args_is_help=True, help="The settings: what holds, and where it comes from.")
_PASSWORD = re.compile(r"(?<=://)([^/@\s]*):[^/@\s]*@")


def schema() -> str:
    """The JSON Schema of the settings file."""
    return json.dumps(Settings.model_json_schema(), indent=1) + "\n"


def _leaves(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*at, name))
    else:
        yield at, value


def _origin(location: Location, source: Path, text: str) -> str:
    for depth in range(len(location), 0, -1):
        variable = "LASTGOOD_" + "__".join(str(part).upper() for part in location[:depth])
        if variable in os.environ:
            return variable
    line = line_of(text, location, exact=True)
    return f"{source}:{line}" if line else "default"


def effective(config: Path | None) -> list[dict[str, Any]]:
    """Every setting: key, value (passwords masked), origin (file:line, the environment's variable, or default). Errors: ConfigError."""
    settings, source = load(config), config or Path("conf/lastgood.yaml")
    text = source.read_text() if source.is_file() else ""
    rows = []
    for location, value in _leaves(settings.model_dump(mode="json")):
        shown = _PASSWORD.sub(r"\1:***@", value) if isinstance(value, str) else value
        key = ".".join(str(part) for part in location)
        rows.append({"key": key, "value": shown, "origin": _origin(location, source, text)})
    return rows


@app.command()
def show(
    config: ConfigFile = None,
    changed: Annotated[bool, typer.Option("--changed", help="only what is not a default")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the effective settings and where each comes from. Secrets are never among them: settings name variables."""
    rows = [row for row in effective(config) if not changed or row["origin"] != "default"]
    if as_json:
        print(strict_json(rows, indent=2))
        return
    table = Table("key", "value", "origin")
    for row in rows:
        table.add_row(row["key"], json.dumps(row["value"]), row["origin"])
    Console(soft_wrap=True).print(table)


@app.command("schema")
def print_schema(out: Annotated[Path | None, typer.Option("--out", help="file to write")] = None) -> None:
    """Print the JSON Schema of conf/lastgood.yaml, for editors."""
    if out:
        out.write_text(schema())
    print(out or schema())
