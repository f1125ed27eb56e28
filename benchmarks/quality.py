"""Quality of answers: `python -m benchmarks.quality [--runs 200] [--only PART] [--quick]`.

Healthy runs: how often a slice is named that is none. Hurt runs: a slice of about 3% of the requests fails; minutes until it is named first, beside an
oracle that is told the slice and tests it alone at the same level. Both look every second minute. Then judged pairs (benchmarks.judged), rehearsals of 500
requests, and performance without labels beside NannyML (benchmarks.performance; `make nannyml` installs it).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from simulation.rehearsed import AS_GOOD, REQUESTS, WORSE, called_worse

from benchmarks import judged, performance
from benchmarks.measured import machine
from lastgood.judge.slices import Attribute, search

SHARES = {
    "team": [1 / 12] * 12, "language": [0.6, 0.15, 0.1, 0.07, 0.05, 0.03], "prompt tokens": [0.3, 0.3, 0.2, 0.12, 0.08],
    "env": [0.9, 0.1], "tool": [0.5, 0.2, 0.1, 0.1, 0.05, 0.05],
}  # fmt: skip
HURT = ({"language": 5}, {"language": 1, "prompt tokens": 2}, {"tool": 5, "language": 0})
"""Each about 3% of the requests."""
MINUTES, PER_MINUTE, FAILING = 120, 600, 0.01
Traffic = tuple[list[Attribute], npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.int64]]


def traffic(
    seed: int, hurt: dict[str, int] | None = None, rate: float = FAILING, minutes: int = MINUTES, per_minute: int = PER_MINUTE,
    sticky: bool = False,
) -> Traffic:  # fmt: skip
    """Requests of two versions by minute; those of the new one that are `hurt` fail at `rate`. `sticky`: each team meets one version mostly, and teams
    fail at rates of their own."""
    r = np.random.default_rng(seed)
    n = minutes * per_minute
    minute, new = np.sort(r.integers(0, minutes, n)), r.random(n) < 0.5
    codes = {name: r.choice(len(shares), n, p=shares) for name, shares in SHARES.items()}
    if sticky:
        new = r.random(n) < np.linspace(0.1, 0.9, 12)[codes["team"]]
    level = FAILING * (np.linspace(0.2, 3, 12)[codes["team"]] if sticky else 1.0)
    hit = np.all([codes[name] == value for name, value in (hurt or {"team": -1}).items()], axis=0)
    bad = r.random(n) < np.where(new & hit, rate, level)
    attributes = [
        Attribute(name, [str(i) for i in range(len(SHARES[name]))], codes[name].astype(np.int64)) for name in SHARES
    ]
    return attributes, new, bad, minute.astype(np.int64)


def until(given: Traffic, minute: int) -> Traffic:
    attributes, new, bad, minutes = given
    seen = minutes < minute
    return [Attribute(a.name, a.values, a.codes[seen]) for a in attributes], new[seen], bad[seen], minutes[seen]


def named_minute(given: Traffic, where: dict[str, str]) -> int | None:
    """The first minute after which the slice stands first; every second one is looked at."""
    for minute in range(2, MINUTES + 1, 2):
        slices = search(*until(given, minute))
        if slices and slices[0].where == where:
            return minute
    return None


def told(given: Traffic, hurt: dict[str, int]) -> Traffic:
    """The requests of the slice alone, as one attribute's value beside nothing else."""
    attributes, new, bad, minutes = given
    by_name = {attribute.name: attribute.codes for attribute in attributes}
    hit = np.all([by_name[name] == value for name, value in hurt.items()], axis=0)
    return [Attribute("slice", ["others", "it"], hit.astype(np.int64))], new, bad, minutes


def healthy(seed: int) -> bool:
    """Whether any slice is ever named of a version that hurts nobody, looked at every ten minutes."""
    given = traffic(seed)
    return any(search(*until(given, minute)) for minute in range(10, MINUTES + 1, 10))


def hurting(seed: int, number: int, rate: float) -> tuple[int | None, int | None]:
    """(minute at which the search names the slice first, minute at which the oracle does)."""
    hurt = HURT[number]
    given = traffic(seed, hurt, rate)
    return named_minute(given, {name: str(value) for name, value in hurt.items()}), named_minute(
        told(given, hurt), {"slice": "it"}
    )


def slices_named(pool: Executor, runs: int) -> dict[str, Any]:
    """Prints a row for each hurt slice and rate; runs: healthy ones, a tenth of them for each row. Returns what the JSON line says."""
    ratios: list[float] = []
    false = sum(pool.map(healthy, range(runs)))
    print("| hurt | fails at | found | median minutes | oracle | ratio |\n|---|---|---|---|---|---|")
    for number, hurt in enumerate(HURT):
        for rate in (0.1, 0.3):
            count = max(4, runs // 10)
            pairs = list(pool.map(hurting, range(1000, 1000 + count), repeat(number), repeat(rate)))
            both = [(a, b) for a, b in pairs if a is not None and b is not None]
            searched, oracle = (statistics.median(side) for side in zip(*both, strict=True)) if both else (0.0, 1.0)
            ratios += [a / b for a, b in both]
            words = ", ".join(f"{name} {value}" for name, value in hurt.items())
            print(
                f"| {words} | {rate:.0%} | {len(both)} of {count} | {searched:.0f} | {oracle:.0f} | {searched / oracle:.2f} |",
                flush=True,
            )
    return {
        "slice_minutes_ratio": round(statistics.median(ratios), 2), "false_slices": false / runs,
        "false_slices_upper95": round(float(beta.ppf(0.95, false + 1, runs - false)), 4), "slice_runs": runs,
    }  # fmt: skip


def rehearsals(pool: Executor, runs: int) -> dict[str, Any]:
    """Prints a row for each way to be worse; runs of each. Returns what the JSON line says: the least share found, and healthy versions called worse."""
    print("\n| the new version | requests | called worse |\n|---|---|---|")
    found: dict[str, float] = {}
    for words, worse in WORSE.items():
        hits = sum(pool.map(partial(called_worse, worse), range(runs), chunksize=8))
        found[words] = hits / runs
        print(f"| {words} | {REQUESTS} | {hits} of {runs} ({hits / runs:.1%}) |", flush=True)
    healthy_ones = found.pop(AS_GOOD)
    return {"rehearse_found": round(min(found.values()), 3), "rehearse_false": healthy_ones, "rehearsals": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=200, help="healthy runs of slices; five times as many of pairs and of rehearsals"
    )
    parser.add_argument("--quick", action="store_true", help="40 runs")
    parser.add_argument("--only", choices=("slices", "judged", "rehearsals", "performance"), help="this part alone")
    given = parser.parse_args()
    runs, started = 40 if given.quick else given.runs, time.monotonic()
    parts: dict[str, Callable[[Executor], dict[str, Any]]] = {
        "slices": lambda pool: slices_named(pool, runs), "judged": lambda pool: judged.figures(pool, 5 * runs),
        "rehearsals": lambda pool: rehearsals(pool, 5 * runs), "performance": lambda _: performance.figures(given.quick),
    }  # fmt: skip
    figures: dict[str, Any] = {}
    with ProcessPoolExecutor() as pool:
        for name, part in parts.items():
            if given.only in (None, name):
                print(f"\n## {name}\n")
                figures |= part(pool)
    print(f"\n{machine()}; {time.monotonic() - started:.0f} s")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
