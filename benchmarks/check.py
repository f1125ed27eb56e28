"""`lastgood check` on a person's own table, beside DuckDB computing its plain figures: `python -m benchmarks.check`.

The same requests as Parquet, CSV, JSON lines and Delta. The peer computes p50, p95, p99, error rate and tokens per version from the same
file with the same number of threads; it counts no output quality, measures no drift and judges nothing.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from benchmarks.measured import Cost, machine, run
from lastgood.tables import delta

CHUNK, WORDS, VOCABULARY = 100_000, 70, 5_000
FORMATS = ("parquet", "csv", "jsonl", "delta")


def _texts(rng: np.random.Generator, n: int, vocabulary: npt.NDArray[np.str_]) -> list[str]:
    """Texts of WORDS words, each of its own; as often as in English (Zipf and Mandelbrot: 1 / (rank + 2.7))."""
    share = np.cumsum(1 / (np.arange(len(vocabulary)) + 2.7))
    at = np.searchsorted(share / share[-1], rng.random((n, WORDS)))
    return [" ".join(words) for words in vocabulary[at].tolist()]


def batches(rows: int, seed: int = 1, first: int = 0) -> Iterator[pa.Table]:
    """An inference table over six hours: two versions, bodies of about 1 KB together; version b fails four times as often."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("etaoinshrdlu"))
    vocabulary = np.array(["".join(rng.choice(letters, 2 + i % 9)) for i in range(VOCABULARY)])
    start = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1e6)
    usage = {"prompt_tokens": WORDS, "completion_tokens": WORDS}
    error = json.dumps({"error_code": "INTERNAL_ERROR", "message": "no"})
    for low in range(first, first + rows, CHUNK):
        n = min(CHUNK, first + rows - low)
        new = rng.random(n) < 0.5
        failed = rng.random(n) < np.where(new, 0.04, 0.01)
        at = start + (21_600e6 * (np.arange(low, low + n) - first) / rows).astype(np.int64)
        asked = [json.dumps({"messages": [{"role": "user", "content": text}]}) for text in _texts(rng, n, vocabulary)]
        answers = [
            json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage})
            for text in _texts(rng, n, vocabulary)
        ]
        yield pa.table(
            {
                "databricks_request_id": [f"r{low + i}" for i in range(n)],
                "request_date": [date(2026, 1, 5)] * n,
                "client_request_id": pa.nulls(n, pa.string()),
                "request_time": pa.array(at, pa.timestamp("us", "UTC")),
                "status_code": pa.array(np.where(failed, 500, 200), pa.int32()),
                "sampling_fraction": np.ones(n),
                "execution_duration_ms": rng.lognormal(4, 0.5, n).astype(np.int64),
                "request": asked,
                "response": [error if bad else answer for bad, answer in zip(failed, answers, strict=True)],
                "logging_error_codes": pa.array([[]] * n, pa.list_(pa.string())),
                "served_entity_id": np.where(new, "b", "a"),
                "requester": [f"user-{i}" for i in rng.integers(200, size=n)],
            }
        )


def make(path: Path, rows: int) -> None:
    """`batches` in the form that the path's suffix names: parquet, csv, jsonl; without one, a Delta table."""
    writer: pq.ParquetWriter | pc.CSVWriter | None = None
    for table in batches(rows):
        if path.suffix == ".jsonl":
            with path.open("a") as file:
                file.writelines(json.dumps(row, default=str) + "\n" for row in table.to_pylist())
        elif path.suffix == "":
            delta.append(path, table)
        else:
            if path.suffix == ".csv":
                table = table.drop_columns(["logging_error_codes"])
            kind = pq.ParquetWriter if path.suffix == ".parquet" else pc.CSVWriter
            writer = writer or kind(path, table.schema)
            writer.write_table(table)
    if writer:
        writer.close()


def peer(path: Path, threads: int) -> None:
    """The plain figures by DuckDB (run in a process of its own)."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}")
    source: object = None
    if path.suffix == "":
        from deltalake import DeltaTable

        source = DeltaTable(str(path)).to_pyarrow_dataset()
        connection.register("requests", source)
    else:
        reader = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_ndjson"}[path.suffix]
        connection.execute(f"CREATE VIEW requests AS SELECT * FROM {reader}('{path}')")
    figures = connection.sql("""
        SELECT served_entity_id, count(*), quantile_cont(execution_duration_ms, [0.5, 0.95, 0.99]),
            avg((status_code >= 400)::int), avg(json_extract(response, '$.usage.prompt_tokens')::int),
            avg(json_extract(response, '$.usage.completion_tokens')::int)
        FROM requests GROUP BY served_entity_id ORDER BY served_entity_id""").fetchall()
    print(json.dumps(figures))


def measure(path: Path, result: Path) -> tuple[Cost, Cost, str]:
    """(what check costs, what DuckDB costs, the verdict)."""
    with Path(os.devnull).open("wb") as nobody:
        cost = run([sys.executable, "-m", "lastgood", "check", str(path), "--json", str(result)], nobody)
        theirs = run([sys.executable, "-m", "benchmarks.check", "--peer", str(path)], nobody)
    verdict = json.loads(result.read_text())["endpoints"][0]["verdict"]
    return cost, theirs, f"{verdict['state']}: {verdict['reason']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="100,000 rows")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        peer(given.peer, 2)
        return
    rows = 100_000 if given.quick else given.rows
    print(f"{'format':<8} {'MiB':>6} {'wall s':>7} {'CPU s':>7} {'peak MiB':>9} {'DuckDB s':>9}  verdict")
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMATS:
            path = Path(folder) / ("support" if form == "delta" else f"support.{form}")
            make(path, rows)
            files = [path] if path.is_file() else list(path.rglob("*.parquet"))
            size = sum(file.stat().st_size for file in files) / 2**20
            time.sleep(2)
            cost, theirs, verdict = measure(path, Path(folder) / "result.json")
            costs.append((cost, cost.wall_s / max(theirs.wall_s, 0.1)))
            print(
                f"{form:<8} {size:>6.0f} {cost.wall_s:>7} {cost.cpu_s:>7} {cost.peak_rss_mb:>9.0f} {theirs.wall_s:>9}  {verdict}",
                flush=True,
            )
            if path.is_file():
                path.unlink()
    print(f"{rows:,} rows; {machine()}; the line below has the slowest and the largest of the formats")
    print(
        json.dumps({
            "rows": rows, "seconds": max(cost.wall_s for cost, _ in costs), "peak_rss_mb": max(cost.peak_rss_mb for cost, _ in costs),
            "ratio_vs_duckdb": round(max(ratio for _, ratio in costs), 2),
        })
    )  # fmt: skip


if __name__ == "__main__":
    main()
