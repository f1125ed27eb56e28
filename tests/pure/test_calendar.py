"""A calendar file says when changes are frozen and pages silent; a file that breaks leaves in force what it said."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint, settings

from lastgood.alerts.calendar import Calendar
from lastgood.alerts.records import PauseKind
from lastgood.alerts.rollback.machine import Status
from lastgood.errors import ConfigError
from lastgood.settings import Mode


def event(start: str, end: str, *lines: str) -> str:
    return "\r\n".join(
        ["BEGIN:VEVENT", "UID:1", "DTSTAMP:20260101T000000Z", f"DTSTART{start}", f"DTEND{end}", *lines, "END:VEVENT"]
    )


def written(path: Path, *events: str) -> Path:
    path.write_text("\r\n".join(["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//test//EN", *events, "END:VCALENDAR", ""]))
    return path


def test_events_repeat_have_zones_and_name_endpoints(tmp_path: Path) -> None:
    weekly = event(
        ";TZID=Europe/Berlin:20260105T220000",
        ";TZID=Europe/Berlin:20260106T040000",
        "RRULE:FREQ=WEEKLY",
        "SUMMARY:Platform maintenance",
    )
    days = event(";VALUE=DATE:20261224", ";VALUE=DATE:20261227", "SUMMARY:Holidays", "LOCATION:chat-*, search")
    quiet = event(":20261224T100000", ":20261224T110000", "CATEGORIES:load test,Silence")
    calendar = Calendar(written(tmp_path / "c.ics", weekly, days, quiet))
    (summer,) = calendar(datetime(2026, 7, 6, 20, 30, tzinfo=UTC))
    assert summer.in_force(datetime(2026, 7, 6, 20, 30, tzinfo=UTC)), "22:00 in Berlin is 20:00 UTC in summer"
    assert not summer.in_force(datetime(2026, 7, 6, 19, 59, tzinfo=UTC))
    assert (summer.kind, summer.endpoint, summer.why) == (PauseKind.FREEZE, "*", "Platform maintenance")
    christmas = calendar(datetime(2026, 12, 24, 10, 30, tzinfo=UTC))
    assert sorted((pause.kind, pause.endpoint) for pause in christmas) == [
        (PauseKind.FREEZE, "chat-*"), (PauseKind.FREEZE, "search"), (PauseKind.SILENCE, "*"),
    ]  # fmt: skip
    assert calendar(datetime(2026, 12, 30, 12, tzinfo=UTC)) == ()


def test_no_file_is_no_pause_and_a_file_that_cannot_be_read_is_an_error_at_the_start(tmp_path: Path) -> None:
    assert Calendar(None)(START) == ()
    (tmp_path / "broken.ics").write_text("BEGIN:VCALENDAR\nDTSTART:never")
    for path in (tmp_path / "none.ics", tmp_path / "broken.ics"):
        with pytest.raises(ConfigError, match=r"calendar .*\.ics: cannot be read"):
            Calendar(path)


def test_a_file_that_breaks_while_it_is_in_use_leaves_what_it_said_in_force_and_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "c.ics", event(":20260101T000000Z", ":20270101T000000Z", "SUMMARY:year"))
    calendar, now = Calendar(path), datetime(2026, 3, 1, tzinfo=UTC)
    assert len(calendar(now)) == 1
    path.write_text("half")
    assert len(calendar(now + timedelta(minutes=1))) == 1
    assert "cannot be read" in calendar.problem
    written(path)
    assert calendar(now + timedelta(minutes=2)) == ()
    assert calendar.problem == ""


def test_a_freeze_of_the_calendar_holds_a_rollback_back_and_ends_with_the_event(tmp_path: Path) -> None:
    start, end = START - timedelta(hours=1), START + timedelta(minutes=10)
    path = written(
        tmp_path / "c.ics", event(f":{start:%Y%m%dT%H%M%SZ}", f":{end:%Y%m%dT%H%M%SZ}", "SUMMARY:maintenance")
    )
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.AUTO), calendar=Calendar(path))
    house.verdict()
    house.tick()
    assert house.rollback().state is Status.PROPOSED
    assert "changes are frozen until" in house.notifier.events[-1]["payload"]["summary"]
    house.clock.forward(700)
    house.tick_until(lambda rollback: rollback.state is Status.DONE)
    house.close()
