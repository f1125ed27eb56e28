"""The pages over HTTP: `python -m benchmarks.pages [--endpoints N] [--rounds N] [--quick]`.

Six made-up weeks (`lastgood demo --history 42`) of so many endpoints; pages are asked for over loopback, one request at a time. What is printed: time until a
whole answer of the fleet (searched, sorted and turned differently) and of endpoints (over different ranges), the 99th percentile over the rounds; the largest
page uncompressed; the first contentful paint on a phone on slow 4G (PHONE, SLOWER), of each page the median, of these the slowest; what axe-core finds serious
or critical on all pages in light and dark, in Chromium (both null where it is missing: `make instrumentations`); and what reading all tables of the fleet anew
takes, which happens beside the requests when a table has changed.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.measured import machine
from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.demo.weeks import Weeks
from lastgood.tables.fleet import Fleet

FLEET = ("", "?q=endpoint-01", "?sort=p95", "?sort=errors&order=up", "?state=Page", "?page=5", "?sort=cost")
ENDPOINTS = (
    "support-chat", "support-chat?range=1d", "fraud-score?range=42d", "travel-agent?range=6h", "endpoint-0007", "search-rank?range=90d", "translate",
)  # fmt: skip
OTHERS = (
    "/", "/incidents", "/drift", "/drift?endpoint=fraud-score&column=feature.amount", "/requests?endpoint=support-chat", "/agents?endpoint=travel-agent",
    "/health", "/definitions",
)  # fmt: skip

PHONE = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8, "uploadThroughput": 0.75e6 / 8}
"""Lighthouse's slow 4G: 150 ms round trip, 1.6 Mbit/s; and a processor SLOWER times as slow as this one."""
SLOWER, PAINTS = 4, 5
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"


def timed(client: httpx.Client, path: str) -> tuple[float, float]:
    """Seconds until the whole answer, its KB."""
    started = time.perf_counter()
    answer = client.get(path)
    answer.raise_for_status()
    return time.perf_counter() - started, len(answer.content) / 1000


def p99_ms(taken: list[tuple[float, float]]) -> float:
    return round(1000 * float(np.quantile([seconds for seconds, _ in taken], 0.99)), 1)


def tests_servers() -> Any:
    """The tests' Chromium; None where there is none."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import servers

    return servers if shutil.which("chromium") and shutil.which("chromedriver") else None


def first_paint_ms(url: str, paths: tuple[str, ...]) -> tuple[str, float] | None:
    """(slowest page, its median first contentful paint) on a throttled phone, cache off; None without Chromium."""
    servers = tests_servers()
    if servers is None:
        return None
    medians: dict[str, float] = {}
    with servers.chromium(390, 844, scripts=True) as driver, servers.emulated(driver, "light", 390, 844, True):
        driver.get(f"{url}/healthz")  # the browser's own first start is nobody's page
        driver.execute_cdp_cmd("Network.enable", {})
        driver.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", PHONE)
        driver.execute_cdp_cmd("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        for path in paths:
            taken = []
            for _ in range(PAINTS):
                driver.get(url + path)
                taken.append(painted(driver))
            medians[path] = float(np.median(taken))
    slowest = max(medians, key=lambda path: medians[path])
    return slowest, round(medians[slowest])


def painted(driver: Any) -> float:
    """Milliseconds from the request to the first text on the screen, as the browser says; it says so a moment after it has loaded the page."""
    for _ in range(100):
        at = driver.execute_script(PAINT)
        if at is not None:
            return float(at)
        time.sleep(0.05)
    raise RuntimeError(f"{driver.current_url}: nothing was painted")


def serious(url: str, paths: tuple[str, ...]) -> int | None:
    """What axe-core finds serious or critical on these pages, in light and dark, on a phone and a desktop."""
    servers = tests_servers()
    if servers is None or not servers.AXE.exists():
        return None
    count = 0
    with servers.chromium(1280, 800, scripts=True) as driver:
        for scheme in ("light", "dark"):
            for size in ((390, 844, True), (1280, 800, False)):
                with servers.emulated(driver, scheme, *size):
                    for path in paths:
                        driver.get(url + path)
                        count += len(servers.barriers(driver))
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="50 endpoints, 20 rounds")
    given = parser.parse_args()
    count, rounds = (50, 20) if given.quick else (given.endpoints, given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        with (
            Weeks(endpoints=count, out=Path(folder, "weeks")).made() as app,
            serving(app) as url,
            httpx.Client(base_url=url) as client,
        ):
            fleet = [timed(client, f"/fleet{FLEET[n % len(FLEET)]}") for n in range(rounds)]
            endpoint = [timed(client, f"/endpoints/{ENDPOINTS[n % len(ENDPOINTS)]}") for n in range(rounds)]
            others = [timed(client, path) for path in OTHERS]
            every = ("/fleet", f"/endpoints/{ENDPOINTS[0]}", *OTHERS)
            paint = first_paint_ms(url, every)
            findings = serious(url, every)
        started = time.perf_counter()
        Fleet(tables.Store(f"{folder}/weeks/tables"), lambda: datetime.now(UTC)).refresh()
        read_s = time.perf_counter() - started
    largest = max(kb for _, kb in (*fleet, *endpoint, *others))
    print(json.dumps({
        "endpoints": count, "fleet_p99_ms": p99_ms(fleet), "endpoint_p99_ms": p99_ms(endpoint), "page_kb_max": round(largest, 1),
        "first_paint_ms": paint and paint[1], "first_paint_of": paint and paint[0],
        "axe_serious": findings, "tables_read_s": round(read_s, 2), "rounds": rounds, "machine": machine(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
