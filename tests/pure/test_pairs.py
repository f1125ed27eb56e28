"""Which versions a table of one's own is judged by, where no ledger says it."""

from datetime import UTC, datetime, timedelta

from lastgood.jobs.deployed import pairs_of
from lastgood.jobs.score import SPENT, Budget
from lastgood.record.windows import Counts

START = datetime(2026, 3, 1, tzinfo=UTC)


def windows(version: str, rows: int, first: int = 0) -> list[Counts]:
    return [Counts("e", version, "m/64", START + timedelta(minutes=i), rows, float(rows)) for i in range(first, 50)]


def test_versions_that_were_there_from_the_start_are_told_apart_by_their_requests() -> None:
    pair = pairs_of([*windows("a", 50), *windows("b", 40)])["e"]
    assert (pair.candidate, pair.prior) == ("b", "a")


def test_a_version_that_came_later_is_the_new_one_and_a_stray_row_is_none() -> None:
    pair = pairs_of([*windows("a", 50), *windows("b", 90, 20), *windows("stray", 1, 49)])["e"]
    assert (pair.candidate, pair.prior, pair.since) == ("b", "a", START + timedelta(minutes=20))
    assert pairs_of([*windows("a", 50), *windows("?", 9)])["e"].prior is None


def test_a_budget_that_was_lowered_below_what_is_spent_allows_nothing() -> None:
    for calls, money in ((-2, None), (0, None), (1, None), (10, 0.0), (10, -3.0)):
        budget = Budget(calls, money)
        assert (budget.allows(8), budget.left_out[SPENT]) == (0, 8), (calls, money)
    assert Budget(7, 0.01).allows(8) == 3
