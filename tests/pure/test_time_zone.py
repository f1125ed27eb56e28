"""Times on the pages: in the readers' zone, with UTC beside."""

from datetime import UTC, datetime

import pytest

from lastgood.alerts.web.view import story, when
from lastgood.errors import ConfigError
from lastgood.settings import load


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("UTC", "2026-01-05 23:30 UTC"),
        ("Europe/Berlin", "2026-01-06 00:30 CET (2026-01-05 23:30 UTC)"),
        ("America/New_York", "2026-01-05 18:30 EST (23:30 UTC)"),
    ],
)
def test_a_moment_is_said_in_the_readers_zone_and_in_utc(zone: str, shown: str) -> None:
    assert when(datetime(2026, 1, 5, 23, 30, tzinfo=UTC), load(web={"time_zone": zone}).web.zone) == shown


@pytest.mark.parametrize(
    ("zone", "shown"),
    [
        ("Etc/UTC", "2026-10-25 00:30 UTC"),
        ("Europe/Berlin", "2026-10-25 02:30 CEST (00:30 UTC)"),
        ("America/Sao_Paulo", "2026-10-24 21:30 UTC-03 (2026-10-25 00:30 UTC)"),
        ("Asia/Kathmandu", "2026-10-25 06:15 UTC+0545 (00:30 UTC)"),
    ],
)
def test_a_zone_without_a_name_or_that_is_utc_reads_well(zone: str, shown: str) -> None:
    assert when(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), load(web={"time_zone": zone}).web.zone) == shown


def test_the_hour_that_a_clock_change_repeats_is_told_apart() -> None:
    berlin = load(web={"time_zone": "Europe/Berlin"}).web.zone
    first, second = (when(datetime(2026, 10, 25, hour, 30, tzinfo=UTC), berlin) for hour in (0, 1))
    assert first == "2026-10-25 02:30 CEST (00:30 UTC)" and second == "2026-10-25 02:30 CET (01:30 UTC)"


def test_who_did_what_is_told_in_the_readers_zone() -> None:
    entry = {"at": datetime(2026, 1, 5, 12, 0, tzinfo=UTC), "who": "ann", "what": "approved", "detail": {}}
    ((at, *_),) = story([entry], load(web={"time_zone": "Europe/Berlin"}).web.zone)
    assert at == "2026-01-05 13:00 CET (12:00 UTC)"


def test_a_zone_that_is_none_is_refused_by_name() -> None:
    with pytest.raises((ConfigError, ValueError), match="Mars/Base"):
        load(web={"time_zone": "Mars/Base"})
