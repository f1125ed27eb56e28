"""How often intervals of estimated performance hold the truth, and what the watch of the calibration says: `python -m benchmarks.performance_coverage`."""

import argparse
import json

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from benchmarks.measured import machine
from lastgood.judge.performance import CLASSIFICATION, estimate
from lastgood.judge.reference import calibrate, tally
from lastgood.judge.relation import contradiction

Floats = npt.NDArray[np.float64]
Rows = tuple[Floats, npt.NDArray[np.bool_], Floats]
SHAPES = {
    "as the reference": (5000, 1000, {}), "covariate shift": (5000, 1000, {"shift": 0.7}), "strong covariate shift": (5000, 1000, {"shift": 1.5}),
    "200 labels": (200, 1000, {}), "1,000 labels, 10,000 rows": (1000, 10_000, {}), "100 rows": (5000, 100, {}),
    "rare class (2 %)": (5000, 1000, {"base": -5.0}), "rare class, 1,000 labels": (1000, 1000, {"base": -5.0}),
    "a cause the score does not know shifts": (5000, 1000, {"hidden": 0.5}),
}  # fmt: skip
"""Name -> (labels of the reference, rows of the window, how the window differs; `base` holds for both)."""


def rows(
    r: np.random.Generator, many: int, shift: float = 0.0, base: float = -1.0, slope: float = 1.5, hidden: float = 0.0
) -> Rows:
    """Scores of an overconfident model that knows one of two causes, what it predicts, the labels."""
    x, u = r.normal(shift, 1, many), r.normal(hidden, 0.5, many)
    label = (r.random(many) < 1 / (1 + np.exp(-(base + slope * x + u)))).astype(float)
    score = 1 / (1 + np.exp(-(base * 0.5 + 2.5 * x)))
    return score, score > 0.5, label


def realised(scores: Floats, predicted: npt.NDArray[np.bool_], label: Floats) -> dict[str, float | None]:
    fine = calibrate(scores, predicted, label, cells=4000)
    return {
        each.metric: each.value
        for each in estimate(CLASSIFICATION, [fine], [tally(fine.grid, scores, predicted, label)])
    }


def coverage(name: str, runs: int) -> dict[str, list[bool]]:
    """Metric -> whether the truth lay in the interval, of the runs that gave one."""
    labels, many, differs = SHAPES[name]
    r, inside = np.random.default_rng(11), {metric: list[bool]() for metric in CLASSIFICATION}
    for _ in range(runs):
        calibration = calibrate(*rows(r, labels, base=differs.get("base", -1.0)))
        window = rows(r, many, **differs)
        truth = realised(*window)
        counts = tally(calibration.grid, window[0], window[1], np.full(many, np.nan))
        for each in estimate(CLASSIFICATION, [calibration], [counts]):
            value = truth[each.metric]
            if each.low is not None and each.high is not None and value is not None:
                inside[each.metric].append(each.low <= value <= each.high)
    return inside


def watched(runs: int, batches: int, labels: int = 3000, **differs: float) -> list[int | None]:
    """Labels until the calibration is contradicted, by batches of 50."""
    r, made = np.random.default_rng(12), list[int | None]()
    for _ in range(runs):
        calibration = calibrate(*rows(r, labels))
        seen = [tally(calibration.grid, *rows(r, 50, **differs)) for _ in range(batches)]
        if not contradiction(calibration, seen)[1]:
            made.append(None)
            continue
        made.append(next(50 * n for n in range(1, batches + 1) if contradiction(calibration, seen[:n])[1]))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--watch", action="store_true", help="the watch alone")
    given = parser.parse_args()
    lowest = covered(given.runs) if not given.watch else None
    false = watch(given.runs)
    print(f"\n{machine()}")
    print(json.dumps({
        "coverage_lowest": lowest, "false_contradictions": round(false / given.runs / 3, 4),
        "false_contradictions_upper95": round(float(beta.ppf(0.95, false + 1, 3 * given.runs - false)), 4), "runs": given.runs,
    }))  # fmt: skip


def covered(runs: int) -> float:
    """Prints the table; the lowest share of intervals that hold the truth, of shapes within the assumptions."""
    print("| shape | " + " | ".join(CLASSIFICATION) + " | numbers given |\n|---|" + "---|" * (len(CLASSIFICATION) + 1))
    lowest = 1.0
    for name in SHAPES:
        inside = coverage(name, runs)
        cells = []
        for hits in inside.values():
            hit, missed = sum(hits), len(hits) - sum(hits)
            low, high = beta.ppf([0.025, 0.975], [hit, hit + 1], [missed + 1, missed])
            cells.append(f"{np.mean(hits):.1%} ({low:.1%} to {high:.1%})" if hits else "-")
        if name != "a cause the score does not know shifts":
            lowest = min(lowest, *(float(np.mean(hits)) for hits in inside.values() if hits))
        print(
            f"| {name} | {' | '.join(cells)} | {sum(map(len, inside.values())) / runs / len(inside):.0%} |", flush=True
        )
    return round(lowest, 3)


def watch(runs: int) -> int:
    """Prints the table; how many of 3 times `runs` right calibrations were contradicted."""
    healthy = {labels: watched(runs, 40, labels, shift=0.5) for labels in (200, 1000, 3000)}
    false = sum(each is not None for taken in healthy.values() for each in taken)
    print("\n| the relation changes | contradicted within 2,000 labels | median labels |\n|---|---|---|")
    for labels, taken in healthy.items():
        print(
            f"| not (inputs shift; {labels:,} labels in the reference) | {sum(each is not None for each in taken)} of {runs} | - |"
        )
    for words, differs in {
        "by +1 in log odds": {"base": 0.0},
        "by +0.5": {"base": -0.5},
        "it weakens by a half": {"slope": 0.75},
    }.items():
        taken = [each for each in watched(runs // 5, 40, **differs) if each is not None]
        print(f"| {words} | {len(taken)} of {runs // 5} | {np.median(taken) if taken else '-'} |", flush=True)
    return false


if __name__ == "__main__":
    main()
