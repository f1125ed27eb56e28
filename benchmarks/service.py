"""The service under load: spans in at a given rate while pages and /metrics are fetched: `python -m benchmarks.service [--quick]`.

`lastgood serve` against the local workspace; one process sends GenAI spans over gRPC, others fetch the page of all
endpoints, an incident's page and /metrics as fast as one client after the other can. Load and service share the two cores.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import httpx
import yaml

from benchmarks.measured import Meter, machine
from benchmarks.spans import EXPORT, bodies
from lastgood import delta
from lastgood.workspace import local

PATHS = ("/", "/metrics", "/api/incidents", "/healthz")


async def _send(port: int, sent: list[bytes], per_s: float, seconds: float) -> tuple[int, list[float]]:
    """(exports acknowledged, seconds of each)."""
    waits: list[float] = []
    began = time.perf_counter()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(EXPORT)

        async def one(i: int) -> None:
            asked = time.perf_counter()
            await call(sent[i % len(sent)], timeout=60)
            waits.append(time.perf_counter() - asked)

        running: set[asyncio.Task[None]] = set()
        i = 0
        while time.perf_counter() - began < seconds:
            task = asyncio.create_task(one(i))
            running.add(task)
            task.add_done_callback(running.discard)
            i += 1
            await asyncio.sleep(max(0.0, began + i / per_s - time.perf_counter()))
        await asyncio.gather(*running)
    return len(waits), waits


async def _fetch(url: str, path: str, seconds: float, pause_s: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        while time.perf_counter() < end:
            asked = time.perf_counter()
            (await client.get(path)).raise_for_status()
            times.append(time.perf_counter() - asked)
            await asyncio.sleep(pause_s)
    return times


def cut(times: list[float]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    found = statistics.quantiles(times, n=100)
    return round(found[49] * 1000, 1), round(found[98] * 1000, 1)


async def load(
    url: str, port: int, rate: float, seconds: float, meter: Meter
) -> tuple[int, dict[str, tuple[float, float]]]:
    batch = 512
    sent = bodies(batch * 64, batch)

    async def sample() -> None:
        while True:
            meter.sample()
            await asyncio.sleep(0.2)

    sampling = asyncio.create_task(sample())
    fetched = [asyncio.create_task(_fetch(url, path, seconds, 0.25)) for path in PATHS]
    acked, waits = await _send(port, sent, rate / batch, seconds)
    figures = {path: cut(await one) for path, one in zip(PATHS, fetched, strict=True)}
    sampling.cancel()
    return acked * batch, figures | {"export": cut(waits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=35_000, help="spans a second: half of what is sustained")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--quick", action="store_true", help="30 seconds")
    given = parser.parse_args()
    seconds = 30.0 if given.quick else given.seconds
    with tempfile.TemporaryDirectory() as folder, local.serve(local.LocalConfig()) as space:
        config = Path(folder) / "lastgood.yaml"
        document = {
            "storage": f"{folder}/data", "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
            "receiver": {"grpc_port": 0, "http_port": 0, "spool": f"{folder}/spool"}, "web": {"port": 0},
        }  # fmt: skip
        config.write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "lastgood", "serve", "--config", str(config)]
        environment = {**os.environ, "LASTGOOD_LOCAL_TOKEN": space.token}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
        assert process.stdout
        ports = json.loads(process.stdout.readline())
        meter = Meter(process.pid)
        url = f"http://127.0.0.1:{ports['web']}"
        acked, figures = asyncio.run(load(url, ports["grpc"], given.rate, seconds, meter))
        process.terminate()
        process.wait(300)
        stored = delta.read(f"{folder}/data/inbox", ["request_id"]).num_rows
    print(f"{'what':<16} {'p50 ms':>8} {'p99 ms':>8}")
    for name, (p50, p99) in figures.items():
        print(f"{name:<16} {p50:>8} {p99:>8}")
    print(
        f"\n{acked:,} spans acknowledged in {seconds:.0f} s, {stored:,} stored; {meter.cpu_s:.0f} CPU s, peak {meter.peak:.0f} MiB"
    )
    print(machine())
    pages = {f"p99_{name.strip('/') or 'page'}_ms": p99 for name, (_, p99) in figures.items()}
    result = {"spans_per_s": round(acked / seconds), "lost": acked - stored, "peak_rss_mb": round(meter.peak)}
    print(json.dumps(result | {name.replace("/", "_"): value for name, value in pages.items()}))


if __name__ == "__main__":
    main()
