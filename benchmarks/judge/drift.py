"""Drift called where there is none, by sample sizes, and found where there is some; Evidently's default beside it."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.signal import lfilter

from lastgood.config import Policy
from lastgood.jobs.evidently_report import opinions
from lastgood.jobs.samples import KEEP
from lastgood.judge.drift import distance

REFERENCES, CURRENTS = (200, 1000, 4800, 100_000, 5_000_000), (50, 96, 1000, 100_000, 1_000_000)
MEMORY = 0.9
SHIFTS = (0.2, 0.5, 1.0)
LIMIT = Policy().drift_limit


def sample(rng: np.random.Generator, n: int, memory: float, shift: float = 0.0) -> npt.NDArray[np.float64]:
    """Standard normal values with autocorrelation `memory`."""
    steps = rng.normal(size=n) * math.sqrt(1 - memory**2)
    steps[0] = rng.normal()
    return np.asarray(lfilter([1.0], [1.0, -memory], steps) + shift)


def ours(rng: np.random.Generator, current: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> bool:
    """As the drift job does it: at most KEEP rows of a side (a random subset, as by hash), in time order."""
    sides = []
    for side in (current, reference):
        at = np.sort(rng.choice(len(side), KEEP, replace=False)) if len(side) > KEEP else np.arange(len(side))
        sides.append((side[at].astype(object), at.tolist()))
    return distance(sides[0][0], sides[1][0], sides[0][1], sides[1][1], True).low > LIMIT


def evidently(current: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> bool:
    found = opinions(pd.DataFrame({"x": current}), pd.DataFrame({"x": reference}), ["x"], [])
    return found["x"].drifted


def measure(quick: bool) -> dict[str, Any]:
    """{"false alarms": {"reference/current/memory": {ours, evidently, runs}}, "power": {shift: ...}}."""
    rng = np.random.default_rng(17)
    out: dict[str, Any] = {"false_alarms": {}, "power": {}}
    for n in REFERENCES:
        for m in CURRENTS:
            for memory in (0.0, MEMORY):
                size = n + m
                runs = 3 if quick else (100 if size < 10_000 else 10 if size < 500_000 else 3)
                if quick and (size > 10_000 or memory == 0.0 or m == 50):
                    continue
                hits = [0, 0]
                for _ in range(runs):
                    current, reference = sample(rng, m, memory), sample(rng, n, memory)
                    hits[0] += ours(rng, current, reference)
                    hits[1] += evidently(current, reference)
                out["false_alarms"][f"{n}/{m}/{memory:g}"] = {
                    "runs": runs,
                    "ours": hits[0] / runs,
                    "evidently": hits[1] / runs,
                }
    for shift in SHIFTS:
        runs = 10 if quick else 100
        seen = [
            [ours(rng, c, r), evidently(c, r)]
            for c, r in ((sample(rng, 1000, 0.0, shift), sample(rng, 4800, 0.0)) for _ in range(runs))
        ]
        share = np.mean(seen, 0)
        out["power"][f"{shift:g}"] = {"runs": runs, "ours": float(share[0]), "evidently": float(share[1])}
    return out


def show(found: dict[str, Any], console: Console) -> None:
    """The tables for people."""
    table = Table(title="drift called on undrifted data (lastgood / Evidently's default)")
    for name in ("reference rows", "current rows", "autocorrelation", "runs", "lastgood", "Evidently"):
        table.add_column(name)
    for key, one in found["false_alarms"].items():
        table.add_row(*key.split("/"), str(one["runs"]), f"{one['ours']:.0%}", f"{one['evidently']:.0%}")
    console.print(table)
    for shift, one in found["power"].items():
        console.print(
            f"shift of {shift} standard deviations, 1,000 rows against 4,800: found {one['ours']:.0%} / {one['evidently']:.0%}"
        )
