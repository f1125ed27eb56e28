"""The mark that a run's commit carries: of two runs the one that looked later, or puts right what the other left, has the higher."""

from types import SimpleNamespace
from typing import Any

from lastgood.tables import runs


def test_runs_of_a_table_that_is_gone_do_not_use_up_the_marks_of_the_new_one() -> None:
    """A job that ran every few minutes leaves thousands of records, all of them of newer versions than the new table has."""

    def ended(version: int, table_id: str) -> dict[str, Any]:
        return {"version": version, "after": version - 1, "table_id": table_id}

    ctx: Any = SimpleNamespace(span=None)
    earlier = [ended(version, "gone") for version in range(10, 10 + 2 * runs.MOST_AGAIN)]
    marks = []
    for _ in range(3):  # two runs at once, and the one that takes the same changes in again
        marks.append(runs.fence(ctx, runs.begun("windows", "requests", earlier, 4, 5, 5, "new")))
        earlier.append(ended(5, "new"))
    versions = [mark[1] for mark in marks if mark]
    assert len(versions) == 3
    assert versions == sorted(set(versions))
