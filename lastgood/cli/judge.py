"""`lastgood judge replay|explain|calibrate|power`: the judge on history, in figures, on itself and on what-if."""

import json
import math
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from lastgood.cli.acts import JsonFile, people, write_json
from lastgood.errors import ConfigError
from lastgood.record.verdict import Verdict
from lastgood.record.words import counted, percent
from lastgood.settings import load

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
    new: Annotated[str | None, typer.Option(help="version to judge (default: the one that appeared last)")] = None,
    prior: Annotated[str | None, typer.Option(help="version before it (default: the one that appeared before)")] = None,
    window: Annotated[int, typer.Option(min=1, help="seconds per window")] = 10,
    json_file: JsonFile = None,
    config: ConfigFile = None,
) -> None:
    """Judge history window by window and print every change of the verdict."""
    from lastgood.judge import History, changes
    from lastgood.service import replay as history

    policy = load(config).endpoint(endpoint).policy
    console = people(json_file)
    shown = []
    for verdict in changes(history.evidence(table, endpoint, new, prior, window, policy), policy, History()):
        shown.append(history.plain(verdict))
        console.print(
            f"{verdict.judged_at:%Y-%m-%d %H:%M:%S}  [bold]{verdict.state}[/]: {verdict.reason}", highlight=False
        )
    write_json(json_file, shown)


@app.command()
def explain(
    verdict: Annotated[str, typer.Argument(help="endpoint, endpoint/version, or a file with a verdict as JSON")],
    json_file: JsonFile = None,
    config: ConfigFile = None,
) -> None:
    """What a verdict rests on: each metric of both versions, how much evidence, what of it counts, and what would change it."""
    from rich.table import Table as Grid

    from lastgood.judge import explain as explained
    from lastgood.tables import measures
    from lastgood.workspace.stores import tables_of

    if Path(verdict).is_file():
        chosen = Verdict.from_json(json.loads(Path(verdict).read_text()))
    else:
        endpoint, _, version = verdict.partition("/")
        known = measures.verdicts(tables_of(load(config)), datetime.now(UTC) - timedelta(days=30))
        own = [v for v in known if v.endpoint == endpoint and version in ("", v.candidate)]
        if not own:
            raise ConfigError(f"no verdict on {verdict} in the last 30 days")
        chosen = max(own, key=lambda v: v.judged_at)
    explanation, console = explained.explain(chosen), people(json_file)
    grid = Grid(*explained.COLUMNS)
    for row in explanation.rows:
        grid.add_row(*row)
    console.print(grid)
    for line in explanation.lines:
        console.print(line, highlight=False)
    write_json(
        json_file,
        {
            "rows": [dict(zip(explained.COLUMNS, row, strict=True)) for row in explanation.rows],
            "lines": list(explanation.lines),
        },
    )


@app.command()
def calibrate(
    table: Table,
    endpoint: Endpoint,
    version: Annotated[str | None, typer.Option(help="a healthy version's history (default: all versions)")] = None,
    splits: Annotated[int, typer.Option(min=20, help="random splits per unit")] = 1000,
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="share of the pretended new version")] = 0.5,
    window: Annotated[int, typer.Option(min=1, help="seconds per window")] = 60,
    newest: Annotated[int, typer.Option(help="how many of the newest requests are used")] = 50_000,
    seed: int = 1,
    json_file: JsonFile = None,
    config: ConfigFile = None,
) -> None:
    """Split a healthy version's own history at random, by request, requester and pod, and count false rollbacks."""
    import numpy as np

    from lastgood.judge import calibrate as cal
    from lastgood.service import replay as history

    policy, console = load(config).endpoint(endpoint).policy, people(json_file)
    records = history.records(history.read(table), endpoint, version, None)
    records = records.take(np.sort(np.argsort(records.at, kind="stable")[-newest:]))
    budget, result = 1 / policy.rollback_e, {}
    console.print(
        f"{counted(len(records.at), 'request')}; budget {percent(budget)} false rollbacks; split {percent(share)}",
        highlight=False,
    )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for unit in cal.units(records):
            task = bar.add_task(f"by {unit}", total=splits)
            rate, hits = cal.measure(records, unit, policy, splits, share, window, seed, partial(bar.advance, task))
            bar.update(task, completed=splits)
            ok, many = cal.keeps(rate, budget), cal.owners(records, unit)
            offers = (
                {}
                if ok or not hits
                else cal.remedies(records, unit, policy, rate.splits, hits, budget, share, window, seed)
            )
            if 0 < many < 64 and 2**many - 2 < splits:
                console.print(f"by {unit}: only {2**many - 2} distinct splits of {many} {unit}s exist", highlight=False)
            short = not hits and not ok
            other = "; ".join(offers) or "nothing here keeps it"
            sentence = f"over the budget; instead, either of: {other}"
            sentence = "within the budget" if ok else "too few splits to tell" if short else sentence
            console.print(
                f"by {unit}: {rate.rollbacks} of {counted(rate.splits, 'split')} rolled back, {percent(rate.rate)} "
                f"(95%: {percent(rate.low)} to {percent(rate.high)}): {sentence}", highlight=False,
            )  # fmt: skip
            result[unit] = {
                "splits": rate.splits, "rollbacks": rate.rollbacks, "rate": rate.rate, "low": rate.low, "high": rate.high,
                "within_budget": ok, "remedies": {name: remedy.rate for name, remedy in offers.items()},
            }  # fmt: skip
    write_json(json_file, result)


@app.command()
def power(
    table: Annotated[Path | None, typer.Argument(help="take traffic, failures and latency from this history")] = None,
    endpoint: Annotated[str, typer.Option(help="serving endpoint")] = "",
    per_minute: Annotated[float, typer.Option(help="requests a minute, both versions")] = 600.0,
    share: Annotated[float, typer.Option(min=0.01, max=0.99, help="share of the new version")] = 0.5,
    errors: Annotated[float, typer.Option(help="share of requests that fail today")] = 0.01,
    minutes: Annotated[int, typer.Option(min=5, help="how far to look")] = 120,
    runs: int = 100,
    seed: int = 1,
    plot: Annotated[Path | None, typer.Option(help="write the plot here (PNG or SVG)")] = None,
    json_file: JsonFile = None,
    config: ConfigFile = None,
) -> None:
    """How long until a doubling of errors, or latency x 1.3, is seen with this traffic and split?"""
    import numpy as np

    from lastgood.judge import power as pw
    from lastgood.service import replay as history

    policy, console = load(config).endpoint(endpoint).policy, people(json_file)
    given = history.traffic(table, endpoint, share) if table else pw.typical(per_minute, share, errors)
    console.print(
        f"{counted(given.per_minute, 'request')} a minute, {percent(share)} to the new version, {percent(given.errors)} fail",
        highlight=False,
    )
    result, curves = {}, {}
    cases = {"errors x2": (2.0, 1.0), "errors x4": (4.0, 1.0), "latency x1.3": (1.0, 1.3)}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for name, (worse, slower) in bar.track(cases.items(), description="simulating"):
            seen = pw.minutes_to_see(given, worse, slower, policy, minutes, runs, seed)
            half, most = (float(np.sort(seen)[math.ceil(q * runs) - 1]) for q in (0.5, 0.9))
            result[name] = {"median": half, "nine_in_ten": most, "within": float(np.isfinite(seen).mean())}
            curves[name] = [float((seen <= m).mean()) for m in range(minutes + 1)]
            shown = [f"{v:.0f} min" if math.isfinite(v) else f"more than {minutes} min" for v in (half, most)]
            console.print(
                f"{name}: half the time within {shown[0]}, nine times in ten within {shown[1]}", highlight=False
            )
    if plot:
        history.draw_power(curves, plot)
    plain = {name: {k: v if math.isfinite(v) else None for k, v in figures.items()} for name, figures in result.items()}
    write_json(json_file, plain)
