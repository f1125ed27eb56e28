"""A calendar file (iCalendar, RFC 5545) -> silences and freezes: change freezes, the platform's maintenance, planned load tests.

Of an event: SUMMARY is the reason, LOCATION the endpoints (patterns, comma-separated; none: all), CATEGORIES `silence` makes it a silence,
everything else a freeze. Repeating events repeat; a time without a zone is UTC; a whole day is that day in UTC.
"""

import hashlib
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import icalendar
import recurring_ical_events

from lastgood.alerts.records import Pause, PauseKind
from lastgood.errors import ConfigError
from lastgood.record.windows import utc

AHEAD = timedelta(days=1)
FOR = timedelta(seconds=30)
"""How long what was read of the file stands before it is looked at again."""
log = logging.getLogger("lastgood.alerts")


class Calendar:
    """Asked with a time, it answers with what is in force then or begins within a day.

    A file that becomes unreadable while the service runs leaves what it said before in force, and stands in `problem`.
    Errors (of the constructor): ConfigError when the file cannot be read at the start.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._events: recurring_ical_events.CalendarQuery | None = None
        self._version: tuple[int, int] | None = None
        self._answered: tuple[datetime, tuple[Pause, ...]] | None = None
        self.problem = ""
        if path is not None:
            self._load(path)

    def __call__(self, now: datetime) -> tuple[Pause, ...]:
        if self._path is None:
            return ()
        if self._answered and timedelta() <= now - self._answered[0] < FOR:
            return self._answered[1]
        pauses = self._answered[1] if self._answered else ()
        try:
            self._load(self._path)
            self.problem = ""
        except ConfigError as error:
            self.problem = str(error)
            log.warning("%s", error)
        try:
            pauses = tuple(self._pauses(now))
        except Exception as error:
            self.problem = f"calendar {self._path}: an event cannot be read: {error}"
            log.warning("%s", self.problem)
        self._answered = (now, pauses)
        return pauses

    def _load(self, path: Path) -> None:
        try:
            facts = path.stat()
            if (facts.st_mtime_ns, facts.st_size) == self._version:
                return
            # Without blank lines, on which the library spends the square of their number.
            lines = (line for line in path.read_bytes().split(b"\n") if line.strip())
            calendar = icalendar.Calendar.from_ical(b"\n".join(lines))
            for event in calendar.walk("VEVENT"):
                _check(event)
            events = recurring_ical_events.of(calendar)
            events.between(datetime.now(UTC), datetime.now(UTC) + AHEAD)
        except Exception as error:  # whatever is wrong with a file that people write must not stop a decision
            raise ConfigError(f"calendar {path}: cannot be read: {error}") from error
        self._events, self._version = events, (facts.st_mtime_ns, facts.st_size)

    def _pauses(self, now: datetime) -> Iterator[Pause]:
        assert self._path is not None and self._events is not None
        for event in self._events.between(now, now + AHEAD):
            if str(event.get("STATUS") or "").upper() == "CANCELLED":
                continue
            kinds = {str(name).casefold() for name in _categories(event)}
            kind = PauseKind.SILENCE if "silence" in kinds else PauseKind.FREEZE
            starts, ends = _utc(event["DTSTART"].dt), _utc(event["DTEND"].dt)
            why = str(event.get("SUMMARY") or "no reason given")
            for pattern in _patterns(event):
                key = f"{event.get('UID')}\n{starts}\n{pattern}"
                identity = hashlib.sha256(key.encode()).hexdigest()[:8]
                yield Pause(identity, kind, pattern, starts, ends, self._path.name, why)


def _check(event: icalendar.Event) -> None:
    """Errors: ValueError for an event that the library would take in some other sense, or for ever."""
    name = str(event.get("SUMMARY") or event.get("UID") or "an event")
    rule = event.get("RRULE")
    for rules in rule if isinstance(rule, list) else [rule] if rule else []:
        if any(int(interval) < 1 for interval in rules.get("INTERVAL", [1])):
            raise ValueError(f"{name}: INTERVAL must be at least 1")
    start, end = event.get("DTSTART"), event.get("DTEND")
    if start is None:
        raise ValueError(f"{name}: has no DTSTART")
    for moment in (start, end):
        if moment is not None and moment.params.get("TZID") and getattr(moment.dt, "tzinfo", None) is None:
            raise ValueError(f"{name}: the time zone {moment.params['TZID']} is not known")
    if end is not None and _utc(end.dt) < _utc(start.dt):
        raise ValueError(f"{name}: ends before it starts")


def _patterns(event: icalendar.Event) -> list[str]:
    """Patterns of endpoints; `*` where the event names none."""
    places = event.get("LOCATION") or []
    text = ",".join(str(place) for place in (places if isinstance(places, list) else [places]))
    return [pattern.strip() for pattern in text.split(",") if pattern.strip()] or ["*"]


def _categories(event: icalendar.Event) -> list[str]:
    groups = event.get("CATEGORIES") or []
    groups = groups if isinstance(groups, list) else [groups]
    return [str(name) for group in groups for name in group.cats]


def _utc(moment: date) -> datetime:
    if not isinstance(moment, datetime):
        return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return utc(moment)
