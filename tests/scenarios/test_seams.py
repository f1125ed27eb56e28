"""Where two promises meet: each test is an order of events in which one of them was broken."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from alerts_support import Build, House, MemoryWorkspace, ended, endpoint, entity, open_incidents, settings, verdict

from lastgood.alerts.calendar import Calendar
from lastgood.alerts.records import PauseKind
from lastgood.alerts.rollback.machine import Approve, Reject, Status
from lastgood.alerts.rollback.verify import Recovery
from lastgood.errors import ConfigError
from lastgood.record.verdict import Finding, State
from lastgood.settings import Mode
from lastgood.workspace import ServedEntity
from lastgood.workspace.databricks import parse


def test_another_model_with_the_prior_versions_number_gets_no_traffic(build: Build) -> None:
    embed = ServedEntity(
        "embed-2",
        "prod.ml.embed",
        "2",
        settings={"name": "embed-2", "entity_name": "prod.ml.embed", "entity_version": "2"},
    )
    house = build(
        Mode.AUTO,
        MemoryWorkspace(replace(endpoint("3"), entities=(embed, entity("3")), traffic={"chat-3": 100, "embed-2": 0})),
    )
    house.verdict()
    house.tick(3)
    assert house.workspace.updates == []
    assert "version 2" in house.notifier.events[-1]["payload"]["summary"]


def test_one_rollback_of_an_endpoint_at_a_time_also_while_telemetry_is_hours_late(build: Build) -> None:
    house = build(Mode.AUTO, MemoryWorkspace(endpoint("2", "3", "4", v3=50, v4=50)), ready_timeout_s=2400)
    house.telemetry.answer = Recovery(None, None, "0 requests since the shift")
    house.verdict(candidate="3")
    house.tick_until(lambda rollback: rollback.state is Status.VERIFYING)
    house.clock.forward(3 * 3600)
    house.verdict(candidate="4")
    house.tick(3)
    with house.store.read() as tx:
        states = {r.plan.bad_version: r.state for r in tx.rollbacks("chat", 10)}
    assert states == {"3": Status.VERIFYING, "4": Status.PROPOSED}


def test_a_list_that_loses_endpoints_ends_no_incident_and_is_told(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.controller.observe_endpoints()
    house.verdict()
    house.workspace.names = lambda: []
    house.controller.observe_endpoints()
    house.tick(2)
    assert open_incidents(house) == 1
    assert "a lost grant?" in house.controller.unlisted["chat"]


def test_a_rollback_is_not_done_when_somebody_moved_the_traffic_back_meanwhile(build: Build) -> None:
    house = build(Mode.AUTO)
    house.telemetry.answer = Recovery(None, None, "0 requests since the shift")
    house.verdict()
    house.tick_until(lambda rollback: rollback.state is Status.VERIFYING)
    house.workspace._endpoints["chat"] = replace(house.workspace.endpoint("chat"), traffic={"chat-2": 0, "chat-3": 100})
    house.telemetry.answer = Recovery(True, True, "errors are back")
    failed = house.tick_until(ended)
    assert failed.state is Status.FAILED and "sends 100% to version 3 again" in failed.progress.reason


def test_an_entity_that_somebody_adds_during_the_shift_does_not_hide_that_traffic_moved(build: Build) -> None:
    class Adding(MemoryWorkspace):
        def endpoint(self, name: str) -> Any:
            shown = super().endpoint(name)
            if shown.traffic.get("chat-2") == 100 and len(shown.entities) == 2:
                shown = replace(shown, entities=(*shown.entities, entity("4")), config_version=shown.config_version + 1)
                self._endpoints[name] = shown
            return shown

    house = build(Mode.AUTO, Adding(endpoint("2", "3")))
    house.verdict()
    assert house.tick_until(ended).state is Status.DONE
    summaries = house.notifier.summaries()
    assert any("served entity chat-4 is new" in summary for summary in summaries), summaries


def test_nothing_is_sent_to_a_sleeping_version_while_the_kill_switch_is_on(build: Build) -> None:
    workspace = MemoryWorkspace(
        replace(endpoint("2", "3"), entities=(entity("2", scale_to_zero_enabled=True), entity("3")))
    )
    house = build(Mode.AUTO, workspace)
    house.verdict()
    house.controller.people.set_kill_switch(True, "ann", "test")
    house.tick(3)
    assert workspace.invoked == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_on_the_way_is_no_sign_that_a_version_is_awake(build: Build, status: int) -> None:
    workspace = MemoryWorkspace(
        replace(endpoint("2", "3"), entities=(entity("2", scale_to_zero_enabled=True), entity("3")))
    )
    workspace.asleep = [status] * 2
    house = build(Mode.AUTO, workspace)
    house.verdict()
    house.tick(2)
    assert workspace.updates == []
    assert house.tick_until(ended).state is Status.DONE


def test_an_approval_acknowledges_every_page_of_the_incident(build: Build) -> None:
    house = build(Mode.APPROVE)
    house.verdict()
    house.tick()
    house.controller.people.decide(house.token(), Approve("ann"))
    now = house.workspace.endpoint("chat")
    house.workspace._endpoints["chat"] = replace(now, config_version=now.config_version + 1)
    house.tick_until(lambda rollback: rollback.state is Status.PROPOSED)
    house.tick()
    keys = {e["dedup_key"] for e in house.notifier.events if e["event_action"] == "trigger"}
    assert len(keys) == 2, "the void approval pages again"
    house.controller.people.decide(house.token(), Approve("ann"))
    house.tick(2)
    assert {e["dedup_key"] for e in house.notifier.events if e["event_action"] == "acknowledge"} == keys


def spoken(house: House, finding: Finding) -> None:
    house.controller.handle(replace(verdict(State.ROLL_BACK, house.clock.now), findings=(finding,)))


def test_what_was_rejected_twice_for_two_reasons_is_not_asked_a_third_time(build: Build) -> None:
    house = build(Mode.APPROVE)
    errors = Finding("error_rate", "6% fail", 400.0, 15.0, 9.0, 24.0, 0.06, 0.004)
    latency = Finding("latency", "slower", 400.0, 2.0, 1.5, 3.0, 0.3, 0.1)
    for finding in (errors, latency):
        spoken(house, finding)
        house.tick()
        house.controller.people.decide(house.token(), Reject("ann", "known"))
    asked = house.rollbacks()
    for finding in (errors, latency, errors):
        spoken(house, finding)
        house.tick(2)
    assert house.rollbacks() == asked == 2


def test_a_version_with_an_incident_of_its_own_waits_for_a_person(build: Build) -> None:
    house = build(Mode.AUTO, MemoryWorkspace(endpoint("2", "3", "4", v3=50, v4=50)))
    house.verdict(State.PAGE, candidate="3")
    house.verdict(candidate="4", prior="3")
    house.tick()
    with house.store.read() as tx:
        (rollback,) = tx.rollbacks("chat", 10)
    assert (rollback.state, rollback.progress.reason) == (Status.PROPOSED, "version 3 has an open incident of its own")


def test_a_silence_keeps_asks_back_too_and_they_come_when_it_ends(tmp_path: Path) -> None:
    from datetime import timedelta

    from alerts_support import START

    from lastgood.alerts.records import Pause

    held = Pause(
        "p", PauseKind.SILENCE, "*", START - timedelta(hours=1), START + timedelta(hours=1), "ann", "load test"
    )
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE), calendar=lambda now: (held,))
    house.verdict()
    house.tick(2)
    assert house.notifier.events == []
    house.clock.forward(3700)
    house.verdict()
    house.tick()
    assert house.notifier.kinds()[0][0] == "trigger"
    house.close()


def test_a_document_that_is_not_understood_names_its_endpoint() -> None:
    config = {
        "served_entities": [{"name": "a"}, {"name": "b"}],
        "traffic_config": {"routes": [{"served_entity_name": "a"}]},
    }
    assert parse({"name": "e", "config": config}).traffic == {"a": 0}


EVENT = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20260101T000000Z\r\n{}\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("DTSTART:20260301T140000Z\r\nDTEND:20260301T100000Z", "ends before it starts"),
        (
            "DTSTART:20260301T140000Z\r\nDTEND:20260301T150000Z\r\nRRULE:FREQ=DAILY;INTERVAL=0",
            "INTERVAL must be at least 1",
        ),
        ("SUMMARY:no time", "no DTSTART"),
    ],
)
def test_an_event_that_cannot_be_is_an_error_of_the_file_and_of_no_decision(
    tmp_path: Path, lines: str, why: str
) -> None:
    path = tmp_path / "c.ics"
    path.write_text(EVENT.format("DTSTART:20260301T000000Z\r\nDTEND:20260401T000000Z\r\nSUMMARY:spring"))
    calendar, house = Calendar(path), None
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.AUTO), calendar=calendar)
    path.write_text(EVENT.format(lines))
    house.clock.forward(60)
    house.verdict()
    assert open_incidents(house) == 1
    assert why in calendar.problem
    with pytest.raises(ConfigError, match=why):
        Calendar(path)
    house.close()


def test_a_cancelled_event_freezes_nothing_and_an_empty_place_is_not_every_endpoint(tmp_path: Path) -> None:
    from alerts_support import START

    path = tmp_path / "c.ics"
    times = f"DTSTART:{START:%Y%m%d}T000000Z\r\nDTEND:{START:%Y%m%d}T235900Z"
    path.write_text(EVENT.format(f"{times}\r\nSTATUS:CANCELLED"))
    assert Calendar(path)(START) == ()
    path.write_text(EVENT.format(f"{times}\r\nLOCATION:chat\\,"))
    assert [pause.endpoint for pause in Calendar(path)(START)] == ["chat"]
