"""One seed -> everything that happens: a clock, a random generator, faults that are on for a while, and what happened so far."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


class Killed(BaseException):
    """The process ends where it stands: `except Exception` does not see it."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass
class Chance:
    """`kinds`: the faults that may happen; `share`: how often a place that may fail does, while `storm` is on."""

    seed: int
    kinds: frozenset[str]
    share: float = 0.0
    storm: bool = True
    seconds: float = 0.0
    history: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    steps: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.share = self.share or self.random.choice((0.01, 0.03, 0.1, 0.25))

    def now(self) -> datetime:
        """The time here."""
        return BEGIN + timedelta(seconds=self.seconds)

    def pick(self, kind: str, rate: float = 1.0) -> bool:
        """Whether the fault happens at this moment. The same draws are made whichever kinds are on, so that a seed stays comparable."""
        drawn = self.random.random() < self.share * rate
        if not (drawn and self.storm and kind in self.kinds):
            return False
        self.injected[kind] += 1
        self.say(f"fault: {kind}")
        return True

    def say(self, what: str) -> None:
        self.history.append(f"{self.seconds:10.1f} {what}")

    def demand(self, holds: bool, what: str) -> None:
        """Errors: Violation."""
        if not holds:
            self.say(f"VIOLATION: {what}")
            raise Violation(what)


@dataclass(frozen=True)
class Outcome:
    """What one seed came to. `violation`: empty where every invariant held."""

    seed: int
    steps: int
    seconds: float
    injected: Counter[str]
    violation: str
    history: Sequence[str]


Play = Callable[[Chance], None]


def run(play: Play, seed: int, kinds: frozenset[str]) -> Outcome:
    """Play a world by a seed to its end, or to the first invariant that does not hold."""
    chance, violation = Chance(seed, kinds), ""
    try:
        play(chance)
    except Violation as broken:
        violation = str(broken)
    except Exception as error:
        violation = f"{type(error).__name__}: {error}"
        chance.say(f"VIOLATION: {violation}")
    return Outcome(seed, chance.steps, chance.seconds, chance.injected, violation, chance.history)


def shortest(play: Play, seed: int, kinds: frozenset[str]) -> Outcome:
    """The failing seed with as few kinds of faults as still break it: its history is the shortest we know."""
    worst = run(play, seed, kinds)
    for kind in sorted(kinds):
        fewer = run(play, seed, frozenset(kinds - {kind}))
        if fewer.violation:
            kinds, worst = frozenset(kinds - {kind}), fewer
    return worst


@contextmanager
def instead(owner: Any, **given: Any) -> Iterator[None]:
    """Attributes of a module replaced for a while."""
    before = {name: getattr(owner, name) for name in given}
    for name, value in given.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
