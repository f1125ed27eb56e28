"""The mark that a run's commit carries: of two runs the one that looked later, or puts right what the other left, has the higher."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from lastgood.tables import runs

CTX: Any = SimpleNamespace(span=None)


def ended(version: int, table_id: str | None, after: int | None = None) -> dict[str, Any]:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    return {"version": version, "after": after, "table_id": table_id, "finished_at": at}


def test_runs_of_a_table_that_is_gone_do_not_use_up_the_marks_of_the_new_one() -> None:
    """A job that ran every few minutes leaves thousands of records, all of them of newer versions than the new table has."""

    earlier = [ended(version, "gone") for version in range(10, 10 + 2 * runs.MOST_AGAIN)]
    marks = []
    for _ in range(3):  # two runs at once, and the one that takes the same changes in again
        marks.append(runs.fence(CTX, runs.begun("windows", "requests", earlier, 4, 5, 5, "new")))
        earlier.append(ended(5, "new"))
    versions = [mark[1] for mark in marks if mark]
    assert len(versions) == 3
    assert versions == sorted(set(versions))


def test_what_0_1_0_left_of_a_table_that_was_made_anew_since_counts_no_more() -> None:
    """Its records name no table. They must neither send the new one's bookmark back nor take the marks from its runs."""
    earlier = [
        record | {"finished_at": record["finished_at"] + timedelta(minutes=minute)}
        for minute, record in enumerate([ended(100, None), ended(101, "gone", 100), ended(3, "new", -1)])
    ]
    assert runs._placed(earlier, "new", 4) == (3, None)
    assert runs.fence(CTX, runs.begun("windows", "requests", earlier, 3, 4, 4, "new")) is not None
    assert runs._placed(earlier[:1], "kept", 101) == (100, None)
