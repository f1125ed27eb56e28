"""Performance without labels, beside NannyML on the data sets in its wheel: `python -m benchmarks.performance [--quick]`.

Needs `make nannyml` (an environment of its own). Both get the same files and chunks, each in a process of its own; errors are against the labels that
neither sees. Peak memory is of the whole process; beside it that of its imports alone.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv, parquet
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from benchmarks.measured import machine
from lastgood.judge.reference import calibrate, tally
from lastgood.judge.relation import contradiction

HERE = Path(__file__).parent
PEER = HERE.parent / ".nannyml/bin/python"
AT = "import importlib.util as u; print(u.find_spec('nannyml').submodule_search_locations[0])"
CLASSIFICATION = ["roc_auc", "f1", "precision", "recall", "accuracy"]
CARDS = ("prepaid_card", "highstreet_card", "upmarket_card")


@dataclass(frozen=True)
class DataSet:
    """Files of the wheel and their columns. `repeat`: how often the analysis file is repeated."""

    name: str
    kind: str
    files: tuple[str, str, str]
    target: str
    prediction: str
    scores: Any
    chunk: int
    features: tuple[str, ...] = ()
    repeat: int = 1


CAR_LOAN = (
    "synthetic_car_loan_reference.csv",
    "synthetic_car_loan_analysis.csv",
    "synthetic_car_loan_analysis_target.csv",
)
CAR_PRICE = (
    "regression_synthetic_reference.csv",
    "regression_synthetic_analysis.csv",
    "regression_synthetic_analysis_targets.csv",
)
CAR = ("car_age", "km_driven", "price_new", "accident_count", "door_count", "fuel", "transmission")
DATA_SETS = (
    DataSet("car loan", "binary", CAR_LOAN, "repaid", "y_pred", "y_pred_proba", 5000),
    DataSet("work from home", "binary",
            ("synthetic_sample_reference.csv", "synthetic_sample_analysis.csv", "synthetic_sample_analysis_gt.csv"),
            "work_home_actual", "y_pred", "y_pred_proba", 5000),
    DataSet("employment (census)", "binary",
            ("employment_MA_reference.pq", "employment_MA_analysis.pq", "employment_MA_analysis_target.pq"),
            "employed", "prediction", "predicted_probability", 5000),
    DataSet("California housing", "binary",
            ("california_housing_reference.csv", "california_housing_analysis.csv", "california_housing_analysis_gt.csv"),
            "clf_target", "y_pred", "y_pred_proba", 1000),
    DataSet("credit cards (3 classes)", "multiclass", ("mc_reference.csv", "mc_analysis.csv", "mc_analysis_gt.csv"), "y_true", "y_pred",
            {name: f"y_pred_proba_{name}" for name in CARDS}, 6000),
    DataSet("car price", "regression", CAR_PRICE, "y_true", "y_pred", None, 6000, CAR),
    DataSet("car loan, repeated", "binary", CAR_LOAN, "repaid", "y_pred", "y_pred_proba", 50_000, repeat=100),
)  # fmt: skip


def read(path: Path) -> pa.Table:
    return parquet.read_table(path) if path.suffix == ".pq" else csv.read_csv(path)


@dataclass(frozen=True)
class Run:
    """What a process gave and took: seconds, MiB."""

    given: dict[str, Any]
    wall: float
    cpu: float
    peak: float


def run(command: list[str]) -> Run:
    """Its output ends in two lines: JSON, and the peak of its memory in KiB as the kernel has it (getrusage counts the parent's too).
    Errors: RuntimeError with what it wrote."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=err,
            env=os.environ | {"PYTHONPATH": str(HERE.parent), "NML_DISABLE_USAGE_LOGGING": "1", "OMP_NUM_THREADS": "1"},
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, wrong = out.read().decode(), err.read().decode()
    if child.returncode:
        raise RuntimeError(f"{command[:2]}: {wrong[-2000:]}")
    line, peak = text.strip().splitlines()[-2:]
    return Run(json.loads(line), time.monotonic() - started, used.ru_utime + used.ru_stime, int(peak) / 1024)


def realised(data: DataSet, folder: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Metric -> its value in each chunk, by the labels."""
    analysis, targets = read(folder / data.files[1]), read(folder / data.files[2])
    place = {key: number for number, key in enumerate(targets["id"].to_pylist())}
    order = np.array([place[key] for key in analysis["id"].to_pylist()])
    truth, answer = targets[data.target].to_numpy()[order], analysis[data.prediction].to_numpy()
    names = list(data.scores.values()) if isinstance(data.scores, dict) else [data.scores] if data.scores else []
    scores = np.stack([analysis[name].to_numpy() for name in names], axis=1) if names else np.zeros((len(truth), 0))
    truth, answer, scores = (np.concatenate([each] * data.repeat) for each in (truth, answer, scores))
    made: dict[str, list[float]] = {}
    for start in range(0, len(truth), data.chunk):
        part = slice(start, start + data.chunk)
        for metric, value in _real(data, truth[part], answer[part], scores[part]).items():
            made.setdefault(metric, []).append(value)
    return {metric: np.array(values) for metric, values in made.items()}


def contradicted(data: DataSet, folder: Path) -> str:
    """The first chunk whose labels, had they come by then, contradict a calibration."""
    reference, analysis, targets = (read(folder / name) for name in data.files)
    place = {key: number for number, key in enumerate(targets["id"].to_pylist())}
    truth = targets[data.target].to_numpy()[[place[key] for key in analysis["id"].to_pylist()]]
    by_class = data.scores if isinstance(data.scores, dict) else {1: data.scores}
    chunks, firsts = range(0, len(truth), data.chunk), list[int]()
    for label, name in by_class.items():
        answers = (table[data.prediction].to_numpy() == label for table in (reference, analysis))
        old, new = (
            (table[name].to_numpy(), answer) for table, answer in zip((reference, analysis), answers, strict=True)
        )
        known = calibrate(*old, (reference[data.target].to_numpy() == label).astype(float))
        labels = [
            tally(known.grid, *(each[i : i + data.chunk] for each in (*new, (truth == label).astype(float))))
            for i in chunks
        ]
        firsts += [n for n in range(1, len(labels) + 1) if contradiction(known, labels[:n])[1]][:1]
    return f"in chunk {min(firsts)} of {len(chunks)}" if firsts else "not"


def _real(data: DataSet, truth: Any, answer: Any, scores: Any) -> dict[str, float]:
    if data.kind == "regression":
        error = np.abs(truth.astype(float) - answer.astype(float))
        return {"mae": float(error.mean()), "rmse": float(np.sqrt((error**2).mean()))}
    several = data.kind == "multiclass"
    how: dict[str, Any] = {"average": "macro" if several else "binary", "zero_division": 0.0}
    areas = [roc_auc_score(truth == name, scores[:, i]) for i, name in enumerate(data.scores if several else [1])]
    return {
        "roc_auc": float(np.mean(areas)), "f1": f1_score(truth, answer, **how), "precision": precision_score(truth, answer, **how),
        "recall": recall_score(truth, answer, **how), "accuracy": accuracy_score(truth, answer),
    }  # fmt: skip


def compare(data: DataSet, folder: Path, scratch: Path) -> tuple[dict[str, tuple[float, float, float]], Run, Run]:
    """(metric -> (our mean absolute error, theirs, share of chunks in our interval), our run, theirs)."""
    analysis = folder / data.files[1]
    if data.repeat > 1:
        whole = read(analysis)
        analysis = scratch / "analysis.parquet"
        with parquet.ParquetWriter(analysis, whole.schema) as writer:
            for _ in range(data.repeat):
                writer.write_table(whole)
    reference = folder / data.files[0]
    if data.repeat > 1:  # both files in one form
        parquet.write_table(read(reference), scratch / "reference.parquet")
        reference = scratch / "reference.parquet"
    reference, analysis = (path if path.suffix != ".pq" else _renamed(path, scratch) for path in (reference, analysis))
    task = json.dumps({
        "kind": data.kind, "reference": str(reference), "analysis": str(analysis), "target": data.target, "prediction": data.prediction,
        "scores": data.scores, "chunk": data.chunk, "features": list(data.features),
        "metrics": ["mae", "rmse"] if data.kind == "regression" else CLASSIFICATION,
    })  # fmt: skip
    ours = run([sys.executable, "-m", "benchmarks.performance_ours", task])
    theirs = run([str(PEER), str(HERE / "performance_peer.py"), task])
    errors = {}
    for metric, real in realised(data, folder).items():
        value, low, high = np.array(ours.given[metric], float).T
        peer = np.array(theirs.given[metric], float)
        known = np.isfinite(value) & np.isfinite(peer)  # undefined in chunks where nothing is predicted as the class
        inside = float(np.mean(((low <= real) & (real <= high))[known]))
        errors[metric] = (float(np.abs(value - real)[known].mean()), float(np.abs(peer - real)[known].mean()), inside)
    return errors, ours, theirs


def _renamed(path: Path, scratch: Path) -> Path:
    link = scratch / f"{path.stem}.parquet"
    link.symlink_to(path)
    return link


def mean_ratio(pairs: list[tuple[float, float]]) -> float:
    """The geometric mean."""
    return math.exp(sum(math.log(a / b) for a, b in pairs) / len(pairs))


def figures(quick: bool = False) -> dict[str, Any]:
    """Measures, prints the table, gives what `main` prints as JSON. Errors: RuntimeError where a process fails, or there is no NannyML."""
    if not PEER.exists():
        raise RuntimeError("no NannyML: run `make nannyml`")
    folder = Path(subprocess.check_output([PEER, "-c", AT], text=True).strip()) / "datasets/data"
    bare = run([sys.executable, "-m", "benchmarks.performance_ours", "{}"]).peak
    bare_peer = run([str(PEER), str(HERE / "performance_peer.py"), "{}"]).peak
    print("| data set | metric | our error | NannyML's | ratio | in our interval |\n|---|---|---|---|---|---|")
    errors: dict[str, list[tuple[float, float]]] = {"cbpe": [], "dle": []}
    runs: list[tuple[DataSet, Run, Run]] = []
    for data in DATA_SETS:
        if quick and data.repeat > 1:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            by_metric, ours, theirs = compare(data, folder, Path(scratch))
        runs.append((data, ours, theirs))
        for metric, (a, b, inside) in by_metric.items():
            print(f"| {data.name} | {metric} | {a:.5g} | {b:.5g} | {a / b:.3f} | {inside:.0%} |", flush=True)
            if data.repeat == 1:
                errors["dle" if data.kind == "regression" else "cbpe"].append((a, b))
    print(
        "\n| data set | rows | wall s | NannyML | CPU s | NannyML | peak MiB | NannyML | above imports | NannyML |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for data, a, b in runs:
        rows = read(folder / data.files[1]).num_rows * data.repeat
        print(
            f"| {data.name} | {rows:,} | {a.wall:.1f} | {b.wall:.1f} | {a.cpu:.1f} | {b.cpu:.1f} | {a.peak:.0f} | {b.peak:.0f} | {a.peak - bare:.0f} "
            f"| {b.peak - bare_peer:.0f} |"
        )
    print("\n| data set | labels contradict the calibration |\n|---|---|")
    for data, _, _ in runs:
        if data.scores and data.repeat == 1:
            print(f"| {data.name} | {contradicted(data, folder)} |")
    print(f"\nimports alone: {bare:.0f} and {bare_peer:.0f} MiB; {machine()}; load {os.getloadavg()[0]:.1f}")
    plain = [(a, b) for data, a, b in runs if data.repeat == 1]
    made = {
        "cbpe_error_ratio": mean_ratio(errors["cbpe"]), "cbpe_error_ratio_worst": max(a / b for a, b in errors["cbpe"]),
        "dle_error_ratio": mean_ratio(errors["dle"]), "cbpe_memory_ratio": mean_ratio([(a.peak, b.peak) for a, b in plain]),
    }  # fmt: skip
    if not quick:
        made["cbpe_memory_ratio_5m_rows"] = runs[-1][1].peak / runs[-1][2].peak
        made["cbpe_memory_ratio_5m_rows_above_imports"] = max(0.0, runs[-1][1].peak - bare) / (
            runs[-1][2].peak - bare_peer
        )
    return {name: round(value, 3) for name, value in made.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the repeated data set")
    print(json.dumps(figures(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
