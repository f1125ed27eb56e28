"""Two instances on one state, SQLite or a real PostgreSQL, acting at the same moments: one rollback, one decision, each thing said once."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alerts_support import House, ListNotifier, MemoryWorkspace, endpoint, settings, verdict

from lastgood.alerts.rollback.machine import Approve, Status
from lastgood.errors import LastgoodError
from lastgood.settings import Mode


class Locked(MemoryWorkspace):
    """One call at a time, as a workspace serialises its updates."""

    def __init__(self, *endpoints: Any) -> None:
        super().__init__(*endpoints)
        self._one = threading.RLock()

    def endpoint(self, name: str) -> Any:
        with self._one:
            return super().endpoint(name)

    def update_config(self, *args: Any) -> None:
        with self._one:
            super().update_config(*args)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/state.db"


Pair = Callable[[Mode], tuple[House, House]]


@pytest.fixture
def pair(tmp_path: Path, url: str) -> Iterator[Pair]:
    made: list[House] = []

    def build(mode: Mode) -> tuple[House, House]:
        workspace, notifier = Locked(endpoint("2", "3")), ListNotifier()
        for _ in range(2):
            made.append(House(tmp_path, workspace, settings(mode), notifier, url=url))
        return made[0], made[1]

    yield build
    for one in made:
        one.close()


def together(*acts: Callable[[], Any]) -> list[Any]:
    """What each gave, or the error it raised, all begun at the same moment."""
    barrier, results = threading.Barrier(len(acts)), [None] * len(acts)

    def run(i: int) -> None:
        barrier.wait()
        try:
            results[i] = acts[i]()
        except LastgoodError as error:
            results[i] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_both_see_the_verdict_and_tick_and_there_is_one_rollback(pair: Pair) -> None:
    one, other = pair(Mode.AUTO)
    said = verdict()
    together(lambda: one.controller.handle(said), lambda: other.controller.handle(said))
    one.controller.handle(verdict(at=one.clock.now))  # the next one; both may have lost the first race
    for _ in range(40):
        one.clock.forward(5)
        other.clock.now = one.clock.now
        together(one.controller.tick, other.controller.tick, one.controller.send, other.controller.send)
        if one.rollback().state.ended:
            break
    together(one.controller.send, other.controller.send)
    assert one.rollback().state is Status.DONE
    assert len(one.workspace.updates) == 1
    assert one.rollbacks() == 1
    assert [e["event_action"] for e in one.notifier.events] == ["trigger", "resolve"]
    with one.store.read() as tx:
        assert tx.verify() == []


def test_two_persons_click_the_same_link_at_the_same_moment(pair: Pair) -> None:
    one, other = pair(Mode.APPROVE)
    one.verdict()
    one.tick()
    token = one.token()
    results = together(
        *(
            lambda h=h, who=who: h.controller.people.decide(token, Approve(who))
            for h, who in ((one, "ann"), (other, "bob"))
        )
    )
    assert sum(isinstance(result, LastgoodError) for result in results) == 1
    for _ in range(20):
        one.clock.forward(5)
        other.clock.now = one.clock.now
        together(one.controller.tick, other.controller.tick)
    assert one.rollback().state is Status.DONE and len(one.workspace.updates) == 1
