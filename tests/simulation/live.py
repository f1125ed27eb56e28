"""Two replicas of the live judge behind the commits of their receivers: late, doubled and shared out between them, with restarts in between.

What a replica says is judged again by one that got the same requests at once and in order: the way they came changes no verdict.
"""

import atexit
import shutil
import tempfile
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from judge_support import BEGIN, LEDGER, START, requests, table

from lastgood.alerts.store import Store
from lastgood.judge import History, State, Verdict, budget
from lastgood.service.histories import Histories
from lastgood.service.live import Live
from lastgood.settings import load
from simulation.chance import Chance

KINDS = frozenset({"restart", "doubled", "delayed"})
SETTINGS = load(live_every_s=60.0)
MINUTES, PER_MINUTE, COMMIT_S = 16, 60, 20.0


class World:
    """`held`: what each replica was told since it started, and when it is told what is delayed."""

    def __init__(self, chance: Chance, store: Store, bad: bool) -> None:
        self.chance, self.store, self.bad = chance, store, bad
        self.names, self.owners = iter(range(10**6)), [""] * 2
        self.replicas = [self.start(i) for i in range(2)]
        self.held: list[list[pa.Table]] = [[], []]
        self.wire: list[tuple[float, int, pa.Table]] = []
        self.spent: dict[int, str] = {}
        """Look history -> the process that has it."""
        self.noticed = False

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.chance.seconds)

    def start(self, i: int) -> Live:
        """A process that knows the configurations and nothing of the requests before."""
        self.owners[i] = f"{i}/{next(self.names)}"
        made = Live(SETTINGS, self.now, Histories(self.store, self.owners[i]))
        made.learn(LEDGER)
        return made

    def commit(self, i: int, rows: pa.Table) -> None:
        """A receiver's commit reaches the judge beside it."""
        chance = self.chance
        for _ in range(1 + chance.pick("doubled")):
            late = chance.random.choice((30.0, 200.0)) if chance.pick("delayed") else 0.0
            self.wire.append((chance.seconds + late, i, rows))

    def deliver(self) -> None:
        due = [(i, rows) for at, i, rows in self.wire if at <= self.chance.seconds]
        self.wire = [each for each in self.wire if each[0] > self.chance.seconds]
        for i, rows in due:
            self.chance.steps += 1
            self.replicas[i].take(rows)
            self.held[i].append(rows)

    def look(self, i: int) -> None:
        chance = self.chance
        if chance.pick("restart", 0.5):
            self.replicas[i], self.held[i] = self.start(i), []
            return
        for verdict in self.replicas[i].verdicts(lambda name: History()):
            chance.say(f"replica {i}: {verdict.state} {verdict.reason[:60]}")
            self.judged(i, verdict)

    # invariants

    def judged(self, i: int, verdict: Verdict) -> None:
        """A verdict has its evidence: a fresh judge of the same look history says the same of the same requests, told once and in order."""
        chance = self.chance
        told = pa.concat_tables(self.held[i])
        first = pc.index_in(pc.unique(told["request_id"]), told["request_id"])
        rows = told.take(first).sort_by("requested_at")
        again = Live(SETTINGS, self.now, Histories(self.store, self.owners[i]))
        again.learn(LEDGER)
        again.take(rows)
        (same,) = again.look("chat", History())
        chance.demand(same.state is verdict.state, f"{verdict.state}, and of the same requests in order {same.state}")
        chance.demand(same.e_value == verdict.e_value, f"evidence {verdict.e_value}, in order {same.e_value}")
        chance.demand(not (verdict.state is State.ROLL_BACK and not self.bad), "a healthy version is rolled back")
        self.noticed |= verdict.bad

    def check(self) -> None:
        """No two processes have one look history, together they spend one budget, and what is held is bounded by the traffic."""
        numbers = [
            Histories(self.store, owner)([("chat", "2", BEGIN, 0)])[("chat", "2", BEGIN, 0)] for owner in self.owners
        ]
        for number, owner in zip(numbers, self.owners, strict=True):
            holder = self.spent.setdefault(number, owner)
            self.chance.demand(holder == owner, f"history {number} is {holder}'s and {owner}'s")
        spent = sum(budget.of_history(number) for number in self.spent)
        self.chance.demand(spent <= 1.0, f"{spent} of the budget is spent")
        for replica in self.replicas:
            rows = sum(state.rows.num_rows for state in replica._endpoints.values())
            self.chance.demand(rows <= 4 * MINUTES * PER_MINUTE, f"{rows} rows are held")


@cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="lastgood-simulation-", dir="/dev/shm")
    atexit.register(shutil.rmtree, folder, True)
    return folder


def play(chance: Chance) -> None:
    """A deployment's first minutes, of a version that is as good or fails twelve times as often, then quiet."""
    bad = chance.random.random() < 0.5
    path = Path(_folder()) / "state.db"
    path.unlink(missing_ok=True)
    store = Store(f"sqlite:///{path}")
    world = World(chance, store, bad)
    rows = table(requests(chance.random.getrandbits(32), MINUTES, PER_MINUTE, errors=12.0 if bad else 1.0))
    at = rows["requested_at"].cast(pa.int64()).to_numpy() / 1e6 - START
    try:
        while chance.seconds < MINUTES * 60:
            part = rows.filter(pa.array((at >= chance.seconds) & (at < chance.seconds + COMMIT_S)))
            chance.seconds += COMMIT_S
            chance.storm = chance.seconds < MINUTES * 40
            share = pa.array([chance.random.random() < 0.5 for _ in range(part.num_rows)], pa.bool_())
            world.commit(0, part.filter(share))
            world.commit(1, part.filter(pc.invert(share)))
            world.deliver()
            if chance.seconds % 60 == 0:
                world.look(chance.random.randrange(2))
                world.check()
        for i in range(2):
            chance.seconds += 260.0
            world.deliver()
            world.look(i)
        chance.demand(world.noticed or not bad, "a bad version was not noticed")
    finally:
        store.close()
