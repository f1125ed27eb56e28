"""Time ranges in an address: what links to other ranges keep, and what they never do."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import pytest

from lastgood.alerts.web.ranges import LONGEST, Range, moment

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


def test_a_link_keeps_what_the_page_knows_and_nothing_else() -> None:
    """A page repeats what it keeps in some hundred links: an address of 36 KB made a page of 6 MB."""
    junk = {f"p{n}": "x" * 100 for n in range(3000)}
    asked = Range.of({**junk, "endpoint": " chat ", "id": "y" * 10_000, "range": "6h"}, NOW)
    assert asked.rest == {"endpoint": " chat ", "id": "y" * LONGEST}, "a name is repeated as it is"


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("2030-01-01", "2030-02-01"),
        ("2026-11-01", "2027-11-01"),
        ("2026-11-01", "2026-11-02"),
        ("9998-12-01", "9998-12-31"),
    ],
)
def test_wider_is_wider_wherever_the_range_lies(since: str, until: str) -> None:
    asked = Range.of({"from": since, "to": until}, NOW)
    query = {name: values[0] for name, values in parse_qs(dict(asked.steps)["Wider"][1:]).items()}
    first, last = moment(query, "from"), moment(query, "to")
    assert first is not None and last is not None
    assert first < asked.since and last >= asked.until


@pytest.mark.parametrize("begin", [None, NOW - timedelta(days=40), NOW - timedelta(days=2), NOW])
def test_earlier_ends_where_the_data_begins_and_never_leads_to_an_error(begin: datetime | None) -> None:
    asked = Range.of({"range": "90d"}, NOW, begin=begin)
    for _ in range(1000):
        link = dict(asked.steps).get("Earlier")
        if link is None:
            break
        asked = Range.of({name: values[0] for name, values in parse_qs(link[1:]).items()}, NOW, begin=begin)
    assert "Earlier" not in dict(asked.steps)
    assert asked.until >= (begin or NOW - timedelta(days=1100)) and asked.since > NOW - timedelta(days=1300)


@pytest.mark.parametrize(
    ("query", "elsewhere"),
    [
        ({}, {"endpoint": ["a b"]}),
        ({"range": "42d"}, {"endpoint": ["a b"], "range": ["42d"]}),
        (
            {"from": "2026-11-01", "to": "2026-11-02"},
            {"endpoint": ["a b"], "from": ["2026-11-01T00:00"], "to": ["2026-11-02T00:00"]},
        ),
    ],
)
def test_a_time_that_a_person_chose_goes_with_them_to_the_next_page(
    query: dict[str, str], elsewhere: dict[str, list[str]]
) -> None:
    """And without one every page has its own."""
    assert parse_qs(Range.of(query, NOW).over("a b")[1:]) == elsewhere
    assert Range.of({}, NOW).over() == ""
