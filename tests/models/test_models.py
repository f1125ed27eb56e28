"""Models of what must hold in any order of events: the chain of runs, the drain beside a compaction, the lease and journal of a rollback.

Each has the fault that it guards against as a variant: without the guard the explorer shows the way to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from lastgood.tables.runs import MOST_AGAIN, chain
from models.explore import Step, explore

# the chain of runs: lastgood/tables/runs.py, jobs/touched.py


@dataclass(frozen=True)
class Job:
    """A run under way: what it saw of the source, where it began, its mark, and whether it has committed its windows."""

    until: int
    after: int
    counts: tuple[int, ...]
    touched: frozenset[int]
    mark: int
    committed: bool = False


@dataclass(frozen=True)
class Runs:
    """`source`: window of each row that was added, a version each; `windows`: counts as committed; `mark`: Delta's application transaction
    of them; `records`: (after, version, number) of finished runs."""

    source: tuple[int, ...]
    windows: tuple[int, ...] = (0, 0)
    mark: int = -1
    records: tuple[tuple[int, int], ...] = ()
    jobs: tuple[Job | None, ...] = (None, None)
    begun: int = 0
    kills: int = 0


ROWS, KILLS, BEGUN = (0, 1, 1, 0), 1, 5
"""The windows that rows fall into, in the order in which they come; how often a run is killed; how many runs begin."""


def bookmark(state: Runs) -> int:
    return chain([{"after": a, "version": v, "finished_at": i} for i, (a, v) in enumerate(state.records)])


def counted(rows: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(rows.count(window) for window in (0, 1))


def run_actions(fenced: bool) -> object:
    def actions(state: Runs) -> Iterator[Step[Runs]]:
        if len(state.source) < len(ROWS):  # somebody commits to the source
            yield "a row comes", replace(state, source=(*state.source, ROWS[len(state.source)]))
        newest = len(state.source) - 1
        for i, job in enumerate(state.jobs):

            def put(held: Job | None, i: int = i, state: Runs = state, **more: object) -> Runs:
                jobs = tuple(held if n == i else other for n, other in enumerate(state.jobs))
                return replace(state, jobs=jobs, **more)

            if job is None:
                after = bookmark(state)
                if (
                    after < newest and state.begun < BEGUN
                ):  # runs.increment: version, then bookmark; touched.recompute: the changes
                    again = sum(version >= newest for _, version in state.records)
                    touched = frozenset(state.source[after + 1 :])
                    begun = Job(newest, after, counted(state.source), touched, newest * MOST_AGAIN + again)
                    yield f"run {i} begins", put(begun, begun=state.begun + 1)
                continue
            if not job.committed:  # runs.replace_rows
                late = fenced and job.mark <= state.mark
                mark = max(state.mark, job.mark)
                counts = tuple(job.counts[w] if w in job.touched else state.windows[w] for w in (0, 1))
                done = replace(job, committed=True)
                yield f"run {i} commits", put(done) if late else put(done, windows=counts, mark=mark)
            else:  # runs.record
                yield f"run {i} is recorded", put(None, records=(*state.records, (job.after, job.until)))
            if state.kills < KILLS:
                yield f"run {i} is killed", put(None, kills=state.kills + 1)

    return actions


def windows_are_a_recount(state: Runs) -> str:
    """With nobody under way, what the bookmark has passed is counted."""
    if any(state.jobs):
        return ""
    taken = counted(state.source[: bookmark(state) + 1])
    behind = [w for w in (0, 1) if state.windows[w] < taken[w]]
    return f"window {behind[0]} is stale and its bookmark has passed it" if behind else ""


FIRST = Runs((0,), (1, 0), records=((-1, 0),))
"""A first run has been: from then on runs follow one another."""


def test_windows_are_a_recount_whatever_two_runs_do_and_wherever_they_die() -> None:
    explored = explore(FIRST, run_actions(fenced=True), windows_are_a_recount)  # type: ignore[arg-type]
    assert explored.broken == "", explored.way
    assert explored.states > 1_000


def test_without_the_mark_a_stale_run_that_dies_before_its_record_leaves_stale_windows() -> None:
    explored = explore(FIRST, run_actions(fenced=False), windows_are_a_recount)  # type: ignore[arg-type]
    assert "stale" in explored.broken
    assert any(step.endswith("killed") for step in explored.way)


# the drain beside a compaction and a second replica: collectors/otlp/drain.py, lastgood/tables/delta.py


@dataclass(frozen=True)
class Drains:
    """`files`: live files of the inbox, each the segments it holds; `apps`: what each spool has committed; `spools`: sealed segments that are
    left; `looks`: what a process has read and not yet acted upon; `held`: who has the compaction's lock."""

    files: tuple[tuple[str, ...], ...] = ()
    apps: tuple[int, ...] = (0, 0)
    spools: tuple[tuple[int, ...], ...] = ((1, 2), (1,))
    looks: tuple[int | None, ...] = (None, None)
    merging: tuple[tuple[tuple[str, ...], ...] | None, ...] = (None, None)
    held: int | None = None
    kills: int = 0


def drain_actions(locked: bool) -> object:
    def actions(state: Drains) -> Iterator[Step[Drains]]:
        for i in (0, 1):

            def change(name: str, value: object, i: int = i, state: Drains = state) -> Drains:
                held = getattr(state, name)
                return replace(state, **{name: tuple(value if n == i else other for n, other in enumerate(held))})

            left, look, merging = state.spools[i], state.looks[i], state.merging[i]
            if left and look is None and merging is None:  # Drain._committed
                yield f"drain {i} asks what it has committed", change("looks", state.apps[i])
            if look is not None and left:  # Drain._commit, then unlink
                if left[0] > look:
                    looked = change("looks", left[0])
                    apps = tuple(left[0] if n == i else other for n, other in enumerate(state.apps))
                    committed = replace(looked, apps=apps, files=(*state.files, (f"{i}/{left[0]}",)))
                    yield f"drain {i} commits segment {left[0]}", committed
                if left[0] <= state.apps[i]:
                    gone = change("spools", left[1:])
                    yield (
                        f"drain {i} removes segment {left[0]}",
                        replace(gone, looks=tuple(None if n == i else other for n, other in enumerate(state.looks))),
                    )
            if merging is None and look is None and len(state.files) > 1 and (state.held is None or not locked):
                began = change("merging", state.files)  # delta.compact: the lock, then the files
                yield f"drain {i} begins to merge", replace(began, held=i)
            if merging is not None:
                kept = tuple(file for file in state.files if file not in merging)
                merged = (*kept, tuple(name for file in merging for name in file))
                ended = change("merging", None)
                yield f"drain {i} merges", replace(ended, files=merged, held=None if state.held == i else state.held)
            if state.kills < 2 and (look is not None or merging is not None):
                dead = replace(change("looks", None), kills=state.kills + 1)
                merging_left = tuple(None if n == i else other for n, other in enumerate(dead.merging))
                yield (
                    f"drain {i} is killed",
                    replace(dead, merging=merging_left, held=None if state.held == i else state.held),
                )

    return actions


def stored_once(state: Drains) -> str:
    names = [name for file in state.files for name in file]
    twice = sorted({name for name in names if names.count(name) > 1})
    missing = [f"{i}/{n}" for i in (0, 1) for n in range(1, state.apps[i] + 1) if f"{i}/{n}" not in names]
    return f"stored twice: {twice}" if twice else f"lost: {missing}" if missing else ""


def test_segments_are_stored_once_beside_a_compaction_and_a_second_replica() -> None:
    explored = explore(Drains(), drain_actions(locked=True), stored_once)  # type: ignore[arg-type]
    assert explored.broken == "", explored.way
    assert all(state.spools == ((), ()) for state in explored.stuck), "nothing stops before all is drained"
    assert explored.states > 100


def test_two_compactions_at_once_store_rows_twice() -> None:
    """As delta-rs has it: why a lock must hold, and where none does nothing is merged."""
    explored = explore(Drains(), drain_actions(locked=False), stored_once)  # type: ignore[arg-type]
    assert "stored twice" in explored.broken


# the lease and journal of a rollback: lastgood/alerts/rollback/executor.py, lastgood/alerts/tx.py


@dataclass(frozen=True)
class Moves:
    """`config`: version of the endpoint's configuration and whether it is the rollback's; `plan`: the configuration it was made for;
    `intent`: written down; `lease`: who may tick; `seen`: what each replica read; `due`: who has decided and not yet sent."""

    config: int = 1
    ours: bool = False
    intent: bool = False
    lease: int | None = None
    seen: tuple[tuple[int, bool] | None, ...] = (None, None)
    due: tuple[bool, ...] = (False, False)
    sent: int = 0
    foreign: int = 0
    kills: int = 0
    overwrote: bool = False


def move_actions(leased: bool) -> object:
    def actions(state: Moves) -> Iterator[Step[Moves]]:
        if state.foreign < 1:
            yield "a person deploys", replace(state, config=state.config + 1, ours=False, foreign=state.foreign + 1)
        for i in (0, 1):

            def put(name: str, value: object, i: int = i, state: Moves = state) -> Moves:
                return replace(
                    state, **{name: tuple(value if n == i else o for n, o in enumerate(getattr(state, name)))}
                )

            mine = state.lease == i or not leased
            if state.lease is None and leased:  # Controller.tick: tx.lease
                yield f"replica {i} takes the lease", replace(state, lease=i)
            if mine and state.seen[i] is None and not state.due[i]:  # Executor._look
                yield f"replica {i} looks", put("seen", (state.config, state.ours))
            if mine and (seen := state.seen[i]) is not None:  # Executor.apply: the plan is for configuration 1
                forgot = put("seen", None)
                if seen == (1, False):  # saved with the rollback's revision: of two writers one must look again
                    yield (
                        f"replica {i} writes its intent",
                        replace(
                            forgot,
                            intent=True,
                            due=tuple(True if n == i else other for n, other in enumerate(forgot.due)),
                        ),
                    )
                else:
                    yield (
                        f"replica {i} sees that there is nothing to do",
                        replace(forgot, lease=None if leased else state.lease),
                    )
            if state.due[i]:  # Executor._change
                same = state.ours
                yield f"replica {i} sends", replace(
                    put("due", False), config=state.config + (not same), ours=True, sent=state.sent + (not same),
                    overwrote=state.overwrote or (state.config > 1 and not state.ours), lease=None if leased else state.lease,
                )  # fmt: skip
            if state.kills < 1 and (state.seen[i] is not None or state.due[i]):
                dead = replace(
                    put("seen", None), kills=state.kills + 1, lease=None if state.lease == i else state.lease
                )
                yield (
                    f"replica {i} is killed",
                    replace(dead, due=tuple(False if n == i else o for n, o in enumerate(dead.due))),
                )

    return actions


def one_change(state: Moves) -> str:
    if state.sent > 1 + state.foreign:
        return f"the endpoint was changed {state.sent} times"
    return "changed without an intent" if state.sent and not state.intent else ""


@pytest.mark.parametrize("leased", [True, False])
def test_a_rollback_changes_the_endpoint_once_and_never_without_its_intent(leased: bool) -> None:
    """Also without the lease: to ask for the same configuration again changes nothing. The lease only spares requests."""
    explored = explore(Moves(), move_actions(leased), one_change)  # type: ignore[arg-type]
    assert explored.broken == "", explored.way


def test_a_deploy_between_the_look_and_the_update_can_be_overwritten() -> None:
    """The serving API compares no versions: what docs/explanation/promises.md does not promise."""
    explored = explore(Moves(), move_actions(True), lambda state: "overwrote" if state.overwrote else "")  # type: ignore[arg-type]
    assert "a person deploys" in explored.way and explored.way[-1].endswith("sends")
