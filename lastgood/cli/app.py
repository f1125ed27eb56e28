"""`lastgood`: the command line. Exit codes: 0 done, 1 a verdict to act on (check), 2-5 see errors.py."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lastgood import __version__
from lastgood.cli import acts, config, data, incidents, judge, release, setup, show
from lastgood.cli.acts import ConfigFile, HtmlFile, JsonFile, people, write_json
from lastgood.errors import LastgoodError
from lastgood.service.tracing import tracing
from lastgood.settings import Mode, load

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Watches served model versions and puts the last good one back.",
)
app.add_typer(config.app, name="config")
app.add_typer(judge.app, name="judge")
app.add_typer(show.rules, name="rules")
app.add_typer(show.dashboards, name="dashboards")
acts.register(app)
incidents.register(app)
release.register(app)
setup.register(app)
data.register(app)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.command()
def serve(config: ConfigFile = None, poll_s: float = 5.0) -> None:
    """Run the service: OTLP receiver, evidence pages, incidents and rollbacks."""
    from lastgood.collectors.reading import check as check_tables
    from lastgood.service.serve import serve as run

    settings = load(config)
    check_tables(settings)
    with tracing(settings, "lastgood-serve"):
        asyncio.run(run(settings, lambda line: print(line, flush=True), poll_s, lambda: load(config)))


@app.command()
def mcp(config: ConfigFile = None) -> None:
    """Answer an assistant's questions over standard input and output (Model Context Protocol). It cannot change anything."""
    from lastgood.service.assistant import server

    server(load(config)).run()


@app.command()
def demo(
    fault: Annotated[
        str,
        typer.Option(help="errors, latency, quality, drift, stale-features or none"),
    ] = "errors",
    mode: Annotated[Mode, typer.Option(help="auto, approve (you click) or observe")] = Mode.AUTO,
    seed: int = 7,
    json_file: JsonFile = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave it running and print the URLs")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV with TIMESTAMP, ContextTokens, GeneratedTokens: real arrivals, compressed in time"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="folder for data and report (default: a new lastgood-demo-... here)"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port of the live page; 0: any that is free")] = 0,
    click: Annotated[bool, typer.Option("--click", help="with approve: the demo clicks the link itself")] = False,
    history: Annotated[
        int | None,
        typer.Option(
            help="instead: show the pages over so many made-up days (42: six weeks), without Spark, until Ctrl-C"
        ),
    ] = None,
    endpoints: Annotated[int, typer.Option(help="with --history: how many endpoints it has")] = 6,
) -> None:
    """Serve a bad model version on this machine and watch it being noticed and rolled back."""
    if history is not None:
        from lastgood.demo.weeks import Weeks

        Weeks(history, endpoints, seed, out).serve(port, lambda line: print(line, flush=True))
        return
    from lastgood.demo import Demo, Options

    outcome = Demo(Options(fault, mode, seed, keep, trace, out, port, click)).run()
    write_json(json_file, outcome)


@app.command()
def check(
    table: Annotated[
        str,
        typer.Argument(help="Delta or Parquet folder, Parquet, CSV or JSON-lines file, or a catalog name"),
    ],
    config: ConfigFile = None,
    html: HtmlFile = None,
    json_file: JsonFile = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="the endpoint's name, where the table does not say"),
    ] = None,
) -> None:
    """Judge the versions in your own inference table or request records: no server, nothing is changed."""
    from lastgood.cli.check import check as run
    from lastgood.cli.check import show

    result, console = run(table, load(config), endpoint, html), people(json_file)
    write_json(json_file, result)
    show(result, console)
    if html:
        console.print(f"report: {html}", markup=False)


def main() -> None:
    """Entry point: a user's mistake is one sentence, never a traceback."""
    try:
        app(standalone_mode=True)
    except LastgoodError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", style="red", markup=False)
        sys.exit(error.exit_code)
