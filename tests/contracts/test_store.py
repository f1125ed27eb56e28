"""The operational state: guards let one through, the audit log shows every tampering, messages keep their order."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alerts_support import START, endpoint, verdict
from sqlalchemy import Connection, create_engine, inspect

from lastgood.alerts import schema
from lastgood.alerts.migrate import configuration
from lastgood.alerts.records import Check, Incident, KillSwitch, Rollback
from lastgood.alerts.rollback.machine import Progress, Status
from lastgood.alerts.rollback.plan import Kind, Snapshot, make_plan
from lastgood.alerts.store import Store
from lastgood.errors import ConfigError, CorruptError, RefusedError, TransientError
from lastgood.record.verdict import LIVE, State

LATER = START + timedelta(minutes=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/new/state.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    built = Store(url)
    yield built
    built.close()


@contextmanager
def raw(url: str) -> Iterator[Connection]:
    """Past the store, as somebody with access to the database."""
    engine = create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def incident(identity: str = "i1", candidate: str = "3") -> Incident:
    return Incident(identity, "chat", candidate, "2", {"reason": "errors"}, "", START, START, None, "")


def rollback(incident_id: str = "i1", config_version: int = 7) -> Rollback:
    e = replace(endpoint("2", "3"), config_version=config_version)
    plan = make_plan(e, "3", "2", refused=(), snapshot=None, reasons=("errors",), now=START)
    return Rollback(
        plan.id, incident_id, "approve", "error_rate", plan, "n", Progress(Status.PROPOSED, START), 0, START
    )


def race(url: str, act: Callable[[Store, int], bool], runners: int = 6) -> list[bool]:
    """The results of `act` on as many stores at the same moment."""
    barrier, results = threading.Barrier(runners), [False] * runners

    def run(i: int) -> None:
        store = Store(url)
        barrier.wait()
        results[i] = act(store, i)
        store.close()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def nonce(store: Store, i: int) -> bool:
    with store.begin() as tx:
        return tx.use_nonce("n", "r", "approve", f"p{i}", START)


def lease(store: Store, i: int) -> bool:
    with store.begin() as tx:
        return tx.lease("rollback/chat", f"r{i}", START, LATER)


def add(store: Store, i: int) -> bool:
    with store.begin() as tx:
        return tx.add_rollback(rollback(config_version=i))


def say(store: Store, i: int) -> bool:
    with store.begin() as tx:
        return tx.say("once", "i1", {"n": i}, START)


@pytest.mark.parametrize("act", [nonce, lease, add, say])
def test_of_several_stores_racing_one_wins(store: Store, url: str, act: Callable[[Store, int], bool]) -> None:
    assert race(url, act).count(True) == 1


def test_a_lease_is_renewed_released_and_runs_out(store: Store) -> None:
    with store.begin() as tx:
        assert tx.lease("x", "a", START, LATER)
        assert tx.lease("x", "a", START, LATER)
        assert not tx.lease("x", "b", START, LATER)
        tx.release("x", "b")
        assert not tx.lease("x", "b", START, LATER)
        assert tx.lease("x", "b", LATER, LATER + timedelta(minutes=1))
        tx.release("x", "b")
        assert tx.lease("x", "a", START, LATER)


def test_a_transaction_is_kept_whole_or_not_at_all(store: Store) -> None:
    with pytest.raises(KeyError), store.begin() as tx:
        tx.use_nonce("n", "r", "approve", "p", START)
        tx.record(START, "p", "approved")
        raise KeyError
    with store.begin() as tx:
        assert tx.audit() == []
        assert tx.use_nonce("n", "r", "approve", "p", START)


def test_reading_keeps_nothing(store: Store) -> None:
    with store.read() as tx:
        tx.use_nonce("n", "r", "approve", "p", START)
    with store.begin() as tx:
        assert tx.use_nonce("n", "r", "approve", "p", START)


def test_one_open_incident_per_endpoint_and_candidate(store: Store) -> None:
    with store.begin() as tx:
        assert tx.open_incident(incident())
        assert not tx.open_incident(incident("i2"))
        assert tx.open_incident(incident("i3", candidate="4"))
        tx.update_incident("i1", LATER, resolved_at=LATER, resolution="done")
        assert tx.find_incident("chat", "3") is None
        assert tx.open_incident(incident("i2"))
        assert tx.incident("i1") == replace(incident(), updated_at=LATER, resolved_at=LATER, resolution="done")


def test_a_rollback_comes_back_as_it_was_and_one_writer_wins(store: Store) -> None:
    first = rollback()
    with store.begin() as tx:
        assert tx.add_rollback(first)
        assert not tx.add_rollback(rollback(config_version=8)), "one per incident until it has ended"
        assert tx.rollback(first.id) == first
        moved = replace(
            first,
            progress=replace(first.progress, state=Status.FAILED),
            shifted_at=LATER,
            moved_at=LATER,
            ended_at=LATER,
        )
        saved = tx.save_rollback(moved)
        assert tx.rollback(first.id) == saved == replace(moved, revision=1)
        assert tx.rolled_back("chat") == {"3"}
        assert tx.add_rollback(rollback(config_version=8))
    with pytest.raises(TransientError, match="somebody else"), store.begin() as tx:
        tx.save_rollback(first)


def test_a_stored_plan_that_was_changed_is_not_used(store: Store, url: str) -> None:
    with store.begin() as tx:
        tx.add_rollback(rollback())
    with raw(url) as db:
        new = """replace(CAST(plan AS TEXT), '"chat-2": 100', '"chat-2": 99')"""
        kind = "JSON" if url.startswith("postgresql") else "TEXT"
        db.exec_driver_sql(f"UPDATE rollbacks SET plan = CAST({new} AS {kind})")
    with pytest.raises(CorruptError, match="not what was stored"), store.read() as tx:
        tx.rollback(rollback().id)


def test_cooldown_counts_what_moved_traffic_and_not_an_attempt_that_moved_nothing(store: Store) -> None:
    with store.begin() as tx:
        tx.add_rollback(rollback())
        assert tx.moved("chat", START) == []
        attempt = tx.save_rollback(replace(rollback(), shifted_at=START, ended_at=LATER))
        assert (tx.moved("chat", START), tx.rolled_back("chat")) == ([], set())
        tx.save_rollback(replace(attempt, moved_at=START))
        assert tx.moved("chat", LATER) == [LATER]
        assert tx.moved("chat", LATER + timedelta(seconds=1)) == []
        assert tx.moved("search", START) == []


def test_snapshots_keep_the_newest_of_a_version_and_no_repeats(store: Store) -> None:
    with store.begin() as tx:
        tx.add_snapshot(Snapshot("chat", 5, "2", {"size": "Small", "name": "a"}), START)
        tx.add_snapshot(Snapshot("chat", 6, "2", {"name": "a", "size": "Small"}), START)
        kept = tx.snapshot("chat", "2")
        assert kept is not None and kept.config_version == 5
        tx.add_snapshot(Snapshot("chat", 7, "2", {"size": "Large"}), START)
        kept = tx.snapshot("chat", "2")
        assert kept is not None and kept.settings == {"size": "Large"}
        assert tx.snapshot("chat", "1") is None


def test_an_older_verdict_does_not_replace_a_newer_one(store: Store) -> None:
    with store.begin() as tx:
        newer = verdict(State.PAGE, LATER)
        assert tx.save_verdict(newer)
        assert not tx.save_verdict(verdict(State.HEALTHY, START))
        assert tx.save_verdict(replace(newer, reason="said again"))
        live, other = replace(newer, judge=LIVE), verdict(State.HEALTHY, START, candidate="4")
        assert tx.save_verdict(live) and tx.save_verdict(other), "each judge and each version has a memory of its own"
        assert sorted(tx.verdicts("chat"), key=repr) == sorted(
            [other, replace(newer, reason="said again"), live], key=repr
        )


def test_messages_of_one_subject_keep_their_order(store: Store) -> None:
    with store.begin() as tx:
        for once, subject in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            assert tx.say(once, subject, {"once": once}, START)
        assert not tx.say("a1", "a", {}, START)
        a1, b1 = tx.due(START)
        assert (a1.event["once"], b1.event["once"]) == ("a1", "b1")
        tx.sent(a1.id, "down", again_at=LATER)
        tx.sent(b1.id)
        assert tx.due(START) == []
        (again,) = tx.due(LATER)
        assert (again.id, again.attempts) == (a1.id, 1)
        tx.sent(a1.id)
        assert [m.event["once"] for m in tx.due(LATER)] == ["a2"]


def test_the_kill_switch_is_remembered(store: Store, url: str) -> None:
    with store.begin() as tx:
        assert not tx.kill_switch().on
        tx.set_kill_switch(KillSwitch(True, "ann", "migration"))
        tx.set_kill_switch(KillSwitch(True, "bob", "still"))
    other = Store(url)
    with other.read() as tx:
        assert tx.kill_switch() == KillSwitch(True, "bob", "still")
    other.close()


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        ("UPDATE audit SET who = 'mallory' WHERE seq = 2", "entry 2 is not what was written"),
        ("""UPDATE audit SET detail = '{"n": 9}' WHERE seq = 4""", "entry 4 is not what was written"),
        ("UPDATE audit SET at = '2026-03-01 11:00:00.000000' WHERE seq = 1", "entry 1 is not what was written"),
        ("DELETE FROM audit WHERE seq = 2", "entries 2 to 2 are missing"),
        ("DELETE FROM audit WHERE seq = 1", "entries 1 to 1 are missing"),
        ("DELETE FROM audit WHERE seq >= 3", "the log ends at entry 2, 4 were written"),
        ("DELETE FROM audit", "the log ends at entry 0, 4 were written"),
        (
            "UPDATE audit SET seq = 9 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3; "
            "UPDATE audit SET seq = 3 WHERE seq = 9",
            "entry 2 is not what was written",
        ),
    ],
)
def test_the_audit_log_shows_what_was_done_to_it(store: Store, url: str, tamper: str, problem: str) -> None:
    with store.begin() as tx:
        for n in range(4):
            tx.record(START + timedelta(seconds=n), "ann", "did", n=n, seen=START)
        assert tx.verify() == []
    with raw(url) as db:
        for statement in tamper.split("; "):
            db.exec_driver_sql(statement)
    with store.read() as tx:
        assert problem in tx.verify()


def test_audit_entries_are_found_by_incident_and_by_kind(store: Store) -> None:
    with store.begin() as tx:
        tx.record(START, "ann", "kill switch on", why="100% sure")
        tx.record(START, "judge", "opened", incident="i1")
        tx.record(START, "judge", "opened", incident="i2")
        assert [e["seq"] for e in tx.audit("i1")] == [2]
        assert [e["seq"] for e in tx.audit(what="kill switch")] == [1]
        assert [e["seq"] for e in tx.audit(what="k%")] == []
        assert len(tx.audit()) == 3


def test_audit_entries_of_several_writers_form_one_chain(store: Store, url: str) -> None:
    def write(mine: Store, i: int) -> bool:
        for n in range(5):
            with mine.begin() as tx:
                tx.record(START, f"w{i}", "did", n=n)
        return True

    race(url, write)
    with store.read() as tx:
        assert len(tx.audit()) == 30
        assert tx.verify() == []


def test_the_migrations_make_the_tables_the_code_uses_and_take_them_away_again(url: str) -> None:
    Store(url).close()
    engine = create_engine(url)
    with engine.connect() as db:
        assert compare_metadata(MigrationContext.configure(db), schema.metadata) == []
    with engine.begin() as db:
        command.downgrade(configuration(db), "base")
    with engine.connect() as db:
        assert inspect(db).get_table_names() == ["alembic_version"]
    engine.dispose()
    Store(url).close()


def test_instances_that_start_together_migrate_once(url: str) -> None:
    barrier, problems = threading.Barrier(4), []

    def start() -> None:
        barrier.wait()
        try:
            Store(url).close()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_the_state_of_a_newer_release_is_left_alone(url: str) -> None:
    Store(url).close()
    with raw(url) as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer Lastgood"):
        Store(url)


def test_what_served_well_and_what_was_checked_is_remembered(store: Store) -> None:
    with store.begin() as tx:
        tx.add_served_well("chat", "1", START)
        tx.add_served_well("chat", "2", LATER)
        tx.add_served_well("chat", "2", LATER)
        assert tx.served_well("chat") == [("2", LATER, 2), ("1", START, 1)]
        assert tx.last_check("chat", "3") is None
        for passed in (False, True):
            tx.add_check(Check("chat", "3", LATER, passed, {"rows": []}))
        assert tx.last_check("chat", "3") == Check("chat", "3", LATER, True, {"rows": []})


def test_promotions_and_drills_are_no_rollbacks(store: Store) -> None:
    first = rollback()
    for kind in (Kind.PROMOTE, Kind.DRILL):
        plan = replace(first.plan, kind=kind)
        with store.begin() as tx:
            assert tx.add_rollback(replace(first, id=plan.id, incident_id=kind, plan=plan, shifted_at=START))
            assert (tx.rolled_back("chat"), tx.moved("chat", START), tx.shifts()) == (set(), [], {})
            found = tx.rollback(plan.id)
            assert found is not None and found.plan.kind is kind


@pytest.mark.parametrize("url", ["nonsense", "nodriver://host/db"])
def test_an_unusable_address_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigError, match="state_url"):
        Store(url)


def test_a_value_postgresql_cannot_hold_is_refused(postgres_url: str) -> None:
    store = Store(postgres_url)
    with pytest.raises(RefusedError, match="cannot be stored"), store.begin() as tx:
        tx.record(START, "ann\x00", "did")
    store.close()


def test_a_database_that_does_not_answer_is_worth_another_try() -> None:
    with pytest.raises(TransientError, match="cannot be reached"):
        Store("postgresql+psycopg://nobody@127.0.0.1:9/none")
