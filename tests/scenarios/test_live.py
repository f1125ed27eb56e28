"""Two speeds, one judge: what the service says of its newest requests, what the scheduled job says of the windows, one incident."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from alerts_support import House, MemoryWorkspace, endpoint, settings
from judge_support import START, requests, windows

from lastgood.judge import Evidence, History, State, Verdict, judge
from lastgood.judge.columns import columns
from lastgood.judge.records import Records
from lastgood.record import telemetry
from lastgood.service import live as live_module
from lastgood.service.live import Live
from lastgood.settings import load

BEGIN = datetime.fromtimestamp(START, UTC)
SETTINGS = load(live_every_s=60.0)
POLICY = SETTINGS.default.policy


def table(given: Records) -> pa.Table:
    """Inbox columns of requests, as the receiver hands them on."""
    rows = [
        {
            "endpoint": "chat", "request_id": f"r{i}-{given.at[i]}", "model_version": str(2 if given.arm[i] else 1),
            "requested_at": datetime.fromtimestamp(given.at[i], UTC), "latency_ms": given.latency_ms[i], "latency_scope": "model",
            "ttft_ms": given.ttft_ms[i], "tokens_in": int(given.tokens_in[i]), "tokens_out": int(given.tokens_out[i]),
            "error_code": "HTTP_500" if given.code[i] >= 0 else None, "requester": f"u{given.who[i]}", "source": "otlp",
        }
        for i in range(len(given.at))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, telemetry.arrow_schema(telemetry.INBOX))


class Clock:
    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now


def watched(given: Records, minutes: int = 30) -> tuple[Live, Clock]:
    """A service that got the prior version's requests first, and all by the end."""
    clock = Clock()
    live = Live(SETTINGS, clock)
    early = given.take((given.at < START + 60) & (given.arm == 0))
    live.take(table(early))
    clock.now = BEGIN + timedelta(minutes=minutes, seconds=3)
    live.take(table(given.take((given.at >= START + 60) | (given.arm == 1))))
    return live, clock


@pytest.mark.parametrize("sticky", [False, True])
def test_both_speeds_say_the_same_once_late_data_has_arrived(sticky: bool) -> None:
    given = requests(1, errors=8, sticky=sticky)
    live, clock = watched(given)
    late = table(requests(2, minutes=20))
    live.take(late)
    live.take(late)  # sent again: no request counts twice
    fast = live.look("chat", History())
    both = [*windows(given), *windows(requests(2, minutes=20))]
    merged = columns(both, "2", "1", 60)
    share = History(share=live_module.LIVE_SHARE / 2)
    slow = judge(Evidence("chat", "2", "1", both, 60), POLICY, share, clock.now)
    assert fast is not None
    assert fast.state is slow.state is State.ROLL_BACK
    assert fast.e_value == pytest.approx(slow.e_value, rel=1e-9)
    assert fast.reason == slow.reason
    assert len(merged.times) == 30


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


def test_versions_that_were_always_there_are_not_accused_until_the_job_says_which_is_new() -> None:
    given = requests(4, errors=8)
    clock = Clock()
    live = Live(SETTINGS, clock)
    live.take(table(given.take(given.at < START + 60)))
    clock.now = BEGIN + timedelta(minutes=30, seconds=3)
    live.take(table(given.take(given.at >= START + 60)))
    assert live.look("chat", History()) is None
    live.knows(Verdict("chat", "2", "1", State.INCONCLUSIVE, "", clock.now))
    said = live.look("chat", History())
    assert said is not None
    assert (said.candidate, said.prior, said.state) == ("2", "1", State.ROLL_BACK)


def test_all_epochs_together_spend_no_more_than_the_share() -> None:
    spent = [live_module.LIVE_SHARE / 2, *(live_module.LIVE_SHARE / ((k + 1) * (k + 2)) for k in range(1, 10_000))]
    assert sum(spent) == pytest.approx(live_module.LIVE_SHARE, rel=1e-3)


def test_a_busy_endpoint_is_judged_on_a_blind_sample_of_every_window() -> None:
    """400 requests a second, in commits of half a second: every window keeps between half of what it may and that, and the verdict comes."""
    clock = Clock()
    live = Live(load(live_every_s=10.0), clock)
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
    said = live.look("chat", History())
    assert said is not None and said.state is State.ROLL_BACK
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


def test_names_of_versions_that_a_sender_makes_up_are_forgotten_and_the_verdict_stays() -> None:
    given = table(requests(1, errors=8, minutes=5))
    live, clock = watched(requests(1, errors=8))
    live.knows(Verdict("chat", "2", "1", State.INCONCLUSIVE, "", clock.now))
    names = pa.array([f"made up {i}" for i in range(given.num_rows)])
    live.take(given.set_column(given.schema.get_field_index("model_version"), "model_version", names))
    assert len(live._endpoints["chat"].seen) > 5 * live_module.VERSIONS
    clock.now += timedelta(hours=5)
    again = requests(1, errors=8)
    live.take(table(replace(again, at=again.at + 5 * 3600)))
    said = live.look("chat", History())
    assert said is not None and (said.candidate, said.state) == ("2", State.ROLL_BACK)
    assert set(live._endpoints["chat"].seen) == {"1", "2"}
