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
        try:
            self._load(self._path)
            self.problem = ""
        except ConfigError as error:
            self.problem = str(error)
            log.warning("%s", error)
        pauses = tuple(self._pauses(now))
        self._answered = (now, pauses)
        return pauses

    def _load(self, path: Path) -> None:
        try:
            facts = path.stat()
            if (facts.st_mtime_ns, facts.st_size) == self._version:
                return
            events = recurring_ical_events.of(icalendar.Calendar.from_ical(path.read_bytes()))
            events.between(datetime.now(UTC), datetime.now(UTC) + AHEAD)  # an event that cannot be read shows now
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise ConfigError(f"calendar {path}: cannot be read: {error}") from error
        self._events, self._version = events, (facts.st_mtime_ns, facts.st_size)

    def _pauses(self, now: datetime) -> Iterator[Pause]:
        assert self._path is not None and self._events is not None
        for event in self._events.between(now, now + AHEAD):
            kinds = {str(name).casefold() for name in _categories(event)}
            kind = PauseKind.SILENCE if "silence" in kinds else PauseKind.FREEZE
            starts, ends = _utc(event["DTSTART"].dt), _utc(event["DTEND"].dt)
            why = str(event.get("SUMMARY") or "no reason given")
            for pattern in str(event.get("LOCATION") or "*").split(","):
                key = f"{event.get('UID')}\n{starts}\n{pattern}"
                identity = hashlib.sha256(key.encode()).hexdigest()[:8]
                yield Pause(identity, kind, pattern.strip() or "*", starts, ends, self._path.name, why)


def _categories(event: icalendar.Event) -> list[str]:
    groups = event.get("CATEGORIES") or []
    groups = groups if isinstance(groups, list) else [groups]
    return [str(name) for group in groups for name in group.cats]


def _utc(moment: date) -> datetime:
    if not isinstance(moment, datetime):
        return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
