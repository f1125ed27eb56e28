"""Drift called where there is none, by sample sizes, and found where there is some; Evidently's default beside it."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.signal import lfilter

from lastgood.jobs.evidently_report import opinions
from lastgood.jobs.sampling import KEEP
from lastgood.judge.calibrate import Rate
from lastgood.judge.drift import distance
from lastgood.settings import Policy

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


def runs(size: int, quick: bool) -> tuple[int, int]:
    """How often a cell is run (lastgood, Evidently: it looks at every row, up to 13 s a run)."""
    if quick:
        return 20, 3
    return (
        200 if size < 5_000_000 else 100,
        100 if size < 10_000 else 20 if size < 500_000 else 4 if size < 5_000_000 else 1,
    )


def share(hits: int, count: int) -> dict[str, float]:
    rate = Rate(count, hits)
    return {"runs": count, "rate": rate.rate, "low": rate.low, "high": rate.high}


def opinion(
    rng: np.random.Generator, n: int, m: int, memory: float, shift: float, often: tuple[int, int]
) -> dict[str, Any]:
    """How often drift is called: m rows, moved by `shift`, against n."""
    hits = [0, 0]
    for i in range(max(often)):
        current, reference = sample(rng, m, memory, shift), sample(rng, n, memory)
        hits[0] += i < often[0] and ours(rng, current, reference)
        hits[1] += i < often[1] and evidently(current, reference)
    return {"ours": share(hits[0], often[0]), "evidently": share(hits[1], often[1])}


def measure(quick: bool, kept: Path | None = None) -> dict[str, Any]:
    """{"reference/current/memory/shift": {ours, evidently}}. `kept`: a file of finished cells, see benchmarks.judge."""
    cells = [(n, m, memory, 0.0) for n in REFERENCES for m in CURRENTS for memory in (0.0, MEMORY)]
    cells = [one for one in cells if not quick or (one[1] in (96, 1000) and one[0] < 10_000 and one[2])]
    cells += [(4800, 1000, 0.0, shift) for shift in SHIFTS]
    done: dict[str, Any] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for seed, (n, m, memory, shift) in enumerate(cells):
        key = f"{n}/{m}/{memory:g}/{shift:g}"
        if key not in done:
            done[key] = opinion(np.random.default_rng([17, seed]), n, m, memory, shift, runs(n + m, quick))
            if kept:
                kept.write_text(json.dumps(done))
    return done


def show(found: dict[str, Any], console: Console) -> None:
    """The tables for people."""
    table = Table(title="drift called (runs, 95% limits)")
    for name in ("reference rows", "current rows", "autocorrelation", "shift (sd)", "lastgood", "Evidently's default"):
        table.add_column(name)
    for key, one in found.items():
        said = [f"{v['rate']:.0%} of {v['runs']} ({v['low']:.1%} to {v['high']:.1%})" for v in one.values()]
        table.add_row(*key.split("/"), *said)
    console.print(table)
