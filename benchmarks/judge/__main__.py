"""`python -m benchmarks.judge [--quick]`: the table, plots with --plots DIR, and last one line of JSON."""

import argparse
import json
import math
import os
import time
import warnings
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import beta

from benchmarks.judge import drift, oracle, ours, promises, sticky, week, world
from benchmarks.judge.rivals import RIVALS, STREAMED, first, series
from benchmarks.judge.traffic import FAILING, HEALTHY, SCENARIOS, SLOW, Floats, Regression, Scenario, simulate
from benchmarks.measured import machine
from lastgood.settings import Policy

POLICY = Policy()
SPLITS = (0.5, 0.1)
CASES = {"healthy": HEALTHY, "errors x4": FAILING, "latency x1.3": SLOW}
OURS, HOUR, TEN_SECONDS = "lastgood", 60.0, "ten-second windows"


def upper(hits: int, runs: int) -> float:
    """Upper limit of a one-sided 95% Clopper-Pearson interval."""
    return 1.0 if hits >= runs else float(beta.ppf(0.95, hits + 1, runs - hits))


def minutes(one: Scenario, split: float, what: Regression, runs: int, seed: int, per: int) -> dict[str, Floats]:
    """Minutes from the onset until each method rolls back [runs]. per: windows a minute."""
    rng = np.random.default_rng(seed)
    if one.sticky:
        found = [sticky.records(one, split, what, rng) for _ in range(runs)]
        mine = np.array([sticky.judged(r, POLICY, 60.0 / per) for r in found])
        traffic = sticky.traffic(found, one.minutes)
        nameless = np.array([sticky.judged(r, POLICY, 60.0, by_requester=False) for r in found[:20]])
        more = {"lastgood, requesters unknown": nameless}
    else:
        traffic, more = simulate(one, split, what, runs, rng, per), {}
        mine = ours.judge(traffic, POLICY, 125)
    seen = series(traffic)
    out = {OURS: mine} | {name: first(rule(seen)) for name, rule in RIVALS.items()} | more
    return {name: v - one.onset if what is not HEALTHY else v for name, v in out.items()}


def cell(found: Floats, what: str) -> dict[str, float]:
    """A rate with its upper limit for healthy runs; power within the hour and median minutes for regressed ones."""
    hits = (
        int((np.isfinite(found) & (found > 0) & (found <= HOUR)).sum())
        if what != "healthy"
        else int(np.isfinite(found).sum())
    )
    if what == "healthy":
        return {"runs": len(found), "frr": hits / len(found), "upper95": upper(hits, len(found))}
    real = found[found > 0]  # a rollback before the onset is a false one, not a fast one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        median = float(np.median(real)) if len(real) else math.inf
    return {"runs": len(found), "power": hits / len(found), "median_minutes": median}


def whole_cell(one: Scenario, split: float, what: str, runs: int, seed: int) -> dict[str, dict[str, float]]:
    """method -> figures of one cell."""
    # looks every minute at healthy runs, every 20 s at regressed ones, and every 10 s (as the service does) in one scenario
    per = 6 if one.name == TEN_SECONDS else 1 if what == "healthy" else 3
    parts = [minutes(one, split, CASES[what], min(500, runs - i), 1000 * seed + i, per) for i in range(0, runs, 500)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: cell(found, what) for name, found in joined.items()}


def measure(quick: bool, kept: Path | None, pool: Executor) -> dict[str, Any]:
    """scenario -> split -> case -> method -> figures. `kept`: a file of finished cells, so that a long run may be done in pieces."""
    runs = dict.fromkeys(CASES, 30 if quick else 500) | {"healthy": 140 if quick else 2000}
    cells = [(one, split, what) for one in SCENARIOS for split in SPLITS for what in CASES]
    keys = [f"{one.name}, {split:.0%}, {what}" for one, split, what in cells]
    done: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    asked = {
        pool.submit(whole_cell, *given, runs[given[2]], seed): key
        for seed, (given, key) in enumerate(zip(cells, keys, strict=True))
        if key not in done
    }
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for future in bar.track(as_completed(asked), total=len(asked), description="scenarios"):
            done[asked[future]] = future.result()
            if kept:
                kept.write_text(json.dumps(done))
    out: dict[str, Any] = {}
    for (one, split, what), key in zip(cells, keys, strict=True):
        out.setdefault(one.name, {}).setdefault(f"{split:.0%}", {})[what] = done[key]
    return out


def world_cells(quick: bool, kept: Path | None, pool: Executor) -> dict[str, dict[str, float]]:
    """scenario of benchmarks.judge.world -> false rollbacks of healthy runs with their upper limit, pages of them, share of bad ones found."""
    runs, step = (10, 10) if quick else (500, 50)
    done: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    asked = {
        pool.submit(_world_part, name, bad, first, step): f"{name}, {bad}, {first}"
        for name in world.SCENARIOS
        for bad in (False, True)
        for first in range(0, runs, step)
        if f"{name}, {bad}, {first}" not in done
    }
    with Progress(console=Console(stderr=True), transient=True) as bar:
        for future in bar.track(as_completed(asked), total=len(asked), description="the world"):
            done[asked[future]] = future.result()
            if kept:
                kept.write_text(json.dumps(done))
    cells = {}
    for name in world.SCENARIOS:
        sums = [np.sum([done[f"{name}, {bad}, {first}"] for first in range(0, runs, step)], 0) for bad in (False, True)]
        hits, paged, found = int(sums[0][0]), int(sums[0][1]), int(sums[1][0])
        cells[name] = {
            "runs": runs,
            "frr": hits / runs,
            "upper95": upper(hits, runs),
            "paged": paged / runs,
            "found": found / runs,
        }
    return cells


def _world_part(name: str, bad: bool, first: int, runs: int) -> tuple[int, int]:
    results = [world.run(name, bad, seed) for seed in range(first, first + runs)]
    return sum(hit for hit, _ in results), sum(paged for _, paged in results)


def ratios(found: dict[str, Any]) -> dict[str, Any]:
    """scenario -> split -> case -> (minutes that information allows, ours / them)."""
    out: dict[str, Any] = {}
    for one in SCENARIOS:
        for split in SPLITS if one.name in found and not one.sticky else ():
            least = oracle.limits(one, split, POLICY)
            for what in CASES:
                if what != "healthy":
                    took = found[one.name][f"{split:.0%}"][what][OURS]["median_minutes"]
                    cell = {"limit": least[what], "ratio": took / least[what]}
                    out.setdefault(one.name, {}).setdefault(f"{split:.0%}", {})[what] = cell
    return out


def summary(found: dict[str, Any], weeks: dict[str, float]) -> dict[str, Any]:
    """The figures that are asked for. Power and minutes are of the regressed cells at 10 requests/s with requests drawn one by one: minutes
    are the median of their medians, and the worst cell beside it. Ratios to the limit are of even traffic, for the split of 50%, in
    ten-second windows for latency (a look every ten seconds)."""
    nulls = [s[split]["healthy"][OURS] for s in found.values() for split in s]
    busy = [one.name for one in SCENARIOS if one.per_minute >= 600 and not one.sticky]
    cells = {s: [found[n][s][what][OURS] for n in busy for what in CASES if what != "healthy"] for s in ("50%", "10%")}
    times = {s: [c["median_minutes"] for c in cells[s]] for s in cells}
    least = ratios(found)
    quick, thin = found[TEN_SECONDS], found["12 requests a minute"]
    return {
        "max_frr": max(c["frr"] for c in nulls),
        "max_frr_upper95": max(c["upper95"] for c in nulls),
        "min_power": min(c["power"] for split in cells.values() for c in split),
        "median_minutes_50_50": float(np.median(times["50%"])),
        "median_minutes_10_90": float(np.median(times["10%"])),
        "worst_cell_minutes_50_50": max(times["50%"]),
        "worst_cell_minutes_10_90": max(times["10%"]),
        "latency_minutes_50_50": quick["50%"]["latency x1.3"][OURS]["median_minutes"],
        "latency_minutes_10_90": quick["10%"]["latency x1.3"][OURS]["median_minutes"],
        "latency_thin_power_50": thin["50%"]["latency x1.3"][OURS]["power"],
        "latency_thin_power_10": thin["10%"]["latency x1.3"][OURS]["power"],
        "ratio_to_limit_latency": least[TEN_SECONDS]["50%"]["latency x1.3"]["ratio"],
        "ratio_to_limit_errors": least["iid"]["50%"]["errors x4"]["ratio"],
        "week_frr": weeks["frr"],
        "week_frr_upper95": weeks["upper95"],
        "week_runs": weeks["runs"],
        "limits": least,
        "scenarios": found,
    }


def _row(method: str, found: dict[str, Any], split: str) -> list[str]:
    row = [method]
    for one in found.values():
        cells = one[split]
        if method not in cells["healthy"]:
            row.append("-")
            continue
        null, power = cells["healthy"][method], [cells[w][method] for w in CASES if w != "healthy"]
        times = " / ".join(
            f"{p['median_minutes']:.1f}" + (f" ({p['power']:.0%})" if p["power"] < 0.995 else "")
            if math.isfinite(p["median_minutes"])
            else f"- ({p['power']:.0%})"
            for p in power
        )
        row.append(f"{null['frr']:.2%}\n{times}")
    return row


def _limit(cells: dict[str, Any] | None) -> str:
    """Minutes that information allows, by case, and the ratio to them."""
    return "-" if not cells else " / ".join(f"{c['limit']:.1f} ({c['ratio']:.1f})" for c in cells.values())


def show(found: dict[str, Any], totals: dict[str, Any], console: Console) -> None:
    """The tables for people."""
    methods = list(dict.fromkeys(m for s in found.values() for split in s.values() for m in split["healthy"]))
    for split in ("50%", "10%"):
        table = Table(
            title=f"new version gets {split}: false rollbacks of a healthy version; minutes to errors x4 / latency x1.3"
        )
        for name in ("method", *found):
            table.add_column(name)
        for method in methods:
            table.add_row(*_row(method, found, split))
        table.add_row(
            "what information allows (ours / that)",
            *(_limit(totals["limits"].get(name, {}).get(split)) for name in found),
        )
        console.print(table)
    console.print(
        f"a week of looks every minute, 60 requests a minute, {totals['week_runs']} runs: {totals['week_frr']:.2%} false "
        f"rollbacks (upper 95% limit {totals['week_frr_upper95']:.2%})"
    )
    console.print(f"streaming detectors: first {STREAMED} runs of each 500. {machine()}")


def show_world(worlds: dict[str, dict[str, float]], paged: dict[str, float], console: Console) -> None:
    """The table of the world's scenarios, and how often an endpoint is paged for nothing."""
    shown = Table(title="the world: healthy runs rolled back (upper 95%) and paged, bad ones found")
    for name in ("scenario", "runs", "false rollbacks", "paged", "found"):
        shown.add_column(name)
    for name, one in worlds.items():
        shown.add_row(
            name,
            f"{one['runs']}",
            f"{one['frr']:.1%} ({one['upper95']:.1%})",
            f"{one['paged']:.1%}",
            f"{one['found']:.1%}",
        )
    console.print(shown)
    console.print(
        f"false pages in 90 days: {paged['pages']:.3f} ({paged['by_history']:.3f} by history, {paged['by_rollout']:.3f} a rollout)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.judge")
    parser.add_argument("--quick", action="store_true", help="few runs, about a minute")
    parser.add_argument("--keep", type=Path, help="file of finished cells: go on from there")
    parser.add_argument("--plots", type=Path, help="folder for plots")
    parser.add_argument("--promises", action="store_true", help="only what the documents promise of slow cases")
    options = parser.parse_args()
    if options.promises:
        promises.main()
        return
    started = time.monotonic()
    kept = options.keep and options.keep.with_suffix(".drift.json")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        weekly = pool.submit(week.measure, 20 if options.quick else 300, POLICY)
        pages = pool.submit(promises.false_pages, 20 if options.quick else 300, POLICY)
        worlds = world_cells(options.quick, options.keep and options.keep.with_suffix(".world.json"), pool)
        drifting = pool.submit(drift.measure, options.quick, kept)
        found = measure(options.quick, options.keep, pool)
        weeks, drifts, paged = weekly.result(), drifting.result(), pages.result()
    weeks["upper95"] = upper(int(weeks["hits"]), int(weeks["runs"]))
    totals = summary(found, weeks)
    totals["false_pages_90_days"], totals["pages"] = paged["pages"], paged
    totals["world"], totals["world_max_frr"] = worlds, max(cell["frr"] for cell in worlds.values())
    totals["world_max_upper95"] = max(cell["upper95"] for cell in worlds.values())
    totals["world_min_found"] = min(cell["found"] for cell in worlds.values())
    console = Console(width=220)
    show(found, totals, console)
    show_world(worlds, paged, console)
    totals["oracle_minutes"] = {
        one.name: {
            f"{split:.0%}": oracle.oracle(one, split, POLICY, 10 if options.quick else 100, 3) for split in SPLITS
        }
        for one in SCENARIOS
        if one.per_minute >= 600 and not one.sticky
    }
    console.print(
        "an oracle's median minutes to errors x4 (50% / 10%): "
        + "; ".join(
            f"{name} {' / '.join(f'{v:.1f}' for v in found.values())}"
            for name, found in totals["oracle_minutes"].items()
        )
    )
    totals["drift"] = drifts
    drift.show(totals["drift"], console)
    if options.plots:
        from benchmarks.judge.plots import draw

        draw(found, options.plots)
    totals["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(_finite(totals)))


def _finite(value: Any) -> Any:
    """JSON knows no infinity: never is null."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
