"""Salts of the hashes that stand for requesters: which months there are."""

from datetime import UTC, datetime

import pytest

from lastgood.jobs.requesters import months


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ((2026, 3, 1), (2026, 3, 31), ["2026-03"]), ((2025, 12, 31), (2026, 1, 1), ["2025-12", "2026-01"]),
        ((2025, 11, 5), (2026, 2, 1), ["2025-11", "2025-12", "2026-01", "2026-02"]), ((2026, 3, 2), (2026, 3, 1), ["2026-03"]),
        ((2026, 4, 1), (2026, 3, 1), []),
    ],
)  # fmt: skip
def test_months_of_a_span(first: tuple[int, int, int], last: tuple[int, int, int], expected: list[str]) -> None:
    assert months([(datetime(*first, tzinfo=UTC), datetime(*last, tzinfo=UTC))] * 2) == expected
