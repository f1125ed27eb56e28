"""The inference-table reader: a first load and an increment of 1% by `lastgood job collect`: `python -m benchmarks.reader [--rows N]`.

Bodies of about 1 KB; the table has a change data feed, as the AI Gateway makes it. Each run is a process of its own; what a run with
nothing to do takes (Spark's start) is measured and taken off the rates.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import yaml
from deltalake import DeltaTable

from benchmarks.check import batches
from benchmarks.measured import Cost, machine, run
from lastgood import tables
from lastgood.tables import delta


def log(table: Path, rows: int, seed: int, first: int) -> None:
    for batch in batches(rows, seed, first):
        delta.append(table, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--quick", action="store_true", help="200,000 rows")
    given = parser.parse_args()
    rows = 200_000 if given.quick else given.rows
    more = rows // 100
    with tempfile.TemporaryDirectory() as folder:
        payload, config = Path(folder) / "payload", Path(folder) / "lastgood.yaml"
        endpoints = {"chat": {"payload_table": str(payload)}}
        config.write_text(yaml.safe_dump({"storage": f"{folder}/data", "endpoints": endpoints}))

        def collect() -> Cost:
            with (Path(folder) / "log").open("wb") as out:
                return run([sys.executable, "-m", "lastgood", "job", "collect", "--config", str(config)], stdout=out)

        start = collect()  # makes the tables, and finds nothing
        log(payload, rows, 1, 0)
        first = collect()
        nothing = collect()
        log(payload, more, 2, rows)
        second = collect()
        stored = DeltaTable(f"{folder}/data/{tables.INBOX.name}").to_pyarrow_dataset().count_rows()
        payload_mib = sum(one.stat().st_size for one in payload.rglob("*.parquet")) / 2**20
    print(f"{'run':<22} {'rows':>11} {'wall s':>8} {'CPU s':>8} {'peak MiB':>9} {'rows/s':>9}")
    for name, n, cost in (("first run, no table", 0, start), ("first load", rows, first), ("nothing new", 0, nothing), ("1% more", more, second)):  # fmt: skip
        rate = f"{n / max(0.1, cost.wall_s - nothing.wall_s):>9,.0f}" if n else " " * 9
        print(f"{name:<22} {n:>11,} {cost.wall_s:>8} {cost.cpu_s:>8} {cost.peak_rss_mb:>9,.0f} {rate}")
    print(f"\n{machine()}; payload {payload_mib:,.0f} MiB; stored {stored:,} of {rows + more:,}")
    took = max(0.1, first.wall_s - nothing.wall_s)
    figures = {
        "rows": rows, "rows_per_s": round(rows / took), "increment_ratio": round(max(0.0, second.wall_s - nothing.wall_s) / took, 3),
        "start_s": nothing.wall_s, "stored": stored, "lost": rows + more - stored,
        "peak_rss_mb": max(first.peak_rss_mb, second.peak_rss_mb),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
