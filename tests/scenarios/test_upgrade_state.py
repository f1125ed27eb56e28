"""The operational state that the released 0.1.0 wrote is read by this version: every rollback in it goes on to its end.

`tests/archive/0.1.0.tar.xz` holds a database of each state of a rollback, what the serving API showed then, and tables of its jobs.
"""

import json
import tarfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fault_matrix import ENDED, UPDATE_S, Place, finish, simulated
from benchmarks.rig import Rig, Said
from lastgood.alerts.store import Store
from lastgood.settings import Policy

ARCHIVE = Path(__file__).parents[1] / "archive" / "0.1.0.tar.xz"
STATES = ("Proposed", "Held", "Approved", "Restoring", "Shifting", "Verifying", "Done", "Rejected", "Expired", "Failed")


class Archived(Rig):
    """The rig over a state that is there: the workspace is brought to where it was, nothing is judged anew."""

    def __init__(self, name: str, state: Path, shown: dict[str, Any], now: datetime, place: Place) -> None:
        self.name, self.network, self.api, self.workspace, self.clock = (
            name, place.network, place.api, place.workspace, place.clock,
        )  # fmt: skip
        self.now, self.said = now, Said()
        self.policy = Policy(ready_timeout_s=60, verify_timeout_s=60, proposal_ttl_s=600, cooldown_s=0)
        self.store = Store(f"sqlite:///{state}")
        self.controller = self.instance()
        config = {key: value for key, value in shown["config"].items() if key != "config_version"}
        first = {"traffic_config": {"routes": [{"served_entity_name": "support_chat-3", "traffic_percentage": 100}]}}
        bad = [entity for entity in config["served_entities"] if entity["entity_version"] == "3"]
        moved = shown["config"]["config_version"] > 1
        begun = {**first, "served_entities": bad} if moved else config
        self.call("POST", "/api/2.0/serving-endpoints", {"name": name, "config": begun})
        for _ in range(shown["config"]["config_version"] - 1):
            self.update(config)
            self.clock.now += 2 * UPDATE_S
        if pending := shown.get("pending_config"):
            self.update({key: value for key, value in pending.items() if key != "config_version"})

    def update(self, config: dict[str, Any]) -> None:
        answer = self.call("PUT", f"/api/2.0/serving-endpoints/{self.name}/config", config)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("state", STATES)
def test_a_rollback_that_0_1_0_left_goes_on_to_its_end(state: str, tmp_path: Path) -> None:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    name = state.lower()
    described = json.loads((tmp_path / "state" / "endpoints.json").read_text())[name]
    with simulated() as place:
        database = tmp_path / "state" / f"{name}.db"
        rig = Archived(name, database, described["endpoint"], datetime.fromisoformat(described["now"]), place)
        assert rig.shown()["config"]["config_version"] == described["endpoint"]["config"]["config_version"]
        assert rig.rollback().state == described["rollback"]
        with rig.store.read() as tx:
            before = tx.audit()
        finish(rig)
        rig.tick()
        rig.clock.now += 2 * UPDATE_S
        expected = state if state in ENDED else "Done"
        assert rig.rollback().state == expected, rig.rollback().progress
        routes = rig.shown()["config"]["traffic_config"]["routes"]
        shares = {route["served_entity_name"]: route["traffic_percentage"] for route in routes}
        assert shares["support_chat-3"] == (0 if expected == "Done" else 100)
        with rig.store.read() as tx:
            audit = tx.audit()
            assert tx.verify() == []
        assert audit[: len(before)] == before
        rig.store.close()
