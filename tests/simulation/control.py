"""Two replicas of the service, a workspace, channels, a person: a bad version is served, and whatever happens there is one rollback at most.

Replicas share one state. A process may die before or after any transaction, call or message, may stand still there for hours while the other
goes on, and the other may act in between. People deploy, decide, and turn the kill switch meanwhile.
"""

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from typing import Any

from alerts_support import KEY, MemoryWorkspace, endpoint, settings, verdict

from lastgood.alerts.audit import GENESIS
from lastgood.alerts.controller import Controller
from lastgood.alerts.records import KillSwitch, Rollback
from lastgood.alerts.rollback.executor import STALE
from lastgood.alerts.rollback.links import LinkError, Signer
from lastgood.alerts.rollback.machine import Approve, Hold, Reject, Status
from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.schema import metadata, outbox
from lastgood.alerts.store import Store
from lastgood.alerts.tx import Tx
from lastgood.errors import LastgoodError, RefusedError, TransientError
from lastgood.record.verdict import State
from lastgood.settings import Mode
from lastgood.workspace import Endpoint, ServedEntity, Update
from simulation.chance import Chance, Killed, instead

KINDS = frozenset(
    {"kill", "pause", "interleave", "read 5xx", "update 5xx", "answer lost", "update fails", "telemetry 5xx", "channel down", "channel refuses",
     "message lost", "person deploys", "kill switch", "person rejects", "person holds", "late verdict"}
)  # fmt: skip
BAD, GOOD, NAME = "3", "2", "chat"
QUIET_STEPS = 25
PERSON = "ann@example.com"
UNDECIDED = (Status.PROPOSED, Status.HELD)


class SimWorkspace(MemoryWorkspace):
    """Updates take time of the clock here. Every call may fail before it acts, or after; whose it is is known."""

    def __init__(self, world: "World") -> None:
        share = world.chance.random.choice((100, 50, 10))
        super().__init__(endpoint(GOOD, BAD, **{f"v{BAD}": share, f"v{GOOD}": 100 - share}))
        self.world, self.chance, self._done_at = world, world.chance, 0.0
        self.ours: list[str] = []

    def endpoint(self, name: str) -> Endpoint:
        self.world.moment("the workspace is read")
        if self.chance.pick("read 5xx"):
            raise TransientError("503")
        shown = self.seen()
        self.world.moment("the workspace was read", 4.0)
        return shown

    def seen(self) -> Endpoint:
        """The endpoint as it is, without a network."""
        current = self._endpoints[NAME]
        if current.update is Update.IN_PROGRESS and self.chance.seconds >= self._done_at:
            self._left[NAME] = 0
            self._poll(NAME)
        return self._endpoints[NAME]

    def _poll(self, name: str) -> None:
        if self.chance.seconds >= self._done_at:
            super()._poll(name)

    def start(self, name: str, entities: Sequence[ServedEntity], traffic: Mapping[str, int]) -> None:
        super().start(name, entities, traffic)
        self._left[name] = 0
        self.outcome = "fail" if self.chance.pick("update fails", 2.0) else "ok"
        self._done_at = self.chance.seconds + self.chance.random.choice((1.0, 20.0, 120.0))

    def update_config(
        self, name: str, entities: Sequence[Mapping[str, Any]], traffic: Mapping[str, int], passthrough: Mapping[str, Any]
    ) -> None:  # fmt: skip
        if self.chance.pick("update 5xx", 3.0):
            raise TransientError("503")
        before = self.seen()
        number = len(self.updates)
        super().update_config(name, entities, traffic, passthrough)
        if len(self.updates) > number:
            self.world.acted(before, traffic)
        self.world.answered = False
        self.world.moment("the update has been accepted")
        if self.chance.pick("answer lost", 3.0):
            raise TransientError("the answer was lost")
        self.world.answered = True

    def deploy(self, traffic: Mapping[str, int]) -> bool:
        """A person's own update; refused while another is in progress."""
        current = self.seen()
        if current.update is Update.IN_PROGRESS:
            return False
        self.start(NAME, current.entities, traffic)
        self.outcome = "ok"
        return True


class Channel:
    """A channel's receiver. It may take a message and lose the answer, so a message may come twice."""

    def __init__(self, world: "World") -> None:
        self.world, self.events = world, list[Mapping[str, Any]]()

    def send(self, event: Mapping[str, Any]) -> None:
        self.world.moment("a message is sent")
        chance = self.world.chance
        if chance.pick("channel down"):
            raise TransientError("down")
        if chance.pick("channel refuses", 0.3):
            raise RefusedError("400")
        self.events.append(event)
        if chance.pick("message lost"):
            raise TransientError("the answer was lost")

    def close(self) -> None:
        """Nothing is held."""


class World:
    """`store`: the state that the replicas share; a process that starts knows nothing else."""

    def __init__(self, chance: Chance, store: Store) -> None:
        self.chance, self.store, self.observing = chance, store, False
        self.mode = chance.random.choice((Mode.AUTO, Mode.APPROVE, Mode.APPROVE))
        self.workspace, self.channel = SimWorkspace(self), Channel(self)
        self.settings = settings(self.mode, warmup_s=0, warmup_requests=0)
        self.replicas: list[Controller | None] = [None, None]
        self.nested = False
        self.foreign = 0
        """How often somebody else has changed the endpoint."""
        self.answered = True
        """Whether Lastgood knows what became of its last update."""
        self.killed_at: float | None = None
        """When the kill switch was turned on; None while it is off."""
        self.killed_step = 0
        self.deployed_at = 0.0
        """When somebody else changed the endpoint last."""
        self.ticks: list[int] = []
        """Where the steps of replicas that are under way began."""
        self.decided: dict[str, Any] = {}
        """What a person decided on a rollback and was told that it holds."""
        self.over: dict[str, Status] = {}
        """How rollbacks have ended."""
        self.changes: list[tuple[str, int]] = []
        """(rollback, `foreign` then) of every update of ours that was accepted."""

    # processes

    def start(self, i: int) -> Controller:
        numbers = iter(range(10**9))
        made = Controller(
            self.store, self.workspace, self.settings, {"pagerduty": self.channel}, self, Signer([KEY]), self.chance.now,  # type: ignore[dict-item]
            new_nonce=lambda: f"{i}-{self.chance.random.getrandbits(64):x}-{next(numbers)}",
        )  # fmt: skip
        self.replicas[i] = made
        return made

    @contextmanager
    def observer(self) -> Iterator[Tx]:
        """The state as nobody's process reads or writes it."""
        self.observing = True
        try:
            with self.store.begin() as tx:
                yield tx
        finally:
            self.observing = False

    def moment(self, what: str, often: float = 1.0) -> None:
        """Between two things that a process does: it may end, stand still, or the other replica may act."""
        chance = self.chance
        chance.steps += 1
        if chance.pick("kill", 0.15):
            chance.say(f"killed where {what}")
            raise Killed
        if self.nested:
            return
        pause = chance.pick("pause", 0.1 * often)
        if pause or chance.pick("interleave", 0.5 * often):
            chance.say(f"stands still where {what}")
            self.nested = True
            try:
                for _ in range(8 if pause else 1):
                    chance.seconds += chance.random.choice((30.0, 300.0)) if pause else 0.0
                    self.person(often=6.0)
                    self.life(1)
                    self.check()
            finally:
                self.nested = False

    def life(self, i: int) -> None:
        """What a replica does in a round, until it dies."""
        try:
            replica = self.replicas[i] or self.start(i)
            late = self.chance.pick("late verdict")
            self.judge(replica, 3600.0 if late else 0.0)
            self.ticks.append(self.chance.steps)
            try:
                replica.tick()
            finally:
                self.ticks.pop()
            replica.send()
            if self.chance.random.random() < 0.2:
                replica.observe_endpoints()
        except Killed:
            self.replicas[i] = None
            self.chance.say(f"replica {i} is gone")
        except LastgoodError as error:
            self.chance.say(f"replica {i}: {error}")

    def judge(self, replica: Controller, age_s: float) -> None:
        shown = self.workspace.seen()
        at = datetime.fromtimestamp(self.chance.now().timestamp() - age_s, self.chance.now().tzinfo)
        if shown.share(BAD):
            replica.handle(verdict(State.ROLL_BACK, at, BAD, GOOD))
        else:
            replica.handle(verdict(State.HEALTHY, at, GOOD, BAD))

    def recovery(self, endpoint: str, bad_version: str, prior_version: str, since: datetime, metric: str) -> Recovery:
        """The telemetry that verifies a rollback: it says what the traffic does."""
        if self.chance.pick("telemetry 5xx"):
            raise TransientError("the tables cannot be read")
        if self.workspace.seen().share(bad_version):
            return Recovery(False, None, "the bad version is still served")
        return Recovery(True, True, "traffic moved and errors are back")

    # people

    def person(self, often: float = 1.0) -> None:
        """What people do between two rounds, and while a process stands still."""
        chance, replica = self.chance, self.replicas[0]
        if chance.pick("person deploys", 0.3 * often):
            share = chance.random.choice((0, 10, 100))
            if self.workspace.deploy({f"chat-{GOOD}": 100 - share, f"chat-{BAD}": share}):
                self.foreign += 1
                self.deployed_at = chance.seconds
                chance.say(f"a person sends {share}% to version {BAD}")
        if chance.pick("kill switch", 0.5 * often):
            with self.observer() as tx:
                on = not tx.kill_switch().on
                tx.set_kill_switch(KillSwitch(on, PERSON, "for a reason"))
                self.killed_at, self.killed_step = chance.seconds if on else None, chance.steps
                chance.say(f"the kill switch is {'on' if on else 'off'}")
        if replica and (links := self.links()) and chance.random.random() < 0.3:
            decision: Any = Approve(PERSON)
            if chance.pick("person rejects"):
                decision = Reject(PERSON, "a false alarm")
            elif chance.pick("person holds"):
                decision = Hold(PERSON, 5)
            try:
                rollback = replica.people.decide(links[-1], decision)
                if not isinstance(decision, Hold):
                    self.decided[rollback.id] = type(decision)
                chance.say(f"{PERSON}: {type(decision).__name__}")
            except (LinkError, LastgoodError) as error:
                chance.say(f"{PERSON} cannot: {error}")
            except Killed:
                self.replicas[0] = None

    def links(self) -> list[str]:
        """Tokens of messages that ask for a decision, as they were delivered."""
        asked = [link for event in self.channel.events for link in event.get("links", ())]
        return [str(link["href"]).split("/r/")[1] for link in asked if link["text"].endswith("rollback")]

    # invariants

    def acted(self, before: Endpoint, traffic: Mapping[str, int]) -> None:
        """An update of ours was accepted: it was written down before, by one rollback, for the configuration that was there."""
        self.chance.say(f"Lastgood sets {dict(traffic)} over {dict(before.traffic)}")
        with self.observer() as tx:
            live = [rollback for key in tx.live_rollbacks() if (rollback := tx.rollback(key))]
            owners = [rollback for rollback in live if rollback.state.under_way]
            intents = [
                rollback for rollback in owners if any(kind == "intent" for _, kind, _ in tx.journal(rollback.id))
            ]
        self.chance.demand(len(owners) <= 1, "two rollbacks own one endpoint")
        self.chance.demand(bool(intents), "the endpoint was changed and no intent was written down")
        owner = intents[0]
        again = [foreign for key, foreign in self.changes if key == owner.id]
        self.chance.demand(not (again and self.answered), "a rollback changed the endpoint again, knowing that it had")
        killed = self.killed_at is not None and (
            self.chance.seconds > self.killed_at + STALE.total_seconds() or self.killed_step < self.ticks[-1]
        )
        self.chance.demand(not killed, "the endpoint was changed while the kill switch was on")
        # A deploy in the seconds between the look and the update can be overwritten: the serving API compares no versions.
        overtaken = self.chance.seconds <= self.deployed_at + STALE.total_seconds()
        voided = before.config_version != owner.plan.config_version and not again and not overtaken
        self.chance.demand(
            not voided, f"a plan for configuration {owner.plan.config_version} overwrote {before.config_version}"
        )
        self.changes.append((owner.id, self.foreign))

    def check(self) -> None:
        unforeseen = sum(replica.faults["unforeseen"] for replica in self.replicas if replica)
        self.chance.demand(not unforeseen, "a step failed in a way that nobody foresaw")
        with self.observer() as tx:
            live = [rollback for key in tx.live_rollbacks() if (rollback := tx.rollback(key))]
            states = {rollback.id: rollback.state for rollback in tx.rollbacks(NAME, 1000)}
        owners = [rollback.id for rollback in live if rollback.state.under_way]
        self.chance.demand(len(owners) <= 1, f"rollbacks under way at once: {owners}")
        for key, state in states.items():
            if state.ended:
                ended = self.over.setdefault(key, state)
                self.chance.demand(ended is state, f"a rollback had ended as {ended} and is {state}")
            self.chance.demand(state.ended or key not in self.over, f"a rollback had ended and is {state}")
            if key not in self.decided:
                continue
            undone = state in UNDECIDED or (state is Status.REJECTED) is not (self.decided[key] is Reject)
            self.chance.demand(
                not undone, f"a person decided {self.decided[key].__name__}, and the rollback is {state}"
            )

    def settled(self) -> None:
        """Faults have stopped, a person answers: everything ends, and everything was said."""
        self.chance.storm = False
        with self.observer() as tx:
            tx.set_kill_switch(KillSwitch(False, PERSON, "quiet"))
            self.killed_at = None
        for _ in range(QUIET_STEPS):
            self.chance.seconds += 180.0
            self.life(0)
            if (replica := self.replicas[0]) and (links := self.links()):
                try:
                    replica.people.decide(links[-1], Approve(PERSON))
                except (LinkError, LastgoodError):
                    pass
        with self.observer() as tx:
            lost = tx.audit(what="undeliverable")
            problems, waiting, standing = tx.verify(), tx.unsent(), tx.live_rollbacks()
            rollbacks, incidents = tx.rollbacks(NAME, 1000), tx.incidents(NAME, open_only=True)
            every, spared = tx.incidents(NAME), len(tx.audit(what="not sent any more"))
        self._delivered()
        self.chance.demand(problems == [], f"the audit chain is broken: {problems[:2]}")
        self.chance.demand(not waiting and not lost, f"messages that nobody got: {waiting or len(lost)}")
        self.chance.demand(not standing or bool(incidents), f"a rollback that does not end: {standing}")
        told = {str(event["dedup_key"]) for event in self.channel.events}
        silent = [incident.id for incident in every if not any(incident.id in key for key in told)]
        self.chance.demand(len(silent) <= spared, f"incidents of which nobody heard: {silent}")
        share = self.workspace.seen().share(BAD)
        self.chance.demand(
            not (share == 0 and incidents), f"the bad version is gone and an incident is open: {len(incidents)}"
        )
        self._said(rollbacks, share, spared)

    def _delivered(self) -> None:
        """Every message that counts as sent was taken by its channel."""
        with self.store._engine.connect() as connection:
            rows = connection.execute(
                outbox.select().where(outbox.c.finished, outbox.c.error == "", outbox.c.channel == "pagerduty")
            ).all()
        missing = [row.once for row in rows if row.event not in self.channel.events]
        self.chance.demand(not missing, f"sent, and nobody got it: {missing[:2]}")

    def _said(self, rollbacks: Sequence[Rollback], share: int, spared: int) -> None:
        """Whoever was to be told was: of a failed rollback, and of a bad version that still serves. `spared`: alerts that were over before their
        channel took them."""
        keys = [str(event["dedup_key"]) for event in self.channel.events if event["event_action"] == "trigger"]
        changed = {key for key, _ in self.changes}
        for rollback in rollbacks:
            if rollback.state is Status.FAILED and rollback.id in changed:
                told = spared > 0 or any(key.endswith("-failed") for key in keys)
                self.chance.demand(
                    told, f"a rollback failed after it had changed the endpoint, and nobody was told: {rollback.id}"
                )
        self.chance.demand(not share or bool(keys), "a bad version is served and nobody was paged")


@contextmanager
def _hooked(world: World) -> Iterator[None]:
    """Transactions of replicas are moments too."""
    begin, write_journal = Store.begin, Tx.write_journal
    intents: list[str] = []

    def written(tx: Tx, rollback_id: str, now: datetime, name: str, kind: str, *rest: str) -> None:
        write_journal(tx, rollback_id, now, name, kind, *rest)
        if kind == "intent":
            intents.append(rollback_id)

    @contextmanager
    def begun(store: Store) -> Iterator[Tx]:
        own = not world.observing
        if own:
            world.moment("a transaction begins")
        with begin(store) as tx:
            yield tx
            if own and world.chance.pick("kill", 0.1):
                raise Killed
        if own:
            due, intents[:] = bool(intents), []
            world.moment("an update is due" if due else "a transaction has ended", 8.0 if due else 1.0)

    with instead(Store, begin=begun), instead(Tx, write_journal=written):
        yield


@cache
def _shared() -> Store:
    """One database for all worlds, one after the other: a new one each time would cost most of the run."""
    folder = tempfile.mkdtemp(prefix="lastgood-simulation-", dir="/dev/shm")
    atexit.register(shutil.rmtree, folder, True)
    return Store(f"sqlite:///{folder}/state.db")


def _empty() -> Store:
    """The database as it is when it was made."""
    store = _shared()
    with store._engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    with store.begin() as tx:
        tx.set_flag_once("audit_head", {"seq": 0, "hash": GENESIS})
    return store


def play(chance: Chance) -> None:
    """A bad version, an hour of faults, then quiet."""
    world = World(chance, _empty())
    with _hooked(world):
        for _ in range(chance.random.randint(8, 24)):
            chance.seconds += chance.random.choice((2.0, 10.0, 60.0))
            world.person()
            for i in range(2):
                if chance.random.random() < 0.7:
                    world.life(i)
            world.check()
        world.settled()
