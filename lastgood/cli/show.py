"""`lastgood rules build` and `lastgood dashboards build`: what Prometheus and Grafana are given, from the settings."""

from pathlib import Path
from typing import Annotated

import typer

from lastgood.cli.acts import AsJson, ConfigFile, strict_json
from lastgood.settings import load

rules = typer.Typer(no_args_is_help=True, help="Prometheus rules from the policies.")
dashboards = typer.Typer(no_args_is_help=True, help="Grafana boards as code.")
Out = Annotated[Path, typer.Option("--out", help="folder to write to")]


@rules.callback()
@dashboards.callback()
def _group() -> None:
    """Keeps `build` a command of its own while it is the only one."""


@rules.command("build")
def build_rules(out: Out, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Write OUT/lastgood.rules.yml: recording and alerting rules."""
    from lastgood.alerts.rules import build

    out.mkdir(parents=True, exist_ok=True)
    path = out / "lastgood.rules.yml"
    path.write_text(build(load(config)))
    _written([path], as_json)


@dashboards.command("build")
def build_dashboards(out: Out, as_json: AsJson = False, config: ConfigFile = None) -> None:
    """Write the boards as OUT/NAME.json for Grafana, and OUT/lastgood.lvdash.json for Databricks AI/BI; OUT/lastgood-tables.json asks the tables."""
    from lastgood.dashboards import aibi, from_tables
    from lastgood.dashboards.grafana import write
    from lastgood.tables import Store

    settings = load(config)
    paths = list(write(settings, out))
    where = settings.storage if Store(settings.storage).in_catalog else "main.lastgood"
    if where != settings.storage:
        remedy = "set LASTGOOD_STORAGE=CATALOG.SCHEMA (a bundle's settings leave it out)"
        typer.echo(f"boards that ask the tables are for {where}, for the settings name no catalog; {remedy}", err=True)
    made = {out / "lastgood.lvdash.json": aibi.build(where), out / "lastgood-tables.json": from_tables.build(where)}
    for path, text in made.items():
        path.write_text(text)
    _written([*paths, *made], as_json)


def _written(paths: list[Path], as_json: bool) -> None:
    print(strict_json({"written": [str(path) for path in paths]}) if as_json else "\n".join(map(str, paths)))
