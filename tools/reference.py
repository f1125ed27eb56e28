"""The code -> docs/reference: commands, settings, tables and metrics, as they are. `make built` runs it; a test compares."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lastgood import tables
from lastgood.cli.app import app
from lastgood.errors import LastgoodError
from lastgood.record import exported
from lastgood.record.definitions import DEFINITIONS
from lastgood.settings import Settings
from lastgood.settings.mistakes import models_of

Page = Iterator[str]


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def table(header: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> Page:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _command(command: Any, name: str) -> Page:
    if hasattr(command, "commands"):
        for inner in sorted(command.commands):
            yield from _command(command.commands[inner], f"{name} {inner}")
        return
    yield f"\n## {name}\n\n{' '.join((command.help or '').split())}\n"
    shown = [parameter for parameter in command.params if parameter.name != "help"]
    if shown:
        rows = (
            (
                f"`{', '.join(parameter.opts) if parameter.param_type_name == 'option' else parameter.name.upper()}`",
                getattr(parameter, "help", "") or "",
                "" if parameter.default in (None, False, (), ...) or parameter.required else f"`{parameter.default}`",
            )
            for parameter in shown
            if parameter.name
        )
        yield from table(("argument", "meaning", "default"), rows)


def cli() -> Page:
    yield "# Commands\n\nExit codes: 0 done; 1 a verdict to act on, or a check that failed; others by what to do:\n"
    errors = sorted(LastgoodError.__subclasses__(), key=lambda error: error.exit_code)
    yield from table(("code", "meaning"), ((error.exit_code, (error.__doc__ or "").split(";")[0]) for error in errors))
    yield "\nEvery command prints for people, and with `--json` for machines; `job`, `serve`, `drift`, `forget`, `baseline set` and `config schema`\n"
    yield "print nothing but JSON, `job` and `serve` a line for each thing done.\n"
    yield "\n`lastgood --install-completion` completes them in your shell.\n"
    yield from _command(typer.main.get_command(app), "lastgood")


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "required"
    return "" if value is None or isinstance(value, BaseModel) else f"`{value}`"


def _settings(model: type[BaseModel], prefix: str) -> Page:
    plain = {name: field for name, field in model.model_fields.items() if not models_of(field.annotation)}
    if plain:
        yield f"\n## {prefix or 'top level'}\n\n{' '.join((model.__doc__ or '').split()) if prefix else ''}\n"
        rows = ((f"`{name}`", _default(field), field.description or "") for name, field in plain.items())
        yield from table(("setting", "default", "meaning"), rows)
    for name, field in model.model_fields.items():
        for inner in models_of(field.annotation):
            by_name = "dict" in str(field.annotation)
            many = "list" in str(field.annotation) or "tuple" in str(field.annotation)
            key = f"{prefix}.{name}".strip(".") + (".NAME" if by_name else "[]" if many else "")
            if by_name:
                yield f"\n## {key}\n\nThe same settings as `default`, of one endpoint.\n"
            else:
                yield from _settings(inner, key)


def settings() -> Page:
    yield "# Settings\n\n`conf/lastgood.yaml`; `LASTGOOD_WEB__PORT=...` in the environment overrides `web.port`. `lastgood config show` says what holds.\n"
    yield from _settings(Settings, "")


def all_tables() -> Page:
    yield "# Tables\n\nDelta tables in `storage`. Columns are only ever added.\n"
    for entry in tables.ALL:
        key = f"Key: {', '.join(entry.key)}. " if entry.key else ""
        yield f"\n## {entry.name}\n\n{key}Kept {entry.days} days.{' Change data feed.' if entry.change_feed else ''}\n"
        yield from table(("column", "type", "meaning"), ((f"`{f.name}`", f"`{f.type}`", f.doc) for f in entry.fields))


def metrics() -> Page:
    yield "# Metrics\n\nWhat `/metrics` shows, in base units.\n"
    yield from table(
        ("metric", "kind", "labels", "meaning"),
        (
            (f"`{', '.join(metric.series)}`", metric.kind, ", ".join(metric.labels), metric.doc)
            for metric in exported.CATALOGUE
        ),
    )


FIGURES = """# Figures and their formulas

Every figure that Lastgood shows, by its formula and by what an unknown value does to it. `w` is the weight of a request, 1 / the fraction of requests
that was sampled (1 where nobody says). Sums go over the requests of one endpoint and version, in the time that is shown. Counts can be added: a
figure of an hour is made of the sums of its minutes, never of their figures. The tests named in the last column recompute each from single requests.

What is unknown is null, and is never taken for 0. A figure whose denominator is 0 is not shown. The service shows the same list at `/definitions`,
and every figure of its pages links to it. How evidence works is told in [the judge](../explanation/judge.md).
"""


def figures() -> Page:
    yield FIGURES
    cells = ((d.name, d.formula, d.unknown, d.tests) for d in DEFINITIONS)
    yield from table(("figure", "formula", "unknown values", "test"), cells)


PAGES = {"cli": cli, "settings": settings, "tables": all_tables, "metrics": metrics, "figures": figures}


def build(name: str) -> str:
    """One page."""
    return "\n".join(PAGES[name]()) + "\n"


if __name__ == "__main__":
    for page in PAGES:
        where = Path(sys.argv[1]) / f"{page}.md"
        where.write_text(build(page))
        print(where)
