"""Answers that are kept for the next who asks."""

from datetime import UTC, datetime, timedelta

import pytest

from lastgood.alerts.web.remembered import Remembered


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def test_an_answer_is_made_once_for_its_life_and_none_is_an_answer() -> None:
    clock, made = Clock(), list[str]()
    kept: Remembered[None] = Remembered(clock, timedelta(minutes=1))
    for seconds in (0, 59, 1, 59):  # at 0, 59, 60 and 119 seconds
        clock.now += timedelta(seconds=seconds)
        kept("a", lambda: made.append("a"))
    assert len(made) == 2


def test_only_the_newest_are_kept() -> None:
    made = list[int]()
    kept: Remembered[int] = Remembered(Clock(), timedelta(minutes=1), most=3)
    for key in (1, 2, 3, 4, 4, 2, 1):
        kept(key, lambda key=key: made.append(key) or key)  # type: ignore[misc]
    assert made == [1, 2, 3, 4, 1]


def test_an_error_is_not_kept() -> None:
    kept: Remembered[int] = Remembered(Clock(), timedelta(minutes=1))
    with pytest.raises(ValueError):
        kept("a", lambda: int("x"))
    assert kept("a", lambda: 7) == 7
