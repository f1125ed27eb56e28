"""Every state that a small model can reach, by breadth first: a state is a value, an action gives the states that may follow.

A model is what the code does at one place, without everything else; each action names the line of code that it stands for.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
Step = tuple[str, S]


@dataclass(frozen=True)
class Explored(Generic[S]):
    """`broken`: what does not hold, and the shortest way there; empty where all holds. `stuck`: states from which nothing leads on."""

    states: int
    broken: str = ""
    way: tuple[str, ...] = ()
    stuck: tuple[S, ...] = field(default=())


def explore(
    start: S, actions: Callable[[S], Iterable[Step[S]]], invariant: Callable[[S], str], most: int = 2_000_000
) -> Explored[S]:
    """Visit every state; `invariant` says what is wrong with one, or nothing. Errors: AssertionError above `most` states."""
    came_by: dict[S, tuple[str, S] | None] = {start: None}
    waiting, stuck = deque([start]), list[S]()
    while waiting:
        state = waiting.popleft()
        if wrong := invariant(state):
            return Explored(len(came_by), wrong, _way(came_by, state))
        following = list(actions(state))
        if not following:
            stuck.append(state)
        for name, after in following:
            if after not in came_by:
                came_by[after] = (name, state)
                waiting.append(after)
        assert len(came_by) <= most, "the model is too large"
    return Explored(len(came_by), stuck=tuple(stuck))


def _way(came_by: dict[S, tuple[str, S] | None], state: S) -> tuple[str, ...]:
    steps: list[str] = []
    while (last := came_by[state]) is not None:
        steps.append(last[0])
        state = last[1]
    return tuple(reversed(steps))
