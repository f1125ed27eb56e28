"""From verdict to traffic shifted, and from shift to verified: `python -m benchmarks.rollback [--runs 100] [--quick]`.

Every run: an endpoint on the local workspace serves real requests all the time, most of them by a bad version; the judge's
verdict arrives; the real controller, client and verification do the rest. An update takes a random `--update-s` (lognormal
around it), window counts arrive as they do from jobs (a second after the second they count). `shift`: verdict to the first
moment the endpoint's config shows the traffic moved. `verify`: from then to Done.
"""

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import psutil
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config

from benchmarks.live import Live
from benchmarks.measured import machine
from benchmarks.rig import MODEL, NEW, OLD, Said, config
from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.records import Rollback
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.rollback.telemetry import WindowTelemetry
from lastgood.alerts.store import Store
from lastgood.record.verdict import Finding, State, Verdict
from lastgood.settings import EndpointSettings, Mode, Policy, Settings
from lastgood.workspace import local
from lastgood.workspace.databricks import DatabricksWorkspace
from lastgood.workspace.local.models import build

BEFORE_S, MOST_S, POLL_S = 3.0, 60.0, 0.5


@dataclass(frozen=True)
class Measured:
    shift_s: float | None
    verify_s: float | None
    updates: int
    state: str
    reason: str


def verdict(name: str) -> Verdict:
    now = datetime.now(UTC)
    finding = Finding("errors", "30% of requests fail, 0% before", 400.0, 30.0, 9.1, 60.0, 0.3, 0.0)
    return Verdict(name, "3", "2", State.ROLL_BACK, finding.sentence, now, now, 400.0, (finding,))


@contextmanager
def space(seed: int, update_s: float) -> Iterator[tuple[local.Running, DatabricksWorkspace, httpx.Client]]:
    with local.serve(local.LocalConfig(seed=seed, update_s=update_s)) as running:
        client = WorkspaceClient(
            config=Config(host=running.url, token=running.token, auth_type="pat", retry_timeout_seconds=10)
        )
        headers = {"authorization": f"Bearer {running.token}"}
        with httpx.Client(base_url=running.url, headers=headers, timeout=30) as api:
            yield running, DatabricksWorkspace(client), api


def one(folder: Path, seed: int, update_s: float) -> Measured:
    """One rollback on a workspace of its own."""
    name, store = "chat", tables.Store(str(folder / "tables"))
    with space(seed, update_s) as (running, workspace, api):
        api.put(f"/local/faults/{name}/3", json={"error_share": 0.3})
        api.post("/api/2.0/serving-endpoints", json={"name": name, "config": config({"2": 20, "3": 80}, OLD, NEW)})
        live = Live(running.url, running.token, name, store)
        time.sleep(BEFORE_S)
        policy = Policy(cooldown_s=0, verify_timeout_s=MOST_S, ready_timeout_s=MOST_S)
        settings = Settings(window_s=1, endpoints={name: EndpointSettings(mode=Mode.AUTO, policy=policy)})
        state, said = Store(f"sqlite:///{folder}/state.db"), Said()
        signer = Signer(["a-key-for-this-benchmark"])
        acts = Controller(
            state,
            workspace,
            settings,
            {"list": said},
            WindowTelemetry(store, settings),
            signer,
            lambda: datetime.now(UTC),
        )
        started = time.monotonic()
        acts.handle(verdict(name))
        shifted, last = follow(acts, state, workspace, name)
        ended = time.monotonic()
        updates = workspace.endpoint(name).config_version - 1
        live.stop()
        state.close()
    done = last.state is Status.DONE and shifted is not None
    return Measured(
        shifted - started if shifted else None,
        ended - shifted if done and shifted else None,
        updates,
        last.state,
        last.progress.reason,
    )


def follow(acts: Controller, state: Store, workspace: DatabricksWorkspace, name: str) -> tuple[float | None, Rollback]:
    """(when the traffic had moved, the rollback at its end): two instances' worth of ticking, as a service does."""
    shifted, until, stop = None, time.monotonic() + 2 * MOST_S, threading.Event()

    def loop() -> None:
        while not stop.is_set():
            acts.tick()
            acts.send()
            stop.wait(POLL_S)

    thread = threading.Thread(target=loop)
    thread.start()
    while True:
        if shifted is None and workspace.endpoint(name).share("3") == 0:
            shifted = time.monotonic()
        with state.read() as tx:
            last = tx.rollbacks(name, 1)[0]
        if last.state.ended or time.monotonic() > until:
            stop.set()
            thread.join()
            return shifted, last
        time.sleep(0.05)


def percentile(values: list[float], q: float) -> float | None:
    return round(float(np.quantile(values, q)), 2) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="6 runs")
    parser.add_argument("--update-s", type=float, default=2.0, help="median time of a traffic update")
    parser.add_argument("--at-once", type=int, default=4, help="runs side by side, each with servers of its own")
    given = parser.parse_args()
    runs = 6 if given.quick else given.runs
    rng = np.random.default_rng(1)
    took = [float(rng.lognormal(np.log(given.update_s), 0.4)) for _ in range(runs)]
    for version in ("2", "3"):  # built before anything is timed
        build(MODEL, version)
    own, started = psutil.Process(), time.monotonic()
    cpu, peak = sum(own.cpu_times()[:2]), [0.0]

    def run(seed: int) -> Measured:
        with tempfile.TemporaryDirectory() as folder:
            measured = one(Path(folder), seed, took[seed])
        peak[0] = max(peak[0], own.memory_info().rss / 2**20)
        return measured

    with ThreadPoolExecutor(given.at_once) as pool:
        found = list(pool.map(run, range(runs)))
    shift = [m.shift_s for m in found if m.shift_s is not None]
    verify = [m.verify_s for m in found if m.verify_s is not None]
    print("| | p50 s | p95 s | max s |\n|---|---|---|---|")
    for label, values in (("verdict to traffic shifted", shift), ("shifted to verified", verify)):
        print(f"| {label} | {percentile(values, 0.5)} | {percentile(values, 0.95)} | {percentile(values, 1.0)} |")
    for m in found:
        if m.state != "Done":
            print(f"\nnot finished: {m.state}: {m.reason}")
    spent = sum(own.cpu_times()[:2]) - cpu
    print(
        f"\n{machine()}; wall {time.monotonic() - started:.0f} s, CPU {spent:.0f} s, peak {peak[0]:.0f} MiB (servers and requests too)"
    )
    figures = {
        "runs": runs,
        "shift_p50_s": percentile(shift, 0.5),
        "shift_p95_s": percentile(shift, 0.95),
        "verify_p95_s": percentile(verify, 0.95),
        "double_rollbacks": sum(m.updates > 1 for m in found),
        "unfinished": sum(m.state != "Done" for m in found),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
