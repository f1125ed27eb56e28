"""All jobs, again and again, side by side: what a scheduler does, in one process with one Spark session."""

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from datetime import time as dt_time
from difflib import get_close_matches
from typing import Any

from lastgood.alerts.store import open_state
from lastgood.collectors import labels
from lastgood.collectors.freshness import freshness
from lastgood.collectors.reading import check as check_tables
from lastgood.collectors.reading import collect_all
from lastgood.errors import ConfigError, LastgoodError, TransientError
from lastgood.jobs.agents import agents
from lastgood.jobs.completeness import completeness
from lastgood.jobs.conform import conform
from lastgood.jobs.conversations import conversations
from lastgood.jobs.cost import cost
from lastgood.jobs.drift import drift
from lastgood.jobs.judge import run_judge
from lastgood.jobs.maintain import maintain
from lastgood.jobs.outcomes import outcomes
from lastgood.jobs.performance import performance
from lastgood.jobs.samples import samples
from lastgood.jobs.score import score
from lastgood.jobs.spark import session
from lastgood.jobs.windows import quality, rollup, windows
from lastgood.judge import History
from lastgood.service.tracing import spanned
from lastgood.settings import Settings
from lastgood.tables.runs import Context, Run
from lastgood.workspace.stores import tables_of

log = logging.getLogger("lastgood.jobs")
Say = Callable[[dict[str, Any]], None]


def context(settings: Settings) -> Context:
    """A job context with all tables made. Errors: ConfigError where the settings name a table that can be none."""
    check_tables(settings)
    spark = session(settings.spark)
    store = tables_of(settings)
    store.ensure(spark)
    return Context(spark, store, settings)


def judge(ctx: Context) -> list[Any]:
    """Judge now, knowing earlier rollbacks from the operational state."""
    store = open_state(ctx.settings)
    try:
        with store.read() as tx:
            known = {name: History(times) for name, times in tx.shifts().items()}
    finally:
        store.close()
    return run_judge(ctx, known)


def ask_sources(ctx: Context) -> list[Any]:
    """How old the sources of features are."""
    from lastgood.workspace.databricks import connect

    return freshness(ctx, lambda: connect(ctx.settings.workspace))


JOBS: dict[str, Callable[[Context], Any]] = {
    "collect": collect_all,
    "labels": labels.collect_all,
    "freshness": ask_sources,
    "conform": conform,
    "outcomes": outcomes,
    "windows": windows,
    "quality": quality,
    "agents": agents,
    "conversations": conversations,
    "completeness": completeness,
    "rollup": rollup,
    "performance": performance,
    "samples": samples,
    "score": score,
    "cost": cost,
    "drift": drift,
    "judge": judge,
    "maintain": maintain,
}
"""Job name -> what it runs, in the order data flows."""


REBUILT = (
    "conform",
    "windows",
    "quality",
    "agents",
    "conversations",
    "completeness",
    "rollup",
    "performance",
    "samples",
    "cost",
)
"""Jobs that can rebuild a range of time. The others say what is now."""


def known(name: str, rebuild: bool) -> None:
    """Errors: ConfigError where there is no such job (or, to `rebuild`, none that has a range of time)."""
    if name not in JOBS:
        near = get_close_matches(name, JOBS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ConfigError(f"no job {name!r}{hint} There are {', '.join(JOBS)} and all.")
    if rebuild and name not in REBUILT:
        raise ConfigError(f"job {name} has no range to rebuild; --backfill is for {', '.join(REBUILT)}")


def run_job(ctx: Context, name: str) -> dict[str, Any]:
    """Run one job; what it did as plain values. Errors: ConfigError for an unknown name, TransientError (run again)."""
    known(name, bool(ctx.span))
    started = time.monotonic()
    with spanned(f"job {name}"):
        done = JOBS[name](ctx)
    report: dict[str, Any] = {"job": name, "seconds": round(time.monotonic() - started, 2)}
    if ctx.dry_run:
        report["dry_run"] = True
    if ctx.span:
        report["range"] = [moment.isoformat() for moment in ctx.span]
    if isinstance(done, Run):
        report |= {"rows_in": done.rows_in, "rows_out": done.rows_out, "windows": done.windows}
        report |= {"quarantined": done.quarantined} if done.quarantined else {}
    elif name in ("collect", "labels"):
        report |= {"rows_in": sum(run.rows_in for run in done)}
    elif name == "freshness":
        report |= {"sources": len(done)}
    elif name == "maintain":
        report["tables"] = done
    elif name == "judge":
        verdicts = [
            {"endpoint": verdict.endpoint, "state": str(verdict.state), "reason": verdict.reason} for verdict in done
        ]
        report |= {"verdicts": verdicts}
    return report


def rebuild(ctx: Context, names: Sequence[str], span: tuple[datetime, datetime], say: Say) -> None:
    """Rebuild [from, to) day by day, saying each: a long range shows progress, and needs no more memory than a day.

    Errors: ConfigError when the range is empty.
    """
    first, last = span
    if last <= first:
        raise ConfigError(f"--backfill {first} {last}: expected FROM before TO")
    while first < last:
        day = min(last, datetime.combine(first.date(), dt_time(), UTC) + timedelta(days=1))
        for name in names:
            say(run_job(replace(ctx, span=(first, day)), name))
        first = day


def _said(error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, LastgoodError)
        else f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"
    )


def run_all(ctx: Context, names: Sequence[str], say: Say) -> None:
    """Run jobs in order, saying each. One that fails, however it does, does not hold up the others.

    Errors: the first of theirs, after all have run.
    """
    failed: list[Exception] = []
    for name in names:
        try:
            say(run_job(ctx, name))
        except Exception as error:
            failed.append(error)
            say({"job": name, "error": _said(error)})
    if failed:
        raise failed[0]


DRIFT_EVERY_S = 40.0
SLOW = ("agents", "conversations", "outcomes", "performance", "score", "drift", "completeness", "rollup")
"""What changes slowly and costs the most."""


def forever(settings: Settings, say: Say, stop: threading.Event, pause_s: float = 0.5) -> None:
    """Run all jobs until `stop`, then take in once more what has come, so that nothing is left behind."""
    ctx = context(settings)
    say({"ready": True})

    def attempt(name: str) -> None:
        try:
            say(run_job(ctx, name))
        except TransientError as error:
            say({"job": name, "again": str(error)})
        except Exception as error:
            say({"job": name, "error": _said(error)})
            if not isinstance(error, LastgoodError):
                log.exception("job %s failed", name)
                # Raises where Spark is dead: the process must end, so that somebody starts it again.
                ctx.spark.sql("SELECT 1").collect()

    def slowly() -> None:
        for name in SLOW:
            if not stop.is_set():
                attempt(name)

    with ThreadPoolExecutor(3) as pool:
        drifting, drifted_at = None, time.monotonic()
        while not stop.is_set():
            attempt("collect")
            attempt("conform")
            wait([pool.submit(attempt, name) for name in ("windows", "quality")])
            attempt("judge")
            if (drifting is None or drifting.done()) and time.monotonic() - drifted_at > DRIFT_EVERY_S:
                drifting, drifted_at = pool.submit(slowly), time.monotonic()
            stop.wait(pause_s)
    for name in ("collect", "conform", "windows"):
        say(run_job(ctx, name))


def as_line(report: dict[str, Any]) -> str:
    """One JSON line."""
    return json.dumps(report, default=str)
