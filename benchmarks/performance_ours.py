"""Lastgood's estimates of one data set, as JSON: the reference whole, the analysis in batches of which counts are kept (see benchmarks.performance)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lastgood.judge.performance import estimate
from lastgood.judge.reference import Calibration, calibrate, tally

Floats = npt.NDArray[np.float64]
ROWS = 20_000
pa.set_memory_pool(pa.system_memory_pool())  # gives back what it does not need


def batches(path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """At most ROWS rows each."""
    if path.endswith("csv"):
        from pyarrow import csv

        options = csv.ConvertOptions(include_columns=columns)
        found = csv.open_csv(path, csv.ReadOptions(use_threads=False, block_size=1 << 18), convert_options=options)
        for batch in found:
            yield from (batch.slice(start, ROWS) for start in range(0, batch.num_rows, ROWS))
    else:
        from pyarrow import parquet

        with parquet.ParquetFile(path, pre_buffer=False) as file:
            yield from file.iter_batches(ROWS, columns=columns, use_threads=False)


class Tallies:
    """Rows in their order -> a tally for each chunk and calibration."""

    def __init__(self, calibrations: list[Calibration], chunk: int) -> None:
        self.calibrations, self.chunk, self.seen = calibrations, chunk, 0
        self.counts: list[list[Floats]] = []

    def add(self, scores: list[Floats], predicted: list[npt.NDArray[np.bool_]]) -> None:
        rows = len(scores[0])
        number = (self.seen + np.arange(rows)) // self.chunk
        self.seen += rows
        for place in np.unique(number):
            here, unknown = number == place, np.full(int(np.sum(number == place)), np.nan)
            made = [
                tally(each.grid, score[here], hit[here], unknown)
                for each, score, hit in zip(self.calibrations, scores, predicted, strict=True)
            ]
            if place == len(self.counts):
                self.counts.append(made)
            else:
                self.counts[place] = [old + new for old, new in zip(self.counts[place], made, strict=True)]

    def estimates(self, metrics: list[str]) -> dict[str, list[list[float | None]]]:
        rows = [estimate(metrics, self.calibrations, counts) for counts in self.counts]
        return {metric: [[row[i].value, row[i].low, row[i].high] for row in rows] for i, metric in enumerate(metrics)}


def numbers(rows: pa.RecordBatch | pa.Table, name: str) -> Floats:
    """`to_numpy` and `pyarrow.scalar` would import pandas."""
    whole = _whole(rows[name].cast(pa.float64()))
    return np.asarray(np.from_dlpack(whole) if not whole.null_count else whole.to_numpy(zero_copy_only=False))


def equal(rows: pa.RecordBatch | pa.Table, name: str, value: Any) -> npt.NDArray[np.bool_]:
    coded = _whole(rows[name]).dictionary_encode()
    place = [number for number, each in enumerate(coded.dictionary.to_pylist()) if each == value]
    return np.isin(np.from_dlpack(coded.indices), place)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def classes(given: dict[str, Any]) -> dict[str, Any]:
    by_class = given["scores"] if isinstance(given["scores"], dict) else {1: given["scores"]}
    names = [*by_class.values(), given["prediction"]]
    whole = pa.Table.from_batches(batches(given["reference"], [*names, given["target"]]))
    calibrations = [
        calibrate(
            numbers(whole, name),
            equal(whole, given["prediction"], label),
            equal(whole, given["target"], label).astype(float),
        )
        for label, name in by_class.items()
    ]
    tallies = Tallies(calibrations, given["chunk"])
    for batch in batches(given["analysis"], names):
        tallies.add(
            [numbers(batch, name) for name in by_class.values()],
            [equal(batch, given["prediction"], label) for label in by_class],
        )
    return tallies.estimates(given["metrics"])


def regression(given: dict[str, Any]) -> dict[str, Any]:
    from lastgood.judge import losses

    names = [*given["features"], given["prediction"]]
    whole = pa.Table.from_batches(batches(given["reference"], [*names, given["target"]]))
    texts = {name: sorted(whole[name].unique().to_pylist()) for name in names if pa.types.is_string(whole[name].type)}

    def inputs(rows: pa.Table | pa.RecordBatch) -> Floats:
        made = []
        for name in names:
            if name in texts:
                place = {text: code for code, text in enumerate(texts[name])}
                made.append(np.array([place.get(text, np.nan) for text in rows[name].to_pylist()]))
            else:
                made.append(numbers(rows, name))
        return np.stack(made, axis=1)

    categorical = [place for place, name in enumerate(names) if name in texts]
    known, predictions, targets = inputs(whole), numbers(whole, given["prediction"]), numbers(whole, given["target"])
    del whole
    done: dict[str, Any] = {}
    for metric in given["metrics"]:
        model = losses.fit(metric, known, predictions, targets, categorical)
        tallies = Tallies([model.calibration], given["chunk"])
        for batch in batches(given["analysis"], names):
            scores = model.scores(inputs(batch))
            tallies.add([scores], [np.zeros(len(scores), bool)])
        done |= tallies.estimates([metric])
    return done


def peak() -> int:
    """KiB."""
    return next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps({} if not task else regression(task) if task["kind"] == "regression" else classes(task)))
    print(peak())
