"""NannyML's estimates of one data set of its wheel, as JSON; run by the Python of its own environment (see benchmarks.performance).

Imports nothing of Lastgood. Its defaults, its example calls of the documentation.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
import nannyml as nml  # type: ignore[import-not-found]  # noqa: E402
import pandas as pd  # noqa: E402


def main(given: dict) -> None:  # type: ignore[type-arg]
    read = pd.read_csv if given["reference"].endswith("csv") else pd.read_parquet
    reference, analysis = read(given["reference"]), read(given["analysis"])
    shared = {
        "y_pred": given["prediction"],
        "y_true": given["target"],
        "metrics": given["metrics"],
        "chunk_size": given["chunk"],
    }
    if given["kind"] == "regression":
        estimator = nml.DLE(feature_column_names=given["features"], **shared)
    else:
        kind = "classification_binary" if given["kind"] == "binary" else "classification_multiclass"
        estimator = nml.CBPE(y_pred_proba=given["scores"], problem_type=kind, **shared)
    estimator.fit(reference)
    frame = estimator.estimate(analysis).filter(period="analysis").to_df()
    print(json.dumps({metric: frame[(metric, "value")].tolist() for metric in given["metrics"]}))


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    if task:
        main(task)
    else:
        print("{}")
    print(
        next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    )
