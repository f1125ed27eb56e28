"""Judged answers that it takes to find a drop of five points, and how often a healthy version is blamed: part of `python -m benchmarks.quality`.

A model judges answers and is wrong one time in five: of both versions alike, or more harshly or leniently of the new one. `corrected` is what the
judge does (pairs, a fifth of them labelled); `naive` takes the model's word: means of unpaired answers by the same betting e-process.
"""

import statistics
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from simulation.judged import EQUAL, HARSH, LENIENT, World, pairs

from lastgood.judge import eprocess
from lastgood.judge.corrected import Floats, bets

WRONG = {"of both alike": EQUAL, "harsh on the new one": HARSH, "lenient on the new one": LENIENT}
DROP, TOLERANCE, E, MOST = 0.05, 0.01, 100.0, 20_000
"""What is to be found, what is tolerated, the evidence that rolls back, and pairs after which a run ends."""
HEALTHY = 5_000


def first(logs: Floats) -> int | None:
    """How many units until the evidence is E."""
    over = np.logaddexp.reduce(np.cumsum(logs, 0), 1) - np.log(logs.shape[1]) >= np.log(E)
    return int(np.argmax(over)) + 1 if over.any() else None


def corrected(world: World, n: int, seed: int) -> int | None:
    """Pairs until it is found: twice as many judged answers."""
    return first(bets(pairs(world, n, seed), TOLERANCE).logs)


def naive(world: World, n: int, seed: int) -> int | None:
    """Answers of each version until it is found, by the model's scores alone, other requests of each version (`alike` is 0)."""
    scores = pairs(World(world.wrong, world.drop, alike=0.0), n, seed).scores
    before = np.concatenate([[0.5], np.cumsum(scores.sum(1))[:-1] / (2 * np.arange(1, n))])
    new, prior = (np.stack([np.ones(n), scores[:, arm], scores[:, arm] ** 2], -1) for arm in (1, 0))
    return first(eprocess.log_e_mean(new, prior, before, TOLERANCE))


def _runs(
    pool: Executor, method: Callable[[World, int, int], int | None], world: World, n: int, runs: int
) -> list[int | None]:
    return list(pool.map(partial(method, world, n), range(runs), chunksize=4))


def figures(pool: Executor, runs: int) -> dict[str, Any]:
    """Prints a row per judge; runs: healthy ones of each, a tenth of them with a drop. Returns what the JSON line says."""
    few = max(10, runs // 10)
    best = statistics.median([n or MOST for n in _runs(pool, naive, World(drop=DROP), MOST, few)])
    print(
        "| the model is wrong | test | healthy blamed | found a drop of 5 points | median answers judged of each version | labelled |"
    )
    print("|---|---|---|---|---|---|")
    blamed, ratios, naive_frr = 0, [], 0.0
    for words, wrong in WRONG.items():
        for name, method in (("corrected", corrected), ("naive", naive)):
            false = sum(n is not None for n in _runs(pool, method, World(wrong), HEALTHY, runs))
            hits = _runs(pool, method, World(wrong, DROP), MOST, few)
            median = statistics.median([n or MOST for n in hits])
            labels = f"{median * World().chance:,.0f}" if method is corrected else "0"
            print(
                f"| {words} | {name} | {false} of {runs} | {sum(n is not None for n in hits)} of {few} | {median:,.0f} | {labels} |",
                flush=True,
            )
            if method is corrected:
                blamed += false
                ratios.append(median / best)
            else:
                naive_frr = max(naive_frr, false / runs)
    total = runs * len(WRONG)
    return {
        "frr": blamed / total, "frr_upper95": round(float(beta.ppf(0.95, blamed + 1, total - blamed)), 4), "judged_answers_ratio": round(max(ratios), 3),
        "naive_frr": naive_frr, "label_share": World().chance, "healthy_runs": total,
    }  # fmt: skip
