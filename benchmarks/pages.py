"""The pages of a fleet over HTTP: `python -m benchmarks.pages [--endpoints N] [--rounds N] [--quick]`.

Tables of a week and a state with a verdict for each endpoint are made; the pages are asked for over loopback, one request at a time. What is printed: time
until a whole answer (99th percentile over the rounds, which search, sort and page differently), the largest page uncompressed, and
what reading all tables anew takes, which happens beside the requests when a table has changed.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from benchmarks.measured import machine
from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.web.app import create_app
from lastgood.record import telemetry
from lastgood.record.verdict import State, Verdict
from lastgood.record.windows import bucket
from lastgood.service.serve import controller
from lastgood.settings import load
from lastgood.tables.fleet import Fleet

FLEET = ("", "?q=endpoint-01", "?sort=p95", "?sort=errors&order=up", "?state=Page", "?page=5", "?sort=cost")
STATES = (State.HEALTHY, State.HEALTHY, State.HEALTHY, State.WATCH, State.INCONCLUSIVE, State.PAGE)


def put(store: tables.Store, table: tables.Table, rows: Iterator[Mapping[str, Any]]) -> None:
    store.home(table).append(pa.Table.from_pylist(list(rows), telemetry.arrow_schema(table.fields)))


def window(rng: np.random.Generator, endpoint: str, version: str, start: datetime) -> dict[str, Any]:
    requests = float(rng.integers(50, 500))
    spread = [(bucket(float(ms)), requests / 20) for ms in np.sort(rng.lognormal(5, 0.6, 20))]
    return {
        "endpoint": endpoint, "model_version": version, "stratum": "all", "window_start": start, "rows": int(requests), "requests": requests,
        "errors": [("HTTP_500", float(rng.integers(0, 9)))], "latency": list(dict(spread).items()), "tokens_in": requests * 90,
        "tokens_out": requests * 40, "told_in": requests, "told_out": requests,
    }  # fmt: skip


def fill(store: tables.Store, names: list[str], now: datetime) -> None:
    """An hour of windows of five minutes, a week of hours, costs and comparisons, each of two versions."""
    rng = np.random.default_rng(22)
    versions = [(name, version) for name in names for version in ("1", "2")]
    hour = now.replace(minute=0, second=0, microsecond=0)
    put(store, tables.WINDOWS, (window(rng, *v, now - timedelta(minutes=5 * n)) for n in range(12) for v in versions))
    put(store, tables.WINDOWS_HOUR, (window(rng, *v, hour - timedelta(hours=n)) for n in range(168) for v in versions))
    days = [hour.replace(hour=0) - timedelta(days=n) for n in range(7)]
    put(store, tables.COST, (
        {"endpoint": e, "model_version": v, "team": "?", "window_start": day, "money": 1.5} for day in days for e, v in versions
    ))  # fmt: skip
    compared = {"against": "prior", "kind": "input", "computed_at": hour}
    put(store, tables.DRIFT, (
        compared | {"endpoint": e, "model_version": v, "column": f"c{n}", "drifted": n == 0} for n in range(10) for e, v in versions
    ))  # fmt: skip


def timed(client: httpx.Client, path: str) -> tuple[float, float]:
    """Seconds until the whole answer, its KB."""
    started = time.perf_counter()
    answer = client.get(path)
    answer.raise_for_status()
    return time.perf_counter() - started, len(answer.content) / 1000


def p99_ms(taken: list[tuple[float, float]]) -> float:
    return round(1000 * float(np.quantile([seconds for seconds, _ in taken], 0.99)), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="50 endpoints, 20 rounds")
    given = parser.parse_args()
    count, rounds = (50, 20) if given.quick else (given.endpoints, given.rounds)
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "lastgood.yml")
        config.write_text(
            json.dumps(
                {
                    "storage": f"{folder}/tables",
                    "state_url": f"sqlite:///{folder}/state.db",
                    "workspace": {"host": "http://127.0.0.1:9"},
                }
            )
        )
        os.environ["DATABRICKS_TOKEN"] = "nobody's"  # nothing here asks a workspace
        settings, store = load(config), tables.Store(f"{folder}/tables")
        names = [f"endpoint-{n:04}" for n in range(count)]
        fill(store, names, now)
        acts = controller(settings, store)
        with acts.store.begin() as tx:
            for n, name in enumerate(names):
                reason = "5.1 % of requests fail against 0.4 %"
                tx.save_verdict(Verdict(name, "2", "1", STATES[n % len(STATES)], reason, now))
        fleet = Fleet(store, lambda: now)
        started = time.perf_counter()
        fleet.refresh()
        read_s = time.perf_counter() - started
        app = create_app(acts, fleet=lambda: (fleet.rows, fleet.read_at))
        with serving(app) as url, httpx.Client(base_url=url) as client:
            taken = [timed(client, f"/fleet{FLEET[n % len(FLEET)]}") for n in range(rounds)]
        acts.close()
    largest = max(kb for _, kb in taken)
    print(json.dumps({
        "endpoints": count, "fleet_p99_ms": p99_ms(taken), "page_kb_max": round(largest, 1), "tables_read_s": round(read_s, 2), "rounds": rounds,
        "machine": machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
