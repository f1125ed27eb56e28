"""What a home of the tables costs: `python -m benchmarks.homes [--quick]`: a folder, an S3 address, a catalog on the same S3 (moto's server).

Seconds to open a table that was never opened; from the commit of a verdict to the poll that sees it (p50, p99, polls every 100 ms); requests
and bytes of a poll of an unchanged table, and of one that sees a verdict. Every request to the storage waits DELAY_S, as a real one would.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.measured import machine
from lastgood import tables
from lastgood.record.telemetry import arrow_schema
from lastgood.settings import Settings
from lastgood.tables import delta
from lastgood.workspace import local
from lastgood.workspace.stores import tables_of

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from s3_support import S3, s3_server

DELAY_S, POLL_S = 0.02, 0.1
SCHEMA = arrow_schema(tables.VERDICTS.fields)
AT = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass
class Home:
    """A home as a client has it (`fresh` gives one that has opened nothing), the table as its owner writes it, and what was asked of it."""

    fresh: Callable[[], tables.Store]
    owned: delta.Where
    asked: Callable[[], list[dict[str, Any]]]


def verdict(number: int) -> pa.Table:
    row = {
        "endpoint": "chat",
        "candidate": str(number),
        "state": "Healthy",
        "reason": "x" * 200,
        "document": "x" * 4000,
    }
    return pa.Table.from_pylist([row | {"judged_at": AT + timedelta(seconds=number)}], SCHEMA)


def homes(stack: ExitStack, s3: S3) -> dict[str, Home]:
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    address = f"{s3.bucket()}/lastgood"
    owned = delta.Located(f"{address}/verdicts", s3.own)
    catalog = local.LocalCatalog({"main.lastgood": address}, s3.own)
    space = stack.enter_context(local.serve(local.LocalConfig(catalog=catalog)))
    settings = Settings(
        storage="main.lastgood",
        workspace={"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
        tables={"options": s3.options},
    )

    reader = s3.options | {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader"}

    def read() -> list[dict[str, Any]]:
        return [request for request in s3.asked() if request["key"] == "reader"]

    def lent() -> list[dict[str, Any]]:
        return [request for request in s3.asked() if request["lent"]]

    return {
        "folder": Home(lambda: tables.Store(folder), f"{folder}/verdicts", list),
        "s3": Home(lambda: tables.Store(address, options=reader), owned, read),
        "catalog": Home(lambda: tables_of(settings), owned, lent),
    }  # fmt: skip


def measure(home: Home, verdicts: int) -> dict[str, Any]:
    """Figures of one home."""
    opened = []
    for _ in range(5):
        begun = time.perf_counter()
        home.fresh().home(tables.VERDICTS).version()
        opened.append(time.perf_counter() - begun)
    client = home.fresh().home(tables.VERDICTS)
    client.version()
    home.asked()
    idle = []
    for _ in range(20):
        begun = time.perf_counter()
        client.version()
        idle.append(time.perf_counter() - begun)
    quiet = home.asked()
    seen, last, version = [], client.newest("judged_at"), client.version()
    first = round((last - AT).total_seconds()) + 1
    for number in range(verdicts):
        delta.append(home.owned, verdict(first + number))
        committed = time.perf_counter()
        while True:
            newest = client.version()
            if newest != version:
                rows = client.read(["endpoint", "judged_at", "document"], [("judged_at", ">", last)])
                assert rows.num_rows == 1
                last, version = rows["judged_at"][0].as_py(), newest
                seen.append(time.perf_counter() - committed)
                break
            time.sleep(POLL_S)
    busy = [request for request in home.asked() if request["method"] in ("GET", "HEAD")]
    return {
        "open_s": round(float(np.median(opened)), 3), "poll_s": round(float(np.median(idle)), 4),
        "seen_p50_s": round(float(np.quantile(seen, 0.5)), 3), "seen_p99_s": round(float(np.quantile(seen, 0.99)), 3),
        "requests_per_idle_poll": len(quiet) / len(idle), "bytes_per_idle_poll": sum(request["bytes"] for request in quiet) / len(idle),
        "requests_per_verdict": round(len(busy) / verdicts, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 verdicts instead of 200")
    verdicts = 20 if parser.parse_args().quick else 200
    with ExitStack() as stack:
        s3 = stack.enter_context(s3_server())
        os.environ["LASTGOOD_LOCAL_TOKEN"] = local.LocalConfig.token
        made = homes(stack, s3)
        figures = {}
        for name, home in made.items():
            if name != "catalog":  # which is on the same table
                for number in range(30):
                    delta.append(home.owned, verdict(number))
            s3.fail({"kind": "delay", "times": 10**9, "delay_s": DELAY_S})
            figures[name] = measure(home, verdicts)
            s3.fail()
    figures["ratio_catalog_folder"] = round(figures["catalog"]["seen_p50_s"] / figures["folder"]["seen_p50_s"], 2)
    names = list(figures["folder"])
    print(f"{'':<8} " + " ".join(f"{name:>22}" for name in names))
    for name in made:
        print(f"{name:<8} " + " ".join(f"{figures[name][figure]:>22}" for figure in names))
    print(f"\n{machine()}; each request to the storage waits {DELAY_S * 1000:.0f} ms")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
