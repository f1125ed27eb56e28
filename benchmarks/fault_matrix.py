"""Every fault at every state of a rollback: `python -m benchmarks.fault_matrix [--quick]`.

The unmodified databricks-sdk asks the local workspace over a simulated network: nothing waits, so a busy machine changes no outcome.
A cell drives a rollback to a state, switches the fault on, and goes on until the rollback has ended or is bound to wait
for a person. What must come out is written down here (`expected`); the table shows what did.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from simulation.network import Network

from benchmarks.measured import machine
from benchmarks.rig import NEW, OLD, HandClock, Rig, config
from lastgood.alerts.rollback.machine import Approve, Hold, Reject, Status
from lastgood.errors import LastgoodError
from lastgood.workspace import local
from lastgood.workspace.databricks import DatabricksWorkspace

UPDATE_S, MOST_TICKS = 60.0, 40
HOST = "workspace.test"
MEMORY = "/dev/shm"  # noqa: S108 - a folder of its own is made there
STATES = (
    "Proposed",
    "Held",
    "Approved",
    "Restoring",
    "Shifting",
    "Verifying",
    "Waiting",
    "Done",
    "Rejected",
    "Expired",
    "Failed",
)
"""`Waiting`: verifying, and no telemetry has come yet."""
ENDED = STATES[7:]
WITHOUT_EFFECT = (*ENDED, "Verifying")
"""While verifying telemetry decides; the workspace is asked only while there is none."""

Inject = Callable[[Rig], None]


@dataclass(frozen=True)
class Place:
    """A local workspace, the client that Lastgood asks it with, and the clock of both: who waits moves it."""

    network: Network
    api: httpx.Client
    workspace: DatabricksWorkspace
    clock: HandClock


def rules(*found: dict[str, Any]) -> Inject:
    return lambda rig: rig.call("PUT", "/local/chaos", {"rules": list(found)}) and None


def version_fault(version: str, **fault: Any) -> Inject:
    return lambda rig: rig.call("PUT", f"/local/faults/{rig.name}/{version}", fault) and None


def deployed(rig: Rig, shares: dict[str, int], *more: dict[str, Any]) -> None:
    """Somebody else's update; the workspace refuses it while ours is in progress."""
    rig.call("PUT", f"/api/2.0/serving-endpoints/{rig.name}/config", config(shares, OLD, NEW, *more))


def failing_update(rig: Rig) -> None:
    version_fault("1", never_ready=True)(rig)
    deployed(rig, {"3": 100}, local.entity(NEW["entity_name"], "1"))


def changed(rig: Rig) -> None:
    ours = rig.shown()["state"]["config_update"] == "IN_PROGRESS"
    deployed(rig, {"2": 10, "3": 90})
    if not ours:
        rig.clock.now += 2 * UPDATE_S


def moved_back(rig: Rig) -> None:
    deployed(rig, {"2": 0, "3": 100})
    rig.clock.now += 2 * UPDATE_S


def second_instance(rig: Rig) -> None:
    """Another process on the same state ticks whenever this one has decided to ask the workspace."""
    other, network = rig.instance(), rig.network

    def tick() -> None:
        network.between = lambda: None
        with suppress(LastgoodError):
            other.tick()
        network.between = tick

    network.between = tick


FAULTS: dict[str, Inject] = {
    "none": lambda rig: None,
    "another update in progress, which fails": failing_update,
    "config changed since the plan": changed,
    "a person moves the traffic back": moved_back,
    "a person deploys in parallel": lambda rig: deployed(rig, {"1": 100}, local.entity(NEW["entity_name"], "1")),
    "two Lastgood instances": second_instance,
    "endpoint deleted": lambda rig: rig.call("DELETE", f"/api/2.0/serving-endpoints/{rig.name}") and None,
    "permission denied": rules({"kind": "403", "op": "update", "times": 99}),
    "token expired": rules({"kind": "401", "times": 99}),
    "rate limit, passing": rules({"kind": "429", "times": 2}),
    "rate limit, lasting": rules({"kind": "429", "times": 999}),
    "server error, passing": rules({"kind": "500", "times": 2}),
    "server error, lasting": rules({"kind": "500", "times": 999}),
    "timeout, passing": rules({"kind": "timeout", "times": 1, "hang_s": 1.5}),
    "timeout, lasting": rules({"kind": "timeout", "times": 999, "hang_s": 1.5}),
    "response lost after acting": rules({"kind": "lost", "op": "update", "times": 1}),
    "update fails (UPDATE_FAILED)": version_fault("2", never_ready=True),
    "prior version not ready": version_fault("2", not_ready=True),
}
QUICK = (
    "none",
    "config changed since the plan",
    "two Lastgood instances",
    "permission denied",
    "response lost after acting",
)


def expected(fault: str, state: str) -> tuple[str, str]:
    """(end state, a part of the reason) of a cell; the reason is what a person reads."""
    if state in ENDED:
        return state, ""
    if state in ("Verifying", "Waiting"):
        again = {"config changed since the plan": 90, "a person moves the traffic back": 100}.get(fault)
        return ("Failed", f"sends {again}% to version 3 again") if again else ("Done", "traffic moved")
    ours = state in ("Restoring", "Shifting")  # our update is in progress: the workspace refuses everybody else's
    return {
        "a person deploys in parallel": ("Done", "") if ours else ("Expired", "no longer version 1: the plan is void"),
        "endpoint deleted": ("Failed", "there is no such endpoint"),
        "permission denied": ("Done", "") if state == "Shifting" else ("Failed", "grant CAN_MANAGE"),
        "token expired": ("Failed", "renew it"),
        "rate limit, lasting": ("Failed", "not shifted within 60 s: the workspace cannot be read"),
        "server error, lasting": ("Failed", "not shifted within 60 s: the workspace cannot be read"),
        "timeout, lasting": ("Failed", "not shifted within 60 s: the workspace cannot be read"),
        "update fails (UPDATE_FAILED)": ("Failed", "UPDATE_FAILED; the configuration before it still serves"),
        "prior version not ready": ("Failed", "waiting for the prior version to become ready"),
    }.get(fault, ("Done", "traffic moved"))


@dataclass(frozen=True)
class Cell:
    fault: str
    state: str
    ended: str
    reason: str
    said: bool
    updates: int
    most: int
    unsaid: bool

    @property
    def defined(self) -> bool:
        state, reason = expected(self.fault, self.state)
        return self.ended == state and reason in self.reason

    @property
    def silent(self) -> bool:
        """Neither done nor as it was, and nobody was told why."""
        return not self.said or self.unsaid or (self.ended != "Done" and not self.reason)


def reach(rig: Rig, state: str) -> None:
    """Drive the rollback to a state."""
    if state in ("Held", "Rejected"):
        rig.decide(Hold("ann", 5) if state == "Held" else Reject("ann", "a false alarm"))
    elif state == "Expired":
        rig.tick(700)
    elif state != "Proposed":
        rig.decide(Approve("ann"))
    if state == "Failed":
        rules({"kind": "403", "op": "update", "times": 99})(rig)
        finish(rig)
        rules()(rig)
    elif state in ("Restoring", "Shifting"):
        rig.tick()
    elif state in ("Verifying", "Waiting", "Done"):
        rig.said.ready = state == "Done"
        until(rig, lambda: rig.rollback().state in (Status.VERIFYING, Status.DONE))
        if state == "Done":
            finish(rig)
    rig.said.ready = state != "Waiting"
    wanted = {"Restoring": "Shifting", "Waiting": "Verifying"}.get(state, state)
    assert rig.rollback().state == wanted, (state, rig.rollback().progress)


def until(rig: Rig, done: Callable[[], bool]) -> None:
    for _ in range(MOST_TICKS):
        if done():
            return
        if rig.rollback().state in (Status.PROPOSED, Status.HELD):
            try:
                rig.decide(Approve("ann"))
            except LastgoodError:
                pass
        rig.tick(8)
        rig.clock.now += UPDATE_S


def finish(rig: Rig) -> None:
    until(rig, lambda: rig.rollback().state.ended)


def cell(fault: str, state: str, folder: Path, place: Place, name: str) -> Cell:
    """Play one cell."""
    rules_off = rules()
    rig = Rig(name, folder, place.network, place.api, place.workspace, place.clock, slow=state == "Restoring")
    foreign = 0
    reach(rig, state)
    before = rig.shown()["config"]
    FAULTS[fault](rig)
    if state == "Waiting":
        for _ in range(3):
            rig.tick(8)
        rig.said.ready = True
    if (
        fault in ("a person moves the traffic back", "config changed since the plan", "a person deploys in parallel")
        and rig.shown()
    ):
        foreign = 0 if state in ("Restoring", "Shifting") else 1
    finish(rig)
    rules_off(rig)
    rig.network.between = lambda: None
    rig.tick()
    rig.clock.now += 2 * UPDATE_S
    after, rollback = rig.shown(), rig.rollback()
    updates = after["config"]["config_version"] - before["config_version"] - foreign if after else 0
    most = {"Restoring": 2, "Proposed": 1, "Held": 1, "Approved": 1, "Shifting": 1}.get(state, 0)
    pages = [e for e in rig.said.events if e["event_action"] == "trigger" and e["dedup_key"].endswith("-failed")]
    told = [page["payload"]["custom_details"] for page in pages]
    said = rollback.state is not Status.FAILED or bool(told)
    moved = bool(after) and after["config"]["traffic_config"] != before["traffic_config"] and not foreign
    unsaid = rollback.state is Status.FAILED and moved and "accepted" not in str(told[-1:])
    rig.store.close()
    reason = rollback.progress.reason.replace(name, "ENDPOINT")
    return Cell(fault, state, rollback.state, reason, said, updates, most, unsaid)


class _Clock:
    """The SDK's clock: to wait before another attempt costs no time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@contextmanager
def simulated() -> Iterator[Place]:
    """A local workspace on a network of its own."""
    service = local.Service(local.LocalConfig(update_s=UPDATE_S))
    clock = HandClock()
    service.state.use(clock)
    network = Network({HOST: service.app()})
    options = {"retry_timeout_seconds": 1, "http_timeout_seconds": 1}
    try:
        with network.instead_of_sockets():
            known = Config(
                host=f"http://{HOST}", token=service.config.token, auth_type="pat", clock=_Clock(), **options
            )
            api = network.client(HOST, headers={"authorization": f"Bearer {service.config.token}"})
            yield Place(network, api, DatabricksWorkspace(WorkspaceClient(config=known)), clock)
    finally:
        service.payload.close()


def run(faults: Sequence[str], states: Sequence[str] = STATES) -> list[Cell]:
    """All cells, one after the other."""
    with tempfile.TemporaryDirectory(dir=MEMORY if Path(MEMORY).is_dir() else None) as folder, simulated() as place:
        pairs = [(fault, state) for fault in faults for state in states]
        return [cell(*pair, Path(folder), place, f"cell-{number}") for number, pair in enumerate(pairs)]


def table(cells: Sequence[Cell]) -> str:
    """Markdown: the end state of each cell; `!` where it is not what is expected. Below, the reasons people read."""
    states = list(dict.fromkeys(c.state for c in cells))
    lines = [f"| fault | {' | '.join(states)} |", "|---" * (len(states) + 1) + "|"]
    for fault in dict.fromkeys(c.fault for c in cells):
        row = [c for c in cells if c.fault == fault]
        lines.append(f"| {fault} | {' | '.join(c.ended + ('' if c.defined else ' !') for c in row)} |")
    lines += ["", "What a person reads:", ""]
    for fault in dict.fromkeys(c.fault for c in cells):
        reasons = dict.fromkeys(
            (c.ended, c.reason) for c in cells if c.fault == fault and c.state not in WITHOUT_EFFECT
        )
        lines += [f"- {fault}: {ended}: {reason}" for ended, reason in reasons if ended != "Done"]
    return "\n".join(lines)


def figures(cells: Sequence[Cell]) -> dict[str, int]:
    return {
        "cells": len(cells),
        "defined": sum(c.defined for c in cells),
        "double_rollbacks": sum(c.updates > c.most for c in cells),
        "silent": sum(c.silent for c in cells),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {len(QUICK)} faults")
    given = parser.parse_args()
    started = time.monotonic()
    cells = run(QUICK if given.quick else tuple(FAULTS))
    print(table(cells))
    print(f"\n{machine()}; {time.monotonic() - started:.0f} s")
    print(json.dumps(figures(cells)))


if __name__ == "__main__":
    main()
