"""Two schedules of one job over tables of memory: windows are a recount, whoever dies, overtakes or stands still, and whatever happens to the source.

The bookmark, the chain of runs, the fence and the ranges are the product's; the engine between them (read, count, overwrite) is played here.
"""

from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from lastgood.errors import TransientError
from lastgood.jobs.touched import ranges
from lastgood.tables import runs
from lastgood.tables.runs import Run
from simulation.chance import Chance, Killed

KINDS = frozenset(
    {"kill", "interleave", "pause", "late rows", "a commit moves rows", "made anew", "set back", "feed lost", "store 5xx", "conflict", "stale list"}
)  # fmt: skip
WIDTH, JOB, SOURCE = 60, "windows", "requests"
QUIET_RUNS = 3
Row = tuple[str, int]
"""Id and time in seconds."""


@dataclass
class Table:
    """The source: commits, each the rows that it added and those that it took away."""

    identity: str
    commits: list[tuple[frozenset[Row], frozenset[Row]]] = field(default_factory=list)
    feed_from: int = 0
    """The change feed begins here."""

    def rows(self, version: int) -> set[Row]:
        held: set[Row] = set()
        for added, gone in self.commits[: version + 1]:
            held = (held - gone) | added
        return held


class World:
    """`windows`: counts by start, as committed; `mark`: the newest application transaction of them; `records`: finished runs."""

    def __init__(self, chance: Chance) -> None:
        self.chance = chance
        self.table = Table("t0", [(frozenset({("r0", 0)}), frozenset())])
        self.windows: Counter[int] = Counter()
        self.marks: dict[str, int] = {}
        self.records: list[dict[str, Any]] = []
        self.nested, self.made, self.under_way = False, 1, 0
        self.looked = -1
        """The newest commit of the source whose rows are in the windows: a run looks at the source after it has read what is new."""

    # the source

    def arrive(self) -> None:
        """Somebody commits: new rows, late ones, or an update that gives a row another time."""
        chance = self.chance
        r = chance.random
        begun = int(chance.seconds) - (r.randrange(0, 600) if chance.pick("late rows", 3.0) else 0)
        added = {(f"r{self.made + i}", max(0, begun - r.randrange(90))) for i in range(r.randint(1, 3))}
        self.made += len(added)
        gone: set[Row] = set()
        if chance.pick("a commit moves rows", 2.0):
            gone = set(r.sample(sorted(self.table.rows(len(self.table.commits))), 1))
            added |= {(name, at + WIDTH) for name, at in gone}
        self.table.commits.append((frozenset(added), frozenset(gone)))
        if chance.pick("feed lost", 0.3):
            self.table.feed_from = len(self.table.commits)
        if chance.pick("made anew", 0.2):
            kept = frozenset(self.table.rows(len(self.table.commits)))
            self.table, self.looked = Table(f"t{self.made}", [(kept, frozenset())]), -1

    def set_back(self) -> None:
        """The table is put back to an older state. A run sees that where it looks before the table has grown past its bookmark, and where the
        runs before it were recorded, and what they had looked at (docs/adr/0022)."""
        r = self.chance.random
        counted = max(self.marks.get(f"lastgood/{JOB}/{self.table.identity}", -1) // runs.MOST_AGAIN, -1)
        if max(counted, self.looked) > max(
            (record["version"] for record in self.records if record["table_id"] == self.table.identity), default=-1
        ):
            return
        self.table.commits = self.table.commits[: max(1, len(self.table.commits) - r.randint(3, 9))]
        self.looked = len(self.table.commits) - 1
        self.chance.storm = False
        while len(self.table.commits) <= 1 + max(
            (record["version"] for record in self.records), default=-1
        ):  # until then runs have no mark
            self.scheduled()
            self.check()
            self.arrive()
        self.scheduled()
        self.chance.storm = True

    # a run, as runs.increment, touched.recompute, runs.replace_rows and runs.record do it

    def moment(self, what: str) -> None:
        chance = self.chance
        chance.steps += 1
        if chance.pick("kill", 0.5):
            chance.say(f"killed where {what}")
            raise Killed
        if chance.pick("store 5xx", 0.3):
            raise TransientError("503")
        if self.nested:
            return
        pause = chance.pick("pause", 1.0)
        if pause or chance.pick("interleave", 2.0):
            chance.say(f"stands still where {what}")
            self.nested = True
            try:
                for _ in range(4 if pause else 1):
                    chance.seconds += 300.0 if pause else 0.0
                    self.arrive()
                    self.scheduled()
            finally:
                self.nested = False

    def listed(self) -> int:
        """The newest version of the source that a listing shows: the newest commits may be missing from it for a while.

        None that a run which ended has taken in: that would be a table that was put back (docs/adr/0022; all stores that are promised list
        what was put). What a process has seen it does not lose again: Spark's snapshot of a table only moves on.
        """
        newest = len(self.table.commits) - 1
        stale = self.chance.random.randint(1, 3) if self.chance.pick("stale list", 0.2) else 0
        taken = [record["version"] for record in self.records if record["table_id"] == self.table.identity]
        return max(0, newest - stale, min(newest, max(taken, default=-1)))

    def run(self) -> None:
        """Errors: Killed, TransientError."""
        self.moment("the run begins")
        earlier = list(self.records)
        self.moment("the records have been read")
        table, newest = self.table, self.listed()
        after, reason = runs._placed(earlier, table.identity, newest)
        if after >= newest:
            return
        run = runs.begun(JOB, SOURCE, earlier, after, newest, newest, table.identity)
        if reason or after + 1 < table.feed_from:
            run.note, changed = "read whole", table.rows(newest)
        else:
            changed = {row for added, gone in table.commits[after + 1 : newest + 1] for row in added | gone}
        self.moment("the changes have been read")
        spans = ranges({at // WIDTH * WIDTH for _, at in changed}, WIDTH)
        seen = max(newest, self.listed()) if table is self.table else len(table.commits) - 1
        counted = Counter(at // WIDTH * WIDTH for _, at in table.rows(seen) if any(a <= at < z for a, z in spans))
        self.moment("the windows have been counted")
        self._replace(run, spans, counted, seen)
        self.moment("the windows have been committed")
        self.records.append(
            {"version": newest, "after": after, "finished_at": self.chance.now(), "table_id": table.identity}
        )
        self.chance.say(f"run ({after}, {newest}] of {table.identity} {run.note or ''}")

    def _replace(self, run: Run, spans: tuple[tuple[int, int], ...], counted: Counter[int], seen: int) -> None:
        """One overwrite of the spans; what carries a mark that is not above the table's writes nothing."""
        if self.chance.pick("conflict", 0.5):
            raise TransientError("another run changed windows at the same time")
        runs.same_source(run, self.table.identity)
        mark = runs.fence(cast(Any, SimpleNamespace(span=None)), run)
        if mark is not None:
            if mark[1] <= self.marks.get(mark[0], -1):
                self.chance.say("overtaken: nothing written")
                return
            self.marks[mark[0]] = mark[1]
        kept = {start: n for start, n in self.windows.items() if not any(a <= start < z for a, z in spans)}
        self.windows = Counter({**kept, **counted})
        self.looked = max(self.looked, seen) if run.table_id == self.table.identity else seen

    def scheduled(self) -> None:
        self.under_way += 1
        try:
            self.run()
        except Killed:
            self.chance.say("the run is gone")
        except TransientError as error:
            self.chance.say(f"the run ends: {error}")
        finally:
            self.under_way -= 1

    # invariants

    def check(self, settled: bool = False) -> None:
        """With nobody under way, windows that the bookmark has passed count every row up to it."""
        newest = len(self.table.commits) - 1
        done, reason = runs._placed(self.records, self.table.identity, newest)
        self.chance.demand(not settled or (done == newest and not reason), f"not caught up: {done} of {newest}")
        if reason or done < 0:
            return
        touched = {at // WIDTH * WIDTH for added, gone in self.table.commits[done + 1 :] for _, at in added | gone}
        recount = Counter(at // WIDTH * WIDTH for _, at in self.table.rows(newest))
        wrong = [start for start in recount if start not in touched and self.windows[start] != recount[start]]
        self.chance.demand(not wrong, f"window {wrong[:1]} is no recount and the bookmark has passed it")


def play(chance: Chance) -> None:
    """Some hours of commits and runs, then quiet."""
    world = World(chance)
    for _ in range(chance.random.randint(10, 40)):
        chance.seconds += chance.random.choice((1.0, 30.0, 300.0))
        world.arrive()
        if chance.pick("set back", 0.2) and len(world.table.commits) > 10:
            world.set_back()
        if chance.random.random() < 0.7:
            world.scheduled()
        world.check()
    chance.storm = False
    for _ in range(QUIET_RUNS):
        chance.seconds += 60.0
        world.scheduled()
    world.check(settled=True)
