"""`python -m benchmarks.judge_shapes [--quick]`: the judge on traffic of odd shapes, versions drawn at random by request and by requester.

Every shape is one trace; only the labels differ between runs, so every rollback of an unchanged trace is a false one, and so is one of
a version that is slower by what the policy tolerates. Then the drawn version is made worse: errors x4, latency x1.3.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.judge_real import worse
from benchmarks.measured import machine
from lastgood.judge.calibrate import Rate, labels
from lastgood.judge.columns import Floats, Ints
from lastgood.judge.judge import Evidence, History, first_rollback
from lastgood.judge.records import Records, columns_of
from lastgood.settings import Policy

UNITS, HOUR = ("request", "requester"), 3600.0
EDGE = "slower by what is tolerated"
CASES = {"healthy": (1.0, 1.0), EDGE: (1.0, 1.1), "errors x4": (4.0, 1.0), "latency x1.3": (1.0, 1.3)}
NULLS = ("healthy", EDGE)


@dataclass(frozen=True)
class Shape:
    """A trace: its records, width of a window, share of the new version, and the share of requests that may fail by objective."""

    name: str
    records: Records
    width: float = 10.0
    share: float = 0.5
    error_slo: float = 0.02


def trace(rng: np.random.Generator, n: int = 18_000, seconds: float = HOUR, people: int = 300, failing: float = 0.01,
          at: Floats | None = None, who: Ints | None = None, ms: Floats | None = None, bad: Floats | None = None) -> Records:  # fmt: skip
    """`n` requests in so many seconds. bad: the chance of each to fail."""
    at = np.sort(rng.uniform(0, seconds, n)) if at is None else np.sort(at)
    n = len(at)
    who = rng.integers(0, people, n) if who is None else who
    ms = 400 * np.exp(rng.normal(0, 0.35, n)) if ms is None else ms
    hit = rng.random(n) < (failing if bad is None else bad)
    unknown = np.full(n, np.nan)
    return Records(
        at, np.zeros(n, np.int64), np.where(hit, 0, -1), ("HTTP_500",), who.astype(np.int64), ms, unknown, unknown, unknown, unknown,
        np.zeros(n, np.int64), ("model",),
    )  # fmt: skip


def shapes() -> Iterator[Shape]:
    """Each from a seed of its own."""
    for seed, (name, make) in enumerate(MADE.items()):
        made = make(np.random.default_rng(seed))
        yield replace(made, name=name) if isinstance(made, Shape) else Shape(name, made)


def _storms(rng: np.random.Generator) -> Records:
    """One request in two hundred fails; its requester tries again every second or so, up to two hundred times."""
    first = trace(rng, people=2000, failing=0.005)
    hit = np.flatnonzero((first.code >= 0) & (rng.random(len(first.at)) < 0.3))
    times = np.minimum(200, np.ceil(rng.pareto(1.0, len(hit)) * 3)).astype(int)
    again = np.repeat(hit, times)
    later = first.at[again] + rng.exponential(60, len(again))
    at, who = np.concatenate([first.at, later]), np.concatenate([first.who, first.who[again]])
    bad = np.concatenate([first.code >= 0, np.ones(len(again), bool)]).astype(float)
    order = np.argsort(at)
    return trace(rng, at=at[order], who=who[order], bad=bad[order])


def _apart(rng: np.random.Generator) -> Records:
    """Requesters of very different kinds: speed between a fifth and five times, failures between never and every second request."""
    n, people = 18_000, 400
    who = np.minimum(rng.zipf(1.3, n) - 1, people - 1)
    prone = np.minimum(0.5, np.exp(rng.normal(-6, 2, people)))
    return trace(rng, who=who, ms=400 * np.exp(rng.normal(0, 0.8, people)[who] + rng.normal(0, 0.2, n)), bad=prone[who])


def _assistants(rng: np.random.Generator) -> Records:
    """As logs of language models are: Poisson bursts of sessions, lengths over three orders, time grows with the answer, failures give no token."""
    sessions = np.sort(rng.uniform(0, HOUR, 3000))
    times = rng.geometric(0.2, len(sessions))
    who = np.repeat(np.minimum(rng.zipf(1.5, len(sessions)), 900), times)
    at = np.repeat(sessions, times) + rng.exponential(120, len(who))
    order = np.argsort(at)
    n = len(at)
    made = trace(rng, at=at[order], who=who[order], failing=0.03)
    out = np.where(made.code >= 0, 0, np.ceil(np.exp(rng.normal(5, 1.3, n))))
    ms = (300 + 25 * out) * np.exp(rng.normal(0, 0.3, n))
    return replace(made, latency_ms=ms, tokens_in=np.ceil(np.exp(rng.normal(5.5, 1.5, n))), tokens_out=out)


def _outages(rng: np.random.Generator) -> Records:
    """Three outages of some minutes, of whatever both versions need: nine of ten requests fail, the others take five times as long."""
    at = np.sort(rng.uniform(0, HOUR, 18_000))
    out = ((at > 600) & (at < 780)) | ((at > 1500) & (at < 1560)) | ((at > 2400) & (at < 2700))
    return trace(rng, at=at, ms=400 * np.exp(rng.normal(0, 0.35, len(at)) + 1.6 * out), bad=np.where(out, 0.9, 0.01))


def _whole_seconds(rng: np.random.Generator) -> Records:
    """Batches: every twenty seconds two hundred requests with the same time."""
    at = np.repeat(np.sort(rng.integers(0, 3600, 150)).astype(float), rng.poisson(120, 150))
    return trace(rng, at=at)


def _two_weeks(rng: np.random.Generator) -> Shape:
    day = 86_400.0
    at = rng.uniform(0, 14 * day, 60_000)
    at = at[rng.random(len(at)) < 0.5 + 0.45 * np.sin(at / day * 2 * np.pi)]
    return Shape("", trace(rng, at=at, people=2000), width=60.0)


def _getting_slower(rng: np.random.Generator) -> Records:
    at = np.sort(rng.uniform(0, HOUR, 18_000))
    return trace(rng, at=at, ms=400 * np.exp(rng.normal(0, 0.35, len(at)) + at / HOUR), bad=0.005 + 0.03 * at / HOUR)


MADE: dict[str, Callable[[np.random.Generator], Records | Shape]] = {
    "even": trace,
    "whole milliseconds, many equal": lambda rng: trace(rng, ms=np.round(5 * np.exp(rng.normal(0, 0.5, 18_000)))),
    "one latency only": lambda rng: trace(rng, ms=np.full(18_000, 100.0)),
    "heavy tail (Pareto 1.1)": lambda rng: trace(rng, ms=50 * (1 + rng.pareto(1.1, 18_000))),
    "two humps (cache)": lambda rng: trace(
        rng, ms=np.where(rng.random(18_000) < 0.6, 20, 1500) * np.exp(rng.normal(0, 0.2, 18_000))
    ),
    "30% fail": lambda rng: Shape("", trace(rng, failing=0.3), error_slo=0.5),
    "nothing fails": lambda rng: trace(rng, failing=0.0),
    "one requester sends 60%": lambda rng: trace(
        rng, who=np.where(rng.random(18_000) < 0.6, 0, rng.integers(1, 300, 18_000))
    ),
    "five requesters": lambda rng: trace(rng, people=5),
    "each requester once": lambda rng: trace(rng, who=rng.permutation(18_000)),
    "requesters of different kinds": _apart,
    "retry storms": _storms,
    "like a language model's log": _assistants,
    "bursts in whole seconds": _whole_seconds,
    "outages of both": _outages,
    "slower and worse by the hour": _getting_slower,
    "ten minutes": lambda rng: trace(rng, n=6000, seconds=600),
    "two weeks, day and night": _two_weeks,
    "200 requests": lambda rng: trace(rng, n=200, failing=0.05),
    "the new version gets 5%": lambda rng: Shape("", trace(rng, n=36_000), share=0.05),
}


def found_after(shape: Shape, given: Records) -> float:
    """Minutes from the first request until the judge rolls back, inf for never."""
    policy = Policy(error_slo=shape.error_slo)
    cols = columns_of(given, shape.width)
    _, t = first_rollback(Evidence("shape", "2", "1", cols, round(shape.width)), policy, History())
    return math.inf if t is None else (cols.times[t] + shape.width - cols.times[0]) / 60


def measure(shape: Shape, unit: str, case: str, runs: int) -> dict[str, Any]:
    took = []
    for i in range(runs):
        rng = np.random.default_rng([UNITS.index(unit), i])
        drawn = shape.records.labelled(labels(shape.records, unit, shape.share, rng))
        took.append(found_after(shape, worse(drawn, *CASES[case], rng)))
    rate = Rate(runs, int(np.isfinite(took).sum()))
    half = float(np.median(took))
    return {
        "runs": runs, "rollbacks": rate.rollbacks, "low": rate.low, "high": rate.high,
        "median_minutes": half if math.isfinite(half) else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.judge_shapes")
    parser.add_argument("--quick", action="store_true", help="few runs, about a minute")
    parser.add_argument(
        "--runs", type=int, default=100, help="random labellings of a healthy trace, per shape and unit"
    )
    parser.add_argument("--keep", type=Path, help="file of finished shapes: go on from there")
    options = parser.parse_args()
    started, console = time.monotonic(), Console(width=170)
    nulls, others = (2, 1) if options.quick else (options.runs, max(10, options.runs // 5))
    found: dict[str, dict[str, Any]] = {}
    if options.keep and options.keep.exists():
        found = json.loads(options.keep.read_text())
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for shape in bar.track(list(shapes()), description="shapes"):
            if shape.name not in found:
                cells = [(u, c, nulls if c in NULLS else others) for u in UNITS for c in CASES]
                found[shape.name] = {f"{u}; {c}": measure(shape, u, c, runs) for u, c, runs in cells}
                if options.keep:
                    options.keep.write_text(json.dumps(found))
    table = Table(
        title="rollbacks of a healthy version / of one slower by 10% / errors x4 / latency x1.3 (median minutes), by how versions are drawn"
    )
    for column in ("shape", *UNITS):
        table.add_column(column)
    for name, cells in found.items():
        rows = []
        for unit in UNITS:
            null, edge, *regressed = (cells[f"{unit}; {case}"] for case in CASES)
            said = [f"{one['rollbacks']} of {one['runs']}" for one in (null, edge)]
            for one in regressed:
                took = "-" if one["median_minutes"] is None else f"{one['median_minutes']:.1f}"
                said.append(f"{one['rollbacks']} of {one['runs']} ({took})")
            rows.append(" / ".join(said))
        table.add_row(name, *rows)
    console.print(table)
    totals: dict[str, dict[str, float]] = {}
    for unit in UNITS:
        for case in NULLS:
            null = [cells[f"{unit}; {case}"] for cells in found.values()]
            whole = Rate(sum(v["runs"] for v in null), sum(v["rollbacks"] for v in null))
            worst = max(v["rollbacks"] / v["runs"] for v in null)
            totals[f"{unit}; {case}"] = {"runs": whole.splits, "rate": whole.rate, "high": whole.high, "worst": worst}
            said = f"{whole.rollbacks} of {whole.splits} rolled back (95%: up to {whole.high:.2%}), worst shape {worst:.1%}"
            console.print(f"by {unit}, {case}: {said}")
    console.print(f"{machine()}; {time.monotonic() - started:.0f} s")
    print(json.dumps({"frr": totals, "shapes": found}))


if __name__ == "__main__":
    main()
