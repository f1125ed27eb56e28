"""`lastgood check` on an AI Gateway inference table: `python -m benchmarks.check [--rows 1000000]`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measured import machine, run

WORDS = (
    "the", "model", "answers", "a", "question", "about", "lists", "and", "tuples", "with", "some", "detail", "so", "that", "bodies",
    "have", "weight",
)  # fmt: skip
CHUNK = 100_000


def batches(rows: int, seed: int = 1, first: int = 0) -> Iterator[pa.Table]:
    """An inference table over six hours: two versions, bodies of about 1 KB together; version b fails four times as often."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 70)) for _ in range(500)]
    asked = np.array([json.dumps({"messages": [{"role": "user", "content": text}]}) for text in texts])
    usage = {"prompt_tokens": 70, "completion_tokens": 70}
    said = np.array(
        [json.dumps({"choices": [{"message": {"content": t}, "finish_reason": "stop"}], "usage": usage}) for t in texts]
    )
    start = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1e6)
    for low in range(first, first + rows, CHUNK):
        n = min(CHUNK, first + rows - low)
        new = rng.random(n) < 0.5
        failed = rng.random(n) < np.where(new, 0.04, 0.01)
        at = start + (21_600e6 * (np.arange(low, low + n) - first) / rows).astype(np.int64)
        error = json.dumps({"error_code": "INTERNAL_ERROR", "message": "no"})
        yield pa.table(
            {
                "databricks_request_id": [f"r{low + i}" for i in range(n)],
                "request_date": [date(2026, 1, 5)] * n,
                "client_request_id": pa.nulls(n, pa.string()),
                "request_time": pa.array(at, pa.timestamp("us", "UTC")),
                "status_code": pa.array(np.where(failed, 500, 200), pa.int32()),
                "sampling_fraction": np.ones(n),
                "execution_duration_ms": rng.lognormal(4, 0.5, n).astype(np.int64),
                "request": asked[rng.integers(500, size=n)],
                "response": np.where(failed, error, said[rng.integers(500, size=n)]),
                "logging_error_codes": pa.array([[]] * n, pa.list_(pa.string())),
                "served_entity_id": np.where(new, "b", "a"),
                "requester": [f"user-{i}" for i in rng.integers(200, size=n)],
            }
        )


def make(path: Path, rows: int) -> None:
    """`batches` as one Parquet file."""
    writer = None
    for table in batches(rows):
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
