"""Two speeds, one judge: what the service says of its newest requests, what the scheduled job says of the windows, one incident."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from alerts_support import House, MemoryWorkspace, endpoint, settings
from judge_support import BEGIN, LEDGER, START, requests, table, windows

from lastgood.alerts.store import Store
from lastgood.judge import Drifted, Evidence, History, State, Verdict, budget, judge
from lastgood.judge.ledger import Configuration, judged, ledger, planned, stints, version_then
from lastgood.judge.records import Records
from lastgood.record.verdict import LIVE, SCHEDULED
from lastgood.service import live as live_module
from lastgood.service.histories import Histories
from lastgood.service.live import Live
from lastgood.settings import load

SETTINGS = load(live_every_s=60.0)
POLICY = SETTINGS.default.policy


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now


def watched(given: Records, minutes: int = 30) -> tuple[Live, Clock]:
    """A service that knows the ledger, got the prior version's requests first, and all by the end."""
    clock = Clock()
    live = Live(SETTINGS, clock)
    live.learn(LEDGER)
    early = given.take((given.at < START + 60) & (given.arm == 0))
    live.take(table(early))
    clock.now = BEGIN + timedelta(minutes=minutes, seconds=3)
    live.take(table(given.take((given.at >= START + 60) | (given.arm == 1))))
    return live, clock


def one_look(live: Live, history: History | None = None) -> Verdict:
    (verdict,) = live.look("chat", history or History())
    return verdict


def test_what_the_scheduled_judge_knows_of_drift_holds_for_the_fast_one_too() -> None:
    """Version 2 is sent another kind of prompts, which only the drift report tells; their answers take longer."""
    live, clock = watched(requests(1, latency=1.5))
    assert one_look(live).state is State.ROLL_BACK, "nothing says that the prompts differ"
    drift = [Drifted("2", "prior", "input", "input_text", 0.4, 0.3)]
    told = judge(Evidence("chat", "2", "1", windows(requests(1)), 60, drift), POLICY, History(), clock())
    live.knows(Verdict.from_json(told.as_json()))
    assert one_look(live).state is State.WATCH
    live.knows(replace(told, figures={}))
    assert one_look(live).state is State.ROLL_BACK, "the newest report has no drift"


def test_added_replicas_are_cold_for_the_fast_judge_too() -> None:
    """For a minute after they were added version 2 is three times as slow."""
    given = requests(1)
    added = BEGIN + timedelta(minutes=20)
    cold = (given.arm == 1) & (given.at >= added.timestamp()) & (given.at < added.timestamp() + 70)
    given.latency_ms[cold] *= 3
    live, _ = watched(given, 22)
    assert one_look(live).state is not State.HEALTHY
    before = one_look(live).e_value
    for minute, replicas in ((added - timedelta(minutes=1), 4.0), (added, 8.0), (added + timedelta(minutes=1), 8.0)):
        live.scales([{"endpoint": "chat", "minute": minute, "provisioned": replicas}])
    after = one_look(live)
    assert (after.state, after.e_value < before) == (State.HEALTHY, True)


def test_both_speeds_say_the_same_once_late_data_has_arrived() -> None:
    given = requests(1, errors=8)
    live, clock = watched(given)
    late = table(requests(2, minutes=20))
    live.take(late)
    live.take(late)  # sent again: no request counts twice
    fast = one_look(live)
    both = [*windows(given), *windows(requests(2, minutes=20))]
    share = History(share=budget.segment(LIVE, BEGIN, clock.now)[1] * budget.of_history(1))
    plan = planned(LEDGER["chat"], judged(LEDGER["chat"])[0])
    slow = judge(Evidence("chat", "2", "1", both, 60, planned=plan, deployed=BEGIN), POLICY, share, clock.now)
    assert fast.state is slow.state is State.ROLL_BACK
    assert fast.e_value == pytest.approx(slow.e_value, rel=1e-9)
    assert fast.reason == slow.reason


def test_one_incident_comes_of_both(tmp_path: Path) -> None:
    given = requests(1, errors=8)
    live, clock = watched(given)
    fast = live.verdicts(lambda _: History())
    slow = judge(Evidence("chat", "2", "1", windows(given), 60), POLICY, History(), clock.now)
    assert [one.state for one in fast] == [State.ROLL_BACK]
    house = House(tmp_path, MemoryWorkspace(endpoint("1", "2", v1=50, v2=50)), settings())
    for verdict in (*fast, slow, replace(slow, judged_at=slow.judged_at + timedelta(seconds=1))):
        house.controller.handle(verdict)
    with house.store.read() as tx:
        assert [one.candidate for one in tx.incidents("chat")] == ["2"]
    assert house.rollbacks() == 1
    house.close()


def test_a_healthy_candidate_is_not_reported_by_the_fast_path() -> None:
    live, _ = watched(requests(3))
    assert live.verdicts(lambda _: History()) == []


def test_without_a_ledger_nobody_is_accused_until_the_job_has_said_which_version_is_new() -> None:
    given = requests(4, errors=8)
    live, clock = watched(given)
    live.learn({})
    assert live.look("chat", History()) == []
    live.knows(Verdict("chat", "2", "1", State.INCONCLUSIVE, "", clock.now))
    said = one_look(live)
    assert (said.candidate, said.prior, said.state) == ("2", "1", State.ROLL_BACK)


def test_a_version_that_no_configuration_names_asks_for_the_ledger_and_accuses_nobody() -> None:
    given = requests(1, errors=8)
    live, _ = watched(given)
    before = one_look(live)
    stray = table(given).slice(0, 3)
    names = pa.array(["9"] * 3)
    live.take(stray.set_column(stray.schema.get_field_index("model_version"), "model_version", names))
    assert live.unknown() == {("chat", "9")}
    assert one_look(live) == before


def test_a_version_that_came_back_is_judged_on_what_it_did_since() -> None:
    live, clock = watched(requests(1, errors=8))
    back = BEGIN + timedelta(minutes=29)
    live.learn(
        {
            "chat": [
                *LEDGER["chat"],
                Configuration(back - timedelta(minutes=1), {"1": 100}),
                Configuration(back, {"1": 50, "2": 50}),
            ]
        }
    )
    assert one_look(live).state is not State.ROLL_BACK
    live.learn(LEDGER)
    away = History({"2": [clock.now - timedelta(seconds=30)]})
    assert all(verdict.state is not State.ROLL_BACK for verdict in live.look("chat", away))


def test_a_restart_and_a_second_replica_spend_the_budget_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    stores = [Store(url) for _ in range(3)]
    asked = ("chat", "2", BEGIN, 0)
    numbers = [Histories(store, f"process {i}")([asked])[asked] for i, store in enumerate(stores)]
    assert numbers == [1, 2, 3]
    assert Histories(stores[0], "process 0")([asked])[asked] == 1
    following = ("chat", "2", BEGIN, 2)
    assert Histories(stores[2], "process 2")([following])[following] == 1, "each epoch has its own"
    for store in stores:
        store.close()
    spent = sum(budget.of_history(n) for n in range(1, 50))
    assert spent == pytest.approx(1.0)


@pytest.mark.parametrize("kind", [LIVE, SCHEDULED])
@pytest.mark.parametrize("month", [0, 1, 5])
def test_all_epochs_of_thirty_days_spend_no_more_than_the_judges_share(kind: str, month: int) -> None:
    length = budget.EPOCHS[kind]
    first = BEGIN + month * budget.RENEWED
    looks = [first + i * length for i in range(int(budget.RENEWED / length))]
    shares = dict(budget.segment(kind, BEGIN, at) for at in looks)
    assert sum(shares.values()) <= budget.JUDGES[kind] * (1 + 1e-9)


def test_a_busy_endpoint_is_judged_on_a_blind_sample_of_every_window() -> None:
    """400 requests a second, in commits of half a second: every window keeps between half of what it may and that, and the verdict comes."""
    clock = Clock()
    live = Live(load(live_every_s=10.0), clock)
    live.learn(LEDGER)
    given = requests(5, 1, 400 * 60, errors=8)
    first = given.take((given.at < START + 20) & (given.arm == 0))
    live.take(table(first))
    for half in range(40, 120):
        clock.now = BEGIN + timedelta(seconds=half / 2 + 0.5)
        live.take(table(given.take((given.at >= START + half / 2) & (given.at < START + half / 2 + 0.5))))
        if half % 20 == 19:
            live.look("chat", History())
    kept = live._endpoints["chat"].rows
    counts = np.unique(kept["window"].to_numpy(), return_counts=True)[1]
    assert len(counts) == 6
    assert all(450 <= one <= 1000 for one in counts[2:]), counts
    share = np.mean([version == "2" for version in kept["model_version"].to_pylist()[-2000:]])
    assert 0.45 <= share <= 0.55
    clock.now = BEGIN + timedelta(seconds=63)
    assert one_look(live).state is State.ROLL_BACK
    clock.now = BEGIN + timedelta(minutes=20)
    live.take(
        table(given.take(given.at >= START + 59.5))
    )  # late, once the version is no longer new: nothing is drawn anew
    assert set(kept["request_id"].to_pylist()) <= set(live._endpoints["chat"].rows["request_id"].to_pylist())


def test_a_flood_of_late_requests_and_times_far_away_do_not_fill_the_memory() -> None:
    clock = Clock()
    live = Live(load(live_every_s=10.0), clock)
    given = requests(5, 0.5, 1000 * 60, errors=8)
    clock.now = BEGIN + timedelta(minutes=30)
    for _ in range(3):
        live.take(table(given))
    kept = live._endpoints["chat"].rows
    assert kept.num_rows <= 3 * 2 * 10 * live_module.FRESH_PER_S
    clock.now = BEGIN - timedelta(minutes=5)
    early = Live(SETTINGS, clock)
    early.take(table(given))
    assert not early._endpoints, "a version is not known by requests of a time to come"


def test_an_endpoint_that_is_silent_for_hours_is_forgotten() -> None:
    live, clock = watched(requests(3))
    live.verdicts(lambda _: History())
    assert list(live._endpoints) == ["chat"]
    clock.now += timedelta(hours=3)
    assert live.verdicts(lambda _: History()) == []
    assert not live._endpoints


def test_names_of_versions_that_a_sender_makes_up_change_no_verdict() -> None:
    given = table(requests(1, errors=8, minutes=5))
    live, _ = watched(requests(1, errors=8))
    before = one_look(live)
    names = pa.array([f"made up {i}" for i in range(given.num_rows)])
    live.take(given.set_column(given.schema.get_field_index("model_version"), "model_version", names))
    assert one_look(live) == before
    assert len(live.unknown()) <= live_module.NAMES


def test_spans_of_external_models_are_judged_by_the_entity_that_the_configuration_names() -> None:
    """Two external models behind one endpoint: spans say the served entity, versions are the configuration's. An entity whose model was
    exchanged is another version from then on."""
    old, new = "gpt@11111111", "gpt@22222222"

    def row(at: datetime, version: str, entity: str, share: int, number: int) -> dict[str, Any]:
        return {
            "endpoint": "chat",
            "served_entity": entity,
            "model_version": version,
            "traffic": share,
            "observed_at": at,
            "config_version": number,
        }

    rows = [
        row(BEGIN - timedelta(days=9), old, "gpt-a", 100, 1), row(BEGIN, old, "gpt-a", 50, 2), row(BEGIN, new, "gpt-b", 50, 2),
    ]  # fmt: skip
    assert version_then(stints(rows)["chat", "gpt-a"], BEGIN - timedelta(days=20)) == old
    renamed = stints([*rows, row(BEGIN + timedelta(days=1), "gpt@33333333", "gpt-a", 100, 3)])
    assert [version_then(renamed["chat", "gpt-a"], BEGIN + timedelta(hours=hours)) for hours in (1, 25)] == [
        old,
        "gpt@33333333",
    ]
    clock = Clock()
    live = Live(SETTINGS, clock)
    live.learn(ledger(rows), stints(rows))
    given = requests(1, errors=40.0)
    spans = table(given)
    entities = pa.array([f"gpt-{'b' if arm else 'a'}" for arm in given.arm], pa.string())
    for name, column in (("model_version", pa.nulls(len(entities), pa.string())), ("served_entity", entities)):
        spans = spans.set_column(spans.schema.get_field_index(name), name, column)
    early = spans.filter(pa.array((given.at < START + 60) & (given.arm == 0)))
    live.take(early)
    clock.now = BEGIN + timedelta(minutes=30, seconds=3)
    live.take(spans.filter(pa.array((given.at >= START + 60) | (given.arm == 1))))
    verdict = one_look(live)
    assert (verdict.candidate, verdict.prior, verdict.state) == (new, old, State.ROLL_BACK)
