"""`lastgood judge replay|calibrate|power`: the judge on history, on itself and on what-if."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lastgood.config import load

app = typer.Typer(
    no_args_is_help=True, help="Ask the judge: what it would have said, how often it errs, how fast it sees."
)
Table = Annotated[
    Path,
    typer.Argument(help="Delta or Parquet folder, Parquet, CSV or JSON-lines file: canonical records or window counts"),
]
Endpoint = Annotated[str, typer.Option(help="serving endpoint")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="settings file")]


@app.command()
def replay(
    table: Table,
    endpoint: Endpoint,
    new: Annotated[str, typer.Option(help="version to judge")],
    prior: Annotated[str, typer.Option(help="version before it")],
    window: Annotated[int, typer.Option(min=1, help="seconds per window")] = 10,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write the changes as JSON ('-': print them)")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Judge history window by window and print every change of the verdict."""
    from lastgood import replay as history

    policy = load(config).endpoint(endpoint).policy
    console = Console(stderr=json_file == Path("-"))
    found = []
    for verdict in history.replay(history.evidence(table, endpoint, new, prior, window, policy), policy):
        found.append(history.plain(verdict))
        console.print(
            f"{verdict.judged_at:%Y-%m-%d %H:%M:%S}  [bold]{verdict.state}[/]: {verdict.reason}", highlight=False
        )
    if json_file == Path("-"):
        print(json.dumps(found))
    elif json_file:
        json_file.write_text(json.dumps(found, indent=1) + "\n")
