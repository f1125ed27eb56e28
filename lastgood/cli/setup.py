"""`lastgood init` writes a commented conf/lastgood.yaml; `lastgood doctor` says what is not right yet, and how to mend it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text

from lastgood.cli.acts import AsJson, ConfigFile, strict_json
from lastgood.errors import ConfigError, LastgoodError, RefusedError
from lastgood.settings import Mode, WorkspaceSettings, load
from lastgood.workspace import TELEMETRY

if TYPE_CHECKING:
    from lastgood.cli.doctor import Finding

TEMPLATE = """\
# yaml-language-server: $schema={{ schema }}
# Lastgood's settings; `lastgood config show` says what holds. LASTGOOD_... environment variables override a value here.
# Secrets are never written here: *_env names the variable that holds one.

storage: {{ storage }}              # the Delta tables: a folder, s3://..., or catalog.schema
window_s: 60                        # width of a window, seconds

workspace:{% if host %}
  host: {{ host }}
  token_env: {{ token_env }}{% else %} {}                       # databricks-sdk's own authentication{% endif %}

sources:
  entities_table: system.serving.served_entities   # which version stands behind a served entity, at the time
  usage_tables: []                  # system.serving.endpoint_usage: also what payload tables leave out
  span_tables: [{{ span_tables }}]                   # traces of endpoints: catalog.schema.prefix_otel_spans
  log_tables: [{{ log_tables }}]                    # their logs: prefix_otel_logs
  annotation_tables: [{{ annotation_tables }}]             # feedback on their traces: prefix_otel_annotations

pagerduty:
  routing_key_env: LASTGOOD_PAGERDUTY_KEY

default:
  mode: {{ mode }}                  # observe: only say it; approve: ask a person; auto: do it
  policy:
    rollback_e: 100                 # at most 1 healthy version in 100 is ever rolled back
    error_slo: 0.02                 # share of requests that may fail

endpoints:{% for name, table in endpoints %}
  {{ name }}:{% if table %}
    payload_table: {{ table }}{% else %} {}{% endif %}{% else %} {}{% endfor %}
"""
SCHEMA = "lastgood.schema.json"


def _plain(value: str) -> str:
    """A YAML scalar of the value, quoted where it must be."""
    return yaml.safe_dump(value, width=10_000).splitlines()[0]


def register(app: typer.Typer) -> None:
    """Put the commands into the command line."""
    app.command()(init)
    app.command()(doctor)


def init(
    out: Annotated[Path, typer.Option("--out", help="file to write")] = Path("conf/lastgood.yaml"),
    storage: Annotated[str | None, typer.Option(help="folder (or catalog.schema) for the Delta tables")] = None,
    host: Annotated[
        str | None, typer.Option(help="workspace URL; empty: databricks-sdk's own authentication", show_default=False)
    ] = None,
    token_env: Annotated[str, typer.Option(help="variable that holds the workspace's token")] = "DATABRICKS_TOKEN",  # noqa: S107 - a variable's name
    endpoints: Annotated[
        str | None, typer.Option(help="endpoints to watch, NAME or NAME=PAYLOAD_TABLE, comma-separated")
    ] = None,
    mode: Annotated[Mode | None, typer.Option(help="what Lastgood may do by itself")] = None,
    databricks: Annotated[
        bool,
        typer.Option(
            "--databricks",
            help="write a bundle that deploys jobs, tables, state and the app (into a clone of this repository)",
        ),
    ] = False,
    catalog: Annotated[str | None, typer.Option(help="with --databricks: the catalog of the tables")] = None,
    schema_name: Annotated[
        str | None, typer.Option("--schema", help="with --databricks: the schema of the tables")
    ] = None,
    operators: Annotated[
        str | None, typer.Option(help="with --databricks: group that may run the jobs and use the app")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="overwrite the file")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a few questions and write a commented settings file, with its JSON Schema beside it; or all of a bundle."""
    if databricks:
        _init_bundle(catalog, schema_name, endpoints, operators, mode, force, as_json)
        return
    if out.exists() and not force:
        raise RefusedError(f"{out} is there already; --force overwrites it")
    storage = _ask(storage, "Folder (or catalog.schema) for the Delta tables", "./lastgood-data")
    host = _ask(host, "Workspace URL (empty: databricks-sdk's own authentication)", "")
    named = _named(_ask(endpoints, ENDPOINTS, ""))
    mode = mode or _mode()
    named, telemetry = _proposed(named, host, token_env)
    quoted = [(_plain(name), table and _plain(table)) for name, table in named]
    values = {
        "storage": _plain(storage),
        "host": host and _plain(host),
        "token_env": _plain(token_env),
        "mode": mode.value,
        **{key: ", ".join(map(_plain, telemetry.get(key, ()))) for key in TELEMETRY},
    }
    _write(out, values | {"endpoints": quoted, "schema": SCHEMA})
    result = {"written": [str(out), str(out.parent / SCHEMA)]}
    print(strict_json(result) if as_json else f"{out} is written; next: lastgood doctor --config {out}")


def _write(out: Path, values: Mapping[str, Any]) -> None:
    """The settings file, once it can be read, and its schema beside it. Errors: ConfigError."""
    from jinja2 import Environment

    from lastgood.cli.config import schema

    maker = Environment(keep_trailing_newline=True)  # noqa: S701 - it makes YAML, of values that are quoted as YAML
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".new")
    draft.write_text(maker.from_string(TEMPLATE).render(**values))
    load(draft)
    draft.replace(out)
    (out.parent / SCHEMA).write_text(schema())


ENDPOINTS = "Endpoints to watch, NAME or NAME=PAYLOAD_TABLE, comma-separated"
MODE = "What may Lastgood do by itself (observe, approve, auto)"


def _ask(value: str | None, question: str, default: str) -> str:
    return value if value is not None else str(typer.prompt(question, default=default))


def _mode() -> Mode:
    """The mode that a person types. Errors: ConfigError."""
    typed = _ask(None, MODE, Mode.APPROVE.value)
    try:
        return Mode(typed.strip().lower())
    except ValueError as error:
        raise ConfigError(f"mode {typed!r}: expected {', '.join(Mode)}") from error


def _named(endpoints: str) -> list[tuple[str, str]]:
    """(endpoint, payload table or nothing). Errors: ConfigError for what is no list of them."""
    pairs = [[part.strip() for part in entry.split("=")] for entry in endpoints.split(",") if entry.strip()]
    if odd := [entry for entry in pairs if not all(entry) or len(entry) > 2]:
        raise ConfigError(f"endpoints: {'='.join(odd[0])!r} is neither NAME nor NAME=PAYLOAD_TABLE")
    names = [entry[0] for entry in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"endpoints: {', '.join(twice)} is named twice")
    return [(entry[0], entry[1] if len(entry) > 1 else "") for entry in pairs]


def _proposed(
    named: list[tuple[str, str]], host: str | None, token_env: str
) -> tuple[list[tuple[str, str]], dict[str, tuple[str, ...]]]:
    """(the endpoints, with the payload table that each says itself where none was given; key of settings.Sources -> tables of their
    telemetry that are there by the platform's naming). As given where the workspace cannot be asked."""
    from lastgood.workspace.databricks import connect

    if not (host or os.environ.get("DATABRICKS_HOST")) or not named:
        return named, {}
    try:
        workspace = connect(
            WorkspaceSettings(host=host or None, token_env=token_env if host else None, retry_timeout_s=5)
        )
        endpoints = {name: workspace.endpoint(name) for name, _ in named}
        proposed = [(name, table or endpoints[name].payload_table) for name, table in named]
        exported: dict[str, set[str]] = {}
        for endpoint in endpoints.values():
            for key, table in endpoint.telemetry.items():
                exported.setdefault(key, set()).add(table)
        present = {key: tuple(sorted(filter(workspace.has_table, names))) for key, names in exported.items()}
        return proposed, {key: names for key, names in present.items() if names}
    except LastgoodError as error:
        typer.echo(f"tables of the endpoints are not proposed: {error}", err=True)
        return named, {}


def _init_bundle(
    catalog: str | None,
    schema_name: str | None,
    endpoints: str | None,
    operators: str | None,
    mode: Mode | None,
    force: bool,
    as_json: bool,
) -> None:
    """Ask what a bundle needs to know and write all of it here. Errors: ConfigError, RefusedError."""
    from lastgood.cli import bundle

    if not Path("pyproject.toml").is_file() or 'name = "lastgood"' not in Path("pyproject.toml").read_text():
        raise ConfigError(
            "--databricks writes into a clone of Lastgood's repository: its build makes the wheel that is deployed"
        )
    catalog, schema_name = (
        _ask(catalog, "Catalog of the tables", "main"),
        _ask(schema_name, "Schema of the tables", "lastgood"),
    )
    named, telemetry = _proposed(_named(_ask(endpoints, ENDPOINTS, "")), None, "")
    answers = bundle.Answers(
        catalog,
        schema_name,
        {name: table or None for name, table in named},
        _ask(operators, "Group that may run the jobs and use the app", "users"),
        (mode or _mode()).value,
        telemetry,
    )
    if not answers.endpoints:
        raise ConfigError("no endpoint is named: the app would have nothing to watch")
    files = bundle.files(answers)
    changed = [path for path, text in files.items() if Path(path).exists() and Path(path).read_text() != text]
    if changed and not force:
        raise RefusedError(f"{', '.join(changed)}: there already and different; --force overwrites")
    for path, text in files.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    load(Path("conf/bundle/lastgood.yaml"))
    ready = (
        "written; next: databricks bundle validate -t dev --var warehouse_id=...; then: lastgood doctor --databricks"
    )
    print(strict_json({"written": list(files)}) if as_json else f"{', '.join(files)} are {ready}")


def doctor(
    config: ConfigFile = None,
    spark: Annotated[bool, typer.Option("--spark", help="also start Spark and write a table")] = False,
    databricks: Annotated[
        bool,
        typer.Option("--databricks", help="also look at grants, metastore, warehouse and identity on the platform"),
    ] = False,
    prometheus: Annotated[str | None, typer.Option(help="URL of the Prometheus that should scrape Lastgood")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at everything Lastgood needs and say how to mend what is not right. Exit code 1 when something fails."""
    from lastgood.cli import doctor as look
    from lastgood.cli.platform import platform

    checks = list(look.CHECKS)
    checks += [look.delta_round_trip] if spark else []
    checks += [platform] if databricks else []
    checks += [look.prometheus(prometheus)] if prometheus else []
    findings = list(look.examine(load(config), tuple(checks)))
    if as_json:
        print(strict_json([asdict(finding) for finding in findings], indent=2))
    else:
        _show(findings)
    if any(finding.health is look.Health.FAIL for finding in findings):
        raise typer.Exit(1)


def _show(findings: "Sequence[Finding]") -> None:
    """A line each, below it what mends it: no line is broken, so that a command can be copied at any width."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        console.print(
            Text.assemble(
                (f"{finding.health:<4} ", colours[finding.health]), (finding.name, "bold"), f": {finding.sentence}"
            )
        )
        if finding.health != "ok" and finding.fix:
            console.print(Text(f"     {finding.fix}"))
