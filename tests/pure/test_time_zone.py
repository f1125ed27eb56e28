"""Times on the pages: in the readers' zone, with UTC beside."""

from datetime import UTC, datetime

import pytest

from lastgood.alerts.web.view import when
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


def test_a_zone_that_is_none_is_refused_by_name() -> None:
    with pytest.raises((ConfigError, ValueError), match="Mars/Base"):
        load(web={"time_zone": "Mars/Base"})
