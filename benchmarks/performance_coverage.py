"""How often intervals of estimated performance hold the truth, and what the watch of the calibration says: `python -m benchmarks.performance_coverage`."""

import argparse
import json
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from benchmarks.measured import machine
from lastgood.judge import losses
from lastgood.judge.days import FELL_DAYS, Counted, days, worse
from lastgood.judge.performance import CLASSIFICATION, LOSSES, estimate
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
    parser.add_argument("--losses", action="store_true", help="regressors alone")
    parser.add_argument("--alert", action="store_true", help="the alert alone")
    given = parser.parse_args()
    if given.losses or given.alert:
        (of_losses if given.losses else alerted)(given.runs)
        print(f"\n{machine()}")
        return
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


def numbers(r: np.random.Generator, many: int, shift: float) -> tuple[Floats, Floats, Floats]:
    """Inputs, predictions and truths of a regressor that errs more where its input is large."""
    x = r.normal(shift, 1, many)
    return np.stack([x, 2 * x], 1), 2 * x, 2 * x + r.normal(0, 1, many) * np.exp(0.3 * np.clip(x, -2, 2))


def of_losses(runs: int) -> None:
    """Prints, of windows of 1,000 rows, how often the interval holds the real loss, and how far the estimates are from it on average."""
    print("| labels | metric | inputs shift by | in the interval | estimate / truth |\n|---|---|---|---|---|")
    for many in (500, 3000):
        for metric in LOSSES:
            r, made = np.random.default_rng(13), {shift: list[tuple[bool, float]]() for shift in (0.0, 0.7)}
            for _ in range(runs):
                model = losses.fit(metric, *numbers(r, many, 0.0), categorical=[])
                for shift, results in made.items():
                    inputs, predictions, truths = numbers(r, 1000, shift)
                    nothing = np.full(1000, np.nan)
                    counts = tally(model.calibration.grid, model.scores(inputs), np.zeros(1000, bool), nothing)
                    (each,) = estimate([metric], [model.calibration], [counts])
                    real = float(np.mean(losses.losses(metric, predictions, truths))) ** (
                        0.5 if metric == "rmse" else 1
                    )
                    if each.value is not None and each.low is not None and each.high is not None:
                        results.append((each.low <= real <= each.high, each.value / real))
            for shift, results in made.items():
                inside, ratio = np.mean(results, axis=0)
                print(f"| {many:,} | {metric} | {shift} | {inside:.1%} of {len(results)} | {ratio:.3f} |", flush=True)


def alerted(runs: int) -> None:
    """Prints how many versions are ever said to have fallen: 14 days of labelled reference, then 30 without labels, of which the last 10 may shift."""
    start, until = date(2026, 1, 1), date(2026, 1, 15)
    print("| answers a day | the last 10 days | said to have fallen | by metric |\n|---|---|---|---|")
    for many, shift in ((20, 0.0), (300, 0.0), (5000, 0.0), (300, -0.3), (300, -0.7)):
        r, hits, nothing = np.random.default_rng(14), list[set[str]](), np.full(many, np.nan)
        for _ in range(runs):
            windows = [rows(r, many, shift if n >= 34 else 0.0) for n in range(44)]
            known = [np.concatenate(parts) for parts in zip(*windows[:14], strict=True)]
            calibration = calibrate(known[0], known[1].astype(bool), known[2])
            counted = {
                start + timedelta(days=n): Counted(
                    [[tally(calibration.grid, *window[:2], window[2] if n < 14 else nothing)]], 0, many
                )
                for n, window in enumerate(windows)
            }
            made = days("1", [(CLASSIFICATION, [calibration])], counted, until, until)
            hits.append({m for n in range(len(made)) for m in CLASSIFICATION if worse(made[: n + 1], m) >= FELL_DAYS})
        by_metric = ", ".join(f"{metric} {n}" for metric in CLASSIFICATION if (n := sum(metric in hit for hit in hits)))
        print(
            f"| {many:,} | {f'inputs shift by {shift}' if shift else 'as before'} | {sum(map(bool, hits))} of {runs} | {by_metric or '-'} |",
            flush=True,
        )


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
