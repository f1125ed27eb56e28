"""Ranges of touched windows: they cover what was touched, apart from it little, and never too many."""

from hypothesis import given
from hypothesis import strategies as st

from lastgood.jobs.touched import MAX_RANGES, Touched, ranges


@given(st.sets(st.integers(0, 5_000), max_size=400))
def test_ranges_cover_every_window_in_order_and_are_few(starts: set[int]) -> None:
    found = ranges((one * 60 for one in starts), 60)
    covered = [window for a, z in found for window in range(a // 60, z // 60)]
    assert starts <= set(covered)
    assert covered == sorted(set(covered))
    assert len(found) <= MAX_RANGES
    if len(starts) <= MAX_RANGES:
        assert set(covered) == starts


def test_where_the_ranges_are_too_many_the_smallest_gaps_are_closed() -> None:
    near = [i * 120 for i in range(MAX_RANGES)]
    found = ranges([*near, 10**6], 60)
    assert found[-1] == (10**6, 10**6 + 60)
    assert len(found) == MAX_RANGES


def test_names_are_quoted() -> None:
    assert Touched(((0, 60),), ("it's \\ one",)).where("t").endswith("AND endpoint IN ('it\\'s \\\\ one')")
    assert "endpoint" not in Touched(((0, 60),), None).where("t")
