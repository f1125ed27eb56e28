"""`lastgood check`: the main job on a user's own table, no server, nothing changed: record -> windows -> drift -> verdict."""

import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lastgood.cli.check_paths import Facts, Job, in_catalog, on_one_machine, with_spark
from lastgood.errors import ConfigError
from lastgood.judge import Drifted, Evidence, History, Verdict, judge
from lastgood.judge.intervals import rate_interval
from lastgood.judge.ledger import Pair
from lastgood.record.metrics import BY_NAME, summary
from lastgood.record.windows import Counts, merge
from lastgood.record.words import percent
from lastgood.settings import Settings


def check(table: str, settings: Settings, endpoint: str | None = None, html: Path | None = None) -> dict[str, Any]:
    """Figures, drift and verdict per endpoint of a table (see README for the fields); writes `html` when given.

    Files, folders, object stores and tables of Unity Catalog of at most MOST_ROWS rows are read by this process and its children; a table of
    spans, and what does not fit, go to Spark. Errors: ConfigError when the table cannot be read or holds no usable request.
    """
    with (
        _steps() as say,
        tempfile.TemporaryDirectory(prefix="lastgood-check-") as scratch,
        _no_collections(),
    ):
        job = Job(table, settings, endpoint or _named_after(table), Path(scratch), say, bool(html))
        facts = on_one_machine(job) or with_spark(job)
        if not facts.windows:
            sentence = "; ".join(_aside(facts.reasons, facts.first)) or "the table is empty"
            raise ConfigError(f"{table}: no usable request among its rows ({sentence})")
        job.say("judging")
        result = _result(table, facts, settings)
    if html:
        from lastgood.cli.check_page import page

        html.write_text(page(result, facts, settings))
    return _plain(result)


def _named_after(table: str) -> str:
    """The endpoint where neither the table nor a person names it: the file's name, or the prefix that the platform gave its payload table."""
    if in_catalog(table):
        return table.rpartition(".")[2].removesuffix("_payload")
    return Path(table.rstrip("/")).stem


@contextmanager
def _no_collections() -> Iterator[None]:
    """What is made of one table is no garbage, and looking for it doubles the time. The caller's process is as before afterwards."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _steps() -> Iterator["_Steps"]:
    """Where people see what is being done: a line that moves, or a line a step where there is no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Steps(lambda what: print(f"lastgood check: {what}", file=sys.stderr, flush=True))
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        step = bar.add_task("")
        yield _Steps(lambda what: bar.update(step, description=what), moves=True)


class _Steps:
    """Tells what is being done, and how many rows are; `moves`: each may overwrite the one before it."""

    def __init__(self, tell: Callable[[str], None], moves: bool = False) -> None:
        self._tell, self._moves, self._rows, self._told = tell, moves, 0, 0

    def __call__(self, what: str) -> None:
        self._tell(what)

    def rows(self, more: int, of: int | None) -> None:
        self._rows += more
        if not self._moves and self._rows < self._told + ROWS_A_LINE:
            return
        self._told = self._rows
        whole = f" of {of:,}" if of and self._rows <= of else ""
        self(f"counting: {self._rows:,}{whole} rows")


def _aside(reasons: Mapping[str, int], first: Mapping[str, str]) -> list[str]:
    return [f"{number} x {why}{f', first in {first[why]}' if why in first else ''}" for why, number in reasons.items()]


def _result(table: str, facts: Facts, settings: Settings) -> dict[str, Any]:
    windows, chosen, drifted = facts.windows, facts.chosen, facts.drifted
    endpoints = []
    width = timedelta(seconds=settings.window_s)
    for name in sorted({window.endpoint for window in windows}):
        own = [window for window in windows if window.endpoint == name]
        versions = sorted({window.model_version for window in own})
        moved = [row for row in drifted if row["endpoint"] == name]
        verdict: Verdict | None = None
        if pair := chosen.get(name):
            now = max(window.start for window in own) + width
            verdict = judged(name, pair, own, moved, settings, now)
        endpoints.append(
            {
                "endpoint": name,
                "versions": {v: _version([window for window in own if window.model_version == v]) for v in versions},
                "drift": moved,
                "verdict": verdict,
            }
        )
    return {
        "table": table, "kind": facts.kind, "read": facts.read, "rows": facts.rows, "rejected": dict(facts.reasons),
        "rejected_first": dict(facts.first), "notes": facts.notes,
        "endpoints": endpoints,
    }  # fmt: skip


def judged(
    name: str, pair: Pair, own: Sequence[Counts], moved: Sequence[Mapping[str, Any]], settings: Settings, now: datetime
) -> Verdict:
    """The verdict on an endpoint at a moment, from its windows that ended until then and its rows of drift."""
    until = now - timedelta(seconds=settings.window_s)
    shown = [
        window
        for window in own
        if window.model_version in (pair.candidate, pair.prior) and pair.since <= window.start <= until
    ]
    drifts = [
        Drifted(*(row[k] for k in ("model_version", "against", "kind", "column", "distance", "low")))
        for row in moved
        if row["drifted"]
    ]
    evidence = Evidence(name, pair.candidate, pair.prior, shown, settings.window_s, drifts)
    return judge(evidence, settings.endpoint(name).policy, History(), now)


def _version(windows: Sequence[Counts]) -> dict[str, Any]:
    """Figures of one version; `completeness`: share of minutes between its first and last request that have any."""
    total = merge(windows)
    bad = rate_interval(float(total.rows), total.failed * total.rows / total.requests if total.requests else 0.0)
    starts = sorted({window.start for window in windows})
    return {
        **summary(windows),
        "error_rate_low": bad[1] if bad else None,
        "error_rate_high": bad[2] if bad else None,
        "error_codes": dict(total.errors),
        "first": starts[0],
        "last": starts[-1],
        "rows": total.rows,
        "sampled_share": total.rows / total.requests if total.requests else None,
        "with_output_share": total.quality.get("answers", 0.0) / max(1.0, total.requests - total.failed),
    }


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """JSON values only."""

    def show(value: Any) -> Any:
        return (
            asdict(value)
            if isinstance(value, Verdict)
            else value.isoformat()
            if isinstance(value, datetime)
            else str(value)
        )

    plain: dict[str, Any] = json.loads(json.dumps(result, default=show), parse_constant=lambda _: None)
    return plain


ROWS_A_LINE = 1_000_000
"""Rows between two lines where there is no terminal."""
HEADER = (
    "version",
    "requests",
    "p50",
    "p95",
    "p99",
    "errors (95%)",
    "tokens in/out",
    "feature age p95",
    "bad answers",
    "seen",
)


def version_row(version: str, figures: Mapping[str, Any]) -> list[str]:
    def shown(name: str) -> str:
        return BY_NAME[name].show(figures.get(name))

    codes = ", ".join(
        f"{code} {n:.0f}" for code, n in sorted(figures["error_codes"].items(), key=lambda kv: -kv[1])[:3]
    )
    low, rate, high = (percent(figures[name]) for name in ("error_rate_low", "error_rate", "error_rate_high"))
    rate = f"{rate} ({low}-{high}) {codes}".strip()
    seen = (
        f"{percent(figures['sampled_share'])} of requests logged, {percent(figures['with_output_share'])} with output"
    )
    plain = (shown(name) for name in ("requests", "p50_ms", "p95_ms", "p99_ms"))
    tokens = f"{shown('tokens_in')}/{shown('tokens_out')}"
    return [version, *plain, rate, tokens, shown("feature_age_p95_ms"), shown("bad_answers"), seen]


def opinion(row: Mapping[str, Any]) -> str:
    score = row["evidently_score"]
    return (
        "-" if row["evidently_method"] is None or score is None else f"{row['evidently_method']}: {_two_digits(score)}"
    )


def _two_digits(score: float) -> str:
    return "under 0.0001" if 0 < score < 0.0001 else f"{score:.2g}"


def _distance(row: Mapping[str, Any]) -> str:
    if row["distance"] is None:
        return f"- ({row['method']})"
    return f"{row['distance']:.3f} (95% sure of {row['low']:.3f} or more)"


def _drift_rows(moved: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    ordered = sorted(moved, key=lambda row: (not row["drifted"], -(row["distance"] or 0.0)))
    return [
        [
            row["model_version"], row["against"], row["kind"], row["column"], _distance(row),
            "drifted" if row["drifted"] else "", opinion(row),
        ]
        for row in ordered[:20]
    ]  # fmt: skip


DRIFT_HEADER = ("version", "against", "kind", "column", "distance", "", "Evidently")


def show(result: Mapping[str, Any], console: Console) -> None:
    """Print a result for people."""
    plain: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
    console.print(f"{result['table']} ({result['kind']}; {result['read']})", **plain)
    asides = [f"set aside: {line}" for line in _aside(result["rejected"], result["rejected_first"])]
    for line in (*result["notes"], *asides):
        console.print(f"  {line}", style="yellow", **plain)
    for endpoint in result["endpoints"]:
        for title, header, rows in (
            (endpoint["endpoint"], HEADER, [version_row(v, f) for v, f in endpoint["versions"].items()]),
            ("drift", DRIFT_HEADER, _drift_rows(endpoint["drift"])),
        ):
            table = Table(title=Text(title), title_justify="left")
            for name in header:
                table.add_column(name)
            for row in rows:
                table.add_row(*map(Text, row))
            if rows:
                console.print(table)
        if verdict := endpoint["verdict"]:
            console.print(f"verdict on {verdict['candidate']}: {verdict['state']}: {verdict['reason']}\n", **plain)
