"""The controller through crashes, restarts, a second instance and dead receivers; and with the real client."""

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alerts_support import Build, House, ListNotifier, MemoryWorkspace, audit, ended, endpoint, entity, settings
from sqlalchemy import create_engine, event, text
from tenacity import wait_none

from lastgood.alerts.notify.fake_pagerduty import serve_fake
from lastgood.alerts.notify.pagerduty import PagerDuty
from lastgood.alerts.outbox import GIVE_UP
from lastgood.alerts.records import Rollback
from lastgood.alerts.rollback.machine import Approve, Status
from lastgood.alerts.tx import Tx
from lastgood.errors import RefusedError, TransientError
from lastgood.record.verdict import State
from lastgood.settings import Mode, WorkspaceSettings
from lastgood.workspace import Endpoint, Update, local
from lastgood.workspace.databricks import connect

# crashes and restarts


class CrashError(Exception):
    """The process dies here."""


def crash_points(house: House, monkeypatch: pytest.MonkeyPatch, at: int) -> list[int]:
    """Count the moments around every journal write, state write and update; die at the one numbered `at`."""
    count = [0]

    def here() -> None:
        count[0] += 1
        if count[0] == at:
            raise CrashError

    def around(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def wrapped(*args: Any, **values: Any) -> Any:
            here()
            result = inner(*args, **values)
            here()
            return result

        monkeypatch.setattr(owner, name, wrapped)

    for name in ("write_journal", "save_rollback", "add_rollback", "record", "say", "use_nonce"):
        around(Tx, name)
    around(house.workspace, "update_config")
    around(house.notifier, "send")
    return count


def live_through(house: House, clicked: bool) -> Rollback:
    """The same input again and again, restarting after each crash, until the rollback ends."""
    for _ in range(200):
        house.clock.forward(5)
        try:
            with house.store.read() as tx:
                started = bool(tx.incidents())
            if not started or house.rollback().state is Status.PROPOSED:
                house.verdict()
            if clicked and house.rollback().state is Status.PROPOSED and house.notifier.events:
                house.controller.people.decide(house.token(), Approve("ann"))
            house.controller.tick()
            house.controller.send()
        except CrashError:
            house.store.close()
            house.restart()
            house.clock.forward(150)  # the lease of the dead process runs out
            continue
        if house.rollback().state.ended:
            return house.rollback()
    raise AssertionError("no end state within the bound")


@pytest.mark.parametrize("slow", [False, True], ids=["fast", "slow"])
@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.APPROVE])
def test_a_crash_at_any_point_makes_no_second_update(tmp_path: Path, mode: Mode, slow: bool) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        workspace = MemoryWorkspace(endpoint("2") if slow else endpoint("2", "3"))
        house = House(folder, workspace, settings(mode))
        if slow:
            house.controller.observe_endpoints()
            workspace._endpoints["chat"] = endpoint("3", config_version=9)
        with pytest.MonkeyPatch.context() as monkeypatch:
            count = crash_points(house, monkeypatch, at)
            done = live_through(house, mode is Mode.APPROVE)
        assert done.state is Status.DONE, (at, done.progress)
        assert len(workspace.updates) == (2 if slow else 1), at
        assert workspace.updates[-1][1] == {"chat-2": 100, "chat-3": 0}
        with house.store.read() as tx:
            assert tx.verify() == []
        assert house.rollbacks() == 1
        house.store.close()
        if count[0] < at:
            break
    assert at > 30, "the crash points were reached"


@pytest.mark.parametrize("ticks", range(1, 6))
def test_a_restart_in_the_middle_goes_on(build: Build, ticks: int) -> None:
    house = build()
    house.verdict()
    house.tick(ticks)
    house.store.close()
    house.restart()
    assert house.tick_until(ended).state is Status.DONE
    assert len(house.workspace.updates) == 1


def test_two_controllers_on_one_store_make_one_update(build: Build) -> None:
    house = build()
    other = House(house.folder, house.workspace, house.config, house.notifier, house.telemetry)
    house.verdict()
    other.verdict()
    for _ in range(10):
        house.tick()
        other.clock.now = house.clock.now
        other.controller.tick()
        other.controller.send()
    assert house.rollback().state is Status.DONE
    assert len(house.workspace.updates) == 1
    assert house.rollbacks() == 1
    other.store.close()


def test_one_rollback_per_endpoint_at_a_time(build: Build) -> None:
    house = build(Mode.APPROVE, workspace=MemoryWorkspace(endpoint("1", "2", "3", v2=50, v3=50), polls=50))
    house.verdict(candidate="2", prior="1")
    house.tick()
    first = house.token()
    house.verdict()
    house.tick()
    house.controller.people.decide(first, Approve("ann"))
    with pytest.raises(RefusedError, match="another rollback of chat is under way"):
        house.controller.people.decide(house.token(), Approve("bob"))


# messages


def test_a_dead_notifier_does_not_block_the_rollback_and_what_is_open_is_told_later(tmp_path: Path) -> None:
    with serve_fake() as fake:
        fake.answers += [500] * 60
        pagerduty = PagerDuty(fake.url, "r" * 32, wait=wait_none())
        house = House(tmp_path, MemoryWorkspace(endpoint("2", "3", "4", v3=50, v4=50)), settings(Mode.AUTO), pagerduty)
        house.verdict()
        assert house.tick_until(ended, 15).state is Status.DONE
        house.verdict(State.PAGE, candidate="4", prior="2")
        house.tick()
        assert fake.events() == []
        fake.answers.clear()
        house.tick(10, every_s=300)
        assert [e["event_action"] for e in fake.events()] == ["resolve", "trigger"], (
            "version 3 is over, version 4 is not"
        )
        house.close()


def test_a_receiver_that_is_down_is_tried_once_a_tick(build: Build) -> None:
    house = build(Mode.APPROVE, workspace=MemoryWorkspace(endpoint("1", "2", "3", v2=50, v3=50)))
    house.notifier.errors.append(TransientError("down"))
    house.verdict(candidate="2", prior="1")
    house.verdict()
    house.tick()
    assert house.notifier.events == []
    house.tick()
    assert len({e["dedup_key"] for e in house.notifier.events}) == 2


def test_a_message_that_a_receiver_refuses_is_kept_told_elsewhere_and_sent_after_the_next_start(build: Build) -> None:
    """A rotated key answers 400 to everything: the page must not be lost, and the other channels must say so."""
    house, other = build(), ListNotifier()
    house.controller._notifiers = {"pagerduty": house.notifier, "slack": other}
    house.notifier.errors += [RefusedError("400: invalid routing key")] * 100
    house.verdict(State.PAGE)
    house.tick(3)
    assert house.notifier.events == []
    with house.store.read() as tx:
        ((channel, (kept, error)),) = tx.refused().items()
    assert (channel, kept) == ("pagerduty", 1) and "routing key" in error, (
        "of one incident the oldest waits, the others behind it"
    )
    assert any("pagerduty refuses messages" in e["payload"]["summary"] for e in other.events)
    house.notifier.errors.clear()
    house.restart()
    house.tick(2)
    assert [k for k, _ in house.notifier.kinds()] == ["trigger"]


def test_an_alert_that_is_over_before_the_channel_takes_it_calls_nobody(build: Build) -> None:
    """The pager's key was rotated in the evening; when it is mended at night, what is long over wakes nobody."""
    house = build()
    house.notifier.errors = [RefusedError("invalid routing key")] * 3
    house.verdict()
    house.tick_until(ended)
    house.tick(3, every_s=600)
    assert house.notifier.errors == [], "it was tried"
    assert [kind for kind, _ in house.notifier.kinds()] == ["resolve"], "which nobody hears"
    assert "not sent any more" in audit(house)


def test_a_message_refused_for_a_week_is_given_up_and_recorded(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.notifier.errors += [RefusedError("400")] * 3
    house.verdict()
    house.tick()
    house.clock.forward(GIVE_UP.total_seconds())
    house.tick()
    assert "undeliverable" in audit(house)


def test_the_settings_of_entities_are_not_in_the_message(build: Build) -> None:
    secret = replace(entity("3"), settings={**entity("3").settings, "environment_vars": {"TOKEN": "hunter2"}})
    e = Endpoint("chat", 7, (entity("2"), secret), {"chat-2": 0, "chat-3": 100})
    house = build(Mode.APPROVE, workspace=MemoryWorkspace(e))
    house.verdict()
    house.tick()
    assert house.notifier.events and "hunter2" not in str(house.notifier.events)


# the real client against the local workspace


@pytest.mark.parametrize("path", ["fast", "slow", "failing"])
def test_through_the_real_client_on_the_local_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for variable in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        monkeypatch.delenv(variable)
    model = local.MODELS[local.CHAT]
    old, new = local.entity(model, "2", workload_size="Medium"), local.entity(model, "3")
    with local.serve(local.LocalConfig(update_s=0.2)) as running:
        monkeypatch.setenv("LOCAL_TOKEN", running.token)
        state = running.service.state
        state.create({"name": "chat", "config": local_config({old["name"]: 100}, old)})
        workspace = connect(WorkspaceSettings(host=running.url, token_env="LOCAL_TOKEN"))
        house = House(tmp_path, workspace, settings(Mode.AUTO))
        house.controller.observe_endpoints()
        both = () if path == "slow" else (old,)
        state.update("chat", local_config({new["name"]: 100, **{e["name"]: 0 for e in both}}, new, *both))
        while workspace.endpoint("chat").update is Update.IN_PROGRESS:
            time.sleep(0.02)
        if path == "failing":
            state.faults["chat", "2"] = local.Fault(never_ready=True)
        house.verdict()
        while not house.rollback().state.ended:
            time.sleep(0.02)
            house.tick(every_s=1)
        entities, shares = state.serving("chat")
        after = {e["entity_version"]: (share, e["workload_size"]) for e, share in zip(entities, shares, strict=True)}
        if path == "failing":
            assert house.rollback().state is Status.FAILED
            assert after == {"3": (100, "Small"), "2": (0, "Medium")}
        else:
            assert house.rollback().state is Status.DONE, house.rollback().progress
            assert house.rollback().plan.path == path
            assert after == {"3": (0, "Small"), "2": (100, "Medium")}
        house.store.close()


def local_config(traffic: dict[str, int], *entities: dict[str, Any]) -> dict[str, Any]:
    routes = [{"served_entity_name": name, "traffic_percentage": share} for name, share in traffic.items()]
    return {"served_entities": list(entities), "traffic_config": {"routes": routes}}


@pytest.mark.parametrize("cut", range(8, 280, 34))
def test_a_database_that_ends_a_connection_at_any_statement_costs_a_tick_and_nothing_else(
    cut: int, postgres_url: str, tmp_path: Path
) -> None:
    """A failover of PostgreSQL: the connection ends before statement (or commit) number `cut`."""
    admin = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    workspace = MemoryWorkspace(endpoint("2", "3", v2=90, v3=10))
    house = House(tmp_path, workspace, settings(Mode.AUTO), url=postgres_url)
    seen = [0]

    def end(connection: Any) -> None:
        seen[0] += 1
        if seen[0] == cut:
            pid = connection.connection.dbapi_connection.info.backend_pid
            with admin.connect() as other:
                other.execute(text(f"SELECT pg_terminate_backend({pid})"))

    event.listen(house.store._engine, "before_cursor_execute", lambda connection, *_: end(connection))
    event.listen(house.store._engine, "commit", end)
    while True:
        try:
            house.verdict(candidate="3", prior="2")
            break
        except TransientError:
            assert seen[0] >= cut
    for _ in range(60):
        with contextlib.suppress(TransientError):
            house.tick()
    assert seen[0] > cut
    assert house.rollback().state is Status.DONE
    assert len(workspace.updates) == 1
    with house.store.read() as tx:
        assert len(tx.incidents()) == 1
        assert tx.verify() == []
    assert len({message["dedup_key"] for message in house.notifier.events}) == 1
    house.close()
    admin.dispose()
