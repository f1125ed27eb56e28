"""`lastgood check` on an AI Gateway inference table: `python -m benchmarks.check [--rows 1000000]`."""

import argparse
import json
import sys
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measured import machine, run


def make(path: Path, rows: int, seed: int = 1) -> None:
    """An inference table with two versions and bodies of about 1 KB together; version b fails four times as often."""
    rng = np.random.default_rng(seed)
    words = np.array(
        [
            "the",
            "model",
            "answers",
            "a",
            "question",
            "about",
            "lists",
            "and",
            "tuples",
            "with",
            "some",
            "detail",
            "so",
            "that",
            "bodies",
            "have",
            "weight",
        ]
    )
    texts = [" ".join(rng.choice(words, 70)) for _ in range(500)]
    start = datetime(2026, 1, 5, tzinfo=UTC)
    writer = None
    for first in range(0, rows, 100_000):
        n = min(100_000, rows - first)
        new = rng.random(n) < 0.5
        failed = rng.random(n) < np.where(new, 0.04, 0.01)
        pick = rng.integers(500, size=(n, 2))
        requests = [json.dumps({"messages": [{"role": "user", "content": texts[i]}]}) for i in pick[:, 0]]
        answers = [
            json.dumps({"error_code": "INTERNAL_ERROR", "message": "no"})
            if bad
            else json.dumps(
                {
                    "choices": [{"message": {"content": texts[i]}, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 70, "completion_tokens": 70},
                }
            )
            for i, bad in zip(pick[:, 1], failed, strict=True)
        ]
        table = pa.table(
            {
                "databricks_request_id": [f"r{first + i}" for i in range(n)],
                "request_date": [date(2026, 1, 5)] * n,
                "client_request_id": pa.nulls(n, pa.string()),
                "request_time": pa.array(
                    [start + timedelta(seconds=21_600 * (first + i) / rows) for i in range(n)],
                    pa.timestamp("us", "UTC"),
                ),
                "status_code": pa.array(np.where(failed, 500, 200), pa.int32()),
                "sampling_fraction": np.ones(n),
                "execution_duration_ms": rng.lognormal(4, 0.5, n).astype(np.int64),
                "request": requests,
                "response": answers,
                "logging_error_codes": pa.array([[]] * n, pa.list_(pa.string())),
                "served_entity_id": np.where(new, "b", "a"),
                "requester": [f"user-{i}" for i in rng.integers(200, size=n)],
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="100,000 rows")
    given = parser.parse_args()
    rows = 100_000 if given.quick else given.rows
    with tempfile.TemporaryDirectory() as folder:
        table, result = Path(folder) / "endpoint.parquet", Path(folder) / "result.json"
        make(table, rows)
        size = table.stat().st_size / 2**20
        cost = run([sys.executable, "-m", "lastgood", "check", str(table), "--json", str(result)])
        verdict = json.loads(result.read_text())["endpoints"][0]["verdict"]
    print(f"{'rows':>10} {'MiB':>6} {'wall s':>7} {'CPU s':>7} {'peak MiB':>9}  verdict")
    print(
        f"{rows:>10,} {size:>6.0f} {cost.wall_s:>7} {cost.cpu_s:>7} {cost.peak_rss_mb:>9.0f}  {verdict['state']}: {verdict['reason']}"
    )
    print(machine())
    figures = {"rows": rows, "wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_rss_mb": cost.peak_rss_mb}
    print(json.dumps(figures | {"verdict": verdict["state"]}))


if __name__ == "__main__":
    main()
