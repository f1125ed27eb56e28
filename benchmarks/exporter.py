"""`/metrics` with many endpoints: scrape time, size and memory over many scrapes. `python -m benchmarks.exporter [--quick]`.

200 endpoints x 3 versions by default; each refresh takes in one new window per version and encodes the
figures of all versions. Times are those of making the text that a scraper gets.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta

import psutil
import pyarrow as pa
from prometheus_client import generate_latest

from benchmarks.measured import machine
from lastgood import tables
from lastgood.dashboards.exporter import Exporter
from lastgood.record import telemetry
from lastgood.record.windows import bucket
from lastgood.tables import Store, delta

START = datetime(2026, 1, 5, tzinfo=UTC)


def minute(number: int, endpoints: int, versions: int) -> pa.Table:
    """One window of every version."""
    rows = [
        {
            "endpoint": f"endpoint-{i}", "model_version": str(v), "stratum": "model/256", "window_start": START + timedelta(minutes=number),
            "rows": 100, "requests": 100.0, "errors": [("HTTP_500", 1.0), ("HTTP_429", 2.0)],
            "latency": [(bucket(20.0 * 1.3**k), 10.0) for k in range(10)], "ttft": [(bucket(10.0 * 1.3**k), 10.0) for k in range(10)],
            "feature_age": [(bucket(60_000.0 * 2**k), 20.0) for k in range(5)], "tokens_in": 5000.0, "tokens_out": 9000.0,
        }
        for i in range(endpoints)
        for v in range(versions)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, telemetry.arrow_schema(tables.WINDOWS.fields))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=200)
    parser.add_argument("--versions", type=int, default=3)
    parser.add_argument("--scrapes", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="300 scrapes")
    given = parser.parse_args()
    scrapes = 300 if given.quick else given.scrapes
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        delta.create(store.path(tables.WINDOWS), telemetry.arrow_schema(tables.WINDOWS.fields))
        exporter = Exporter(store)
        refreshes, times, size, series, first = [], [], 0, 0, 0.0
        process = psutil.Process()
        for number in range(scrapes):
            if number % max(1, scrapes // 10) == 0:
                delta.append(store.path(tables.WINDOWS), minute(number, given.endpoints, given.versions))
                began = time.perf_counter()
                exporter.refresh()
                refreshes.append((time.perf_counter() - began) * 1000)
            began = time.perf_counter()
            text = exporter.text(generate_latest, "text")
            times.append((time.perf_counter() - began) * 1000)
            if number == scrapes // 10:
                size, series = len(text), sum(1 for line in text.splitlines() if not line.startswith(b"#"))
                gc.collect()
                first = process.memory_info().rss / 2**20
        gc.collect()
        growth = process.memory_info().rss / 2**20 - first
    cut = statistics.quantiles(times, n=100)
    print(
        f"{'series':>8} {'MiB':>6} {'scrapes':>8} {'p50 ms':>8} {'p99 ms':>8} {'refresh p50 ms':>15} {'growth MiB':>11}"
    )
    refresh = statistics.median(refreshes)
    print(
        f"{series:>8,} {size / 2**20:>6.1f} {scrapes:>8,} {cut[49]:>8.1f} {cut[98]:>8.1f} {refresh:>15.0f} {growth:>11.1f}"
    )
    print(machine())
    figures = {"series": series, "scrape_ms_p50": round(cut[49], 1), "scrape_ms_p99": round(cut[98], 1)}
    print(
        json.dumps(
            figures | {"rss_growth_mb": round(growth, 1), "scrapes": scrapes, "refresh_ms_p50": round(refresh, 1)}
        )
    )


if __name__ == "__main__":
    main()
