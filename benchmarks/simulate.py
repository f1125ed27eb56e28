"""Worlds by seed, through every fault: `python -m benchmarks.simulate [--seeds N] [--seed S] [--quick] [--mutations]`.

A seed drives a world from one random generator, without real time: the ingest (senders, network, spool on a disk under a page cache, drain, object
store), a job's runs (two schedules over a source that is changed, cleaned, put back or made anew), the live judge (two replicas, requests late and
twice, restarts), the control of rollbacks (two replicas, workspace, channels, people).

`--seed` plays one and prints its shortest history where it breaks a
promise. `--mutations` plants faults in the code, one at a time, and counts the seeds until each is found.
"""

import argparse
import inspect
import json
import logging
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from simulation import control, ingest, jobs, live
from simulation.chance import Outcome, run, shortest

from benchmarks.measured import machine
from lastgood.alerts import outbox, tx
from lastgood.alerts.rollback import executor
from lastgood.collectors.otlp import drain, spool
from lastgood.service import histories
from lastgood.service import live as live_service
from lastgood.tables import runs

SHARE = {"ingest": 1, "jobs": 1, "live": 20, "control": 5}
"""Of the control's and the judge's worlds fewer are played: one takes twenty or eighty times as long as one of the ingest."""
WORLDS = {
    "ingest": (ingest.play, ingest.KINDS),
    "jobs": (jobs.play, jobs.KINDS),
    "live": (live.play, live.KINDS),
    "control": (control.play, control.KINDS),
}
CHUNK = 50
DAY_S = 86_400


@dataclass(frozen=True)
class Mutation:
    """A fault in the code: in the source of `owner.name`, `old` becomes `new`."""

    what: str
    world: str
    owner: Any
    name: str
    old: str
    new: str


MUTATIONS = (
    Mutation("the spool acknowledges without a sync", "ingest", spool.Spool, "append", "os.fdatasync(self._fd)", "pass"),
    Mutation("a new segment's name is not synced", "ingest", spool.Spool, "_open", "_sync(self.folder)", "pass"),
    Mutation("the spool's folder is not synced", "ingest", spool, "_make", "_sync(each)", "pass"),
    Mutation("the spool's id is not synced", "ingest", spool, "identity", "_sync(draft)", "pass"),
    Mutation("a segment is trusted after a failed sync", "ingest", spool.Spool, "append", "self._broken = True", "self._broken = False"),
    Mutation("the spool forgets its bound", "ingest", spool.Spool, "room",
             "self._shares.fits(sender, size, self.pending_bytes, coming)", "pass"),
    Mutation("the drain commits without its mark", "ingest", drain.Drain, "_commit", ", app=(application, newest, self._committed(path)))", ")"),
    Mutation("the drain takes what it has committed again (> for >=)", "ingest", drain.Drain, "_commit",
             "int(segment.stem) > self", "int(segment.stem) >= self"),
    Mutation("the drain trusts what a listing shows of its commits", "ingest", drain.Drain, "_commit", ", self._committed(path)))", "))"),
    Mutation("the drain removes segments it could not commit", "ingest", drain.Drain, "step", "self._done.clear()\n        raise", "fed = None"),
    Mutation("stale windows are written over newer ones", "jobs", runs, "fence", "if ctx.span or run.set_back:", "if True:"),
    Mutation("a bookmark is the newest run's, whoever overtook it", "jobs", runs, "chain", "if begun == done else min(done, begun)", ""),
    Mutation("bookmarks of a table that is gone count", "jobs", runs, "_own", 'record["table_id"] == table_id or', "True or"),
    Mutation("windows of a table that is gone are written", "jobs", runs, "same_source", "raise TransientError", "return TransientError"),
    Mutation("a table that was put back is not seen", "jobs", runs, "_placed", "seen > newest", "False"),
    Mutation("a request that is told twice counts twice", "live", live_service, "_unique", 'return table.take(', "return table or ("),
    Mutation("two processes spend one look history", "live", histories.Histories, "__call__", "owners.index(self._owner) + 1", "1"),
    Mutation("an update is sent before its intent is written", "control", executor.Executor, "apply",
             'tx.write_journal(rollback.id, now, effect, "intent")', "pass"),
    Mutation("a plan is not void when the configuration has changed", "control", executor, "view_of",
             "endpoint.config_version != plan.config_version", "False"),
    Mutation("an accepted update is sent again", "control", executor, "view_of", 'asked and asked[-1][0] == "accepted"', "False"),
    Mutation("a message is dropped when its channel is down", "control", outbox, "send_due",
             "again = str(caught), clock() + timedelta", "again = '', None and timedelta"),
    Mutation("a lease never ends", "control", tx.Tx, "lease", "(t.leases.c.until <= now)", "(t.leases.c.until < t.leases.c.until)"),
    Mutation("the kill switch is not asked before an update", "control", executor.Executor, "advance", "if switch.on and", "if False and"),
    Mutation("a process that stood still sends all the same", "control", executor.Executor, "_change", "self._clock() - looked_at > STALE", "False"),
    Mutation("what was read is saved over what came since", "control", tx.Tx, "save_rollback", " & (t.rollbacks.c.revision == rollback.revision)", ""),
)  # fmt: skip


@contextmanager
def planted(mutation: Mutation) -> Iterator[None]:
    """The fault in the code, for a while. Errors: AssertionError where the code no longer has the line."""
    before = getattr(mutation.owner, mutation.name)
    source = textwrap.dedent(inspect.getsource(before))
    assert source.count(mutation.old) == 1, f"{mutation.what}: {source.count(mutation.old)} x {mutation.old!r}"
    room = inspect.getmodule(before).__dict__  # type: ignore[union-attr]
    made: dict[str, Any] = {}
    exec(  # noqa: S102 - source of our own, with one line changed
        compile(source.replace(mutation.old, mutation.new), f"<{mutation.name}>", "exec"), room, made
    )
    holders = [mutation.owner, *(m for name, m in sys.modules.items() if name.startswith("lastgood."))]
    holders = [holder for holder in holders if getattr(holder, mutation.name, None) is before]
    for holder in holders:  # who has imported it by name calls it there
        setattr(holder, mutation.name, made[mutation.name])
    try:
        yield
    finally:
        for holder in holders:
            setattr(holder, mutation.name, before)


def _quiet() -> None:
    logging.disable(logging.CRITICAL)


def played(world: str, first: int, number: int) -> list[Outcome]:
    """Seeds of one world; histories only of those that break a promise."""
    play, kinds = WORLDS[world]
    outcomes = [run(play, seed, kinds) for seed in range(first, first + number)]
    return [each if each.violation else Outcome(each.seed, each.steps, each.seconds, each.injected, "", ()) for each in outcomes]  # fmt: skip


def found_after(number: int, most: int) -> int | None:
    """Seeds until the fault is found; None where it is not."""
    mutation = MUTATIONS[number]
    play, kinds = WORLDS[mutation.world]
    with planted(mutation):
        return next((seed + 1 for seed in range(most) if run(play, seed, kinds).violation), None)


def figures(world: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "world": world, "seeds": len(outcomes), "steps": sum(each.steps for each in outcomes),
        "faults_injected": sum((each.injected for each in outcomes), Counter()).total(),
        "violations": sum(bool(each.violation) for each in outcomes),
        "simulated_days": round(sum(each.seconds for each in outcomes) / DAY_S, 1),
    }  # fmt: skip


def _replay(seed: int) -> None:
    for world, (play, kinds) in WORLDS.items():
        worst = shortest(play, seed, kinds)
        print(f"{world}: seed {seed}: {worst.violation or 'holds'}")
        if worst.violation:
            print("\n".join(worst.history))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=10_000, help="seeds of the ingest and of jobs; fewer of the others"
    )
    parser.add_argument("--seed", type=int, help="play this one and print its history")
    parser.add_argument("--quick", action="store_true", help="100 seeds")
    parser.add_argument("--mutations", action="store_true", help="how soon planted faults are found")
    given = parser.parse_args()
    _quiet()
    if given.seed is not None:
        _replay(given.seed)
        return
    seeds, started = 100 if given.quick else given.seeds, time.monotonic()
    with ProcessPoolExecutor(initializer=_quiet) as pool:
        if given.mutations:
            most = 100 if given.quick else 1_000
            print(f"| planted fault | world | seeds until it is found (of {most}) |\n|---|---|---|")
            counts = list(pool.map(found_after, range(len(MUTATIONS)), repeat(most)))
            for mutation, seeds_taken in zip(MUTATIONS, counts, strict=True):
                print(f"| {mutation.what} | {mutation.world} | {seeds_taken or 'not found'} |", flush=True)
            print(f"\n{machine()}; {time.monotonic() - started:.0f} s")
            print(json.dumps({"mutations": len(counts), "found": sum(count is not None for count in counts)}))
            return
        rows = []
        for world in WORLDS:
            many = seeds // SHARE[world]
            firsts = range(0, many, CHUNK)
            chunks = pool.map(played, repeat(world), firsts, [min(CHUNK, many - first) for first in firsts])
            outcomes = [outcome for chunk in chunks for outcome in chunk]
            rows.append(figures(world, outcomes))
            for broken in [outcome for outcome in outcomes if outcome.violation][:5]:
                print(f"{world}: seed {broken.seed}: {broken.violation}")
    print("| world | seeds | steps | faults injected | violations | simulated days |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            "| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) + " |"
        )
    print(f"\n{machine()}; {time.monotonic() - started:.0f} s")
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "world"}
    print(json.dumps(total))


if __name__ == "__main__":
    main()
