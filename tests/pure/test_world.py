"""Each kind of fault of the world, healthy and bad: few seeds of what `benchmarks.judge` runs 500 times; what must change no verdict."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_support import START, requests, windows
from soak import scaled

from benchmarks.judge.world import BEGIN, SCENARIOS, at, outcome, run
from lastgood.judge import Evidence, History, Planned, State, Verdict, judge, power
from lastgood.judge.explain import COLUMNS, explain
from lastgood.judge.judge import case_of, first_rollback
from lastgood.judge.ledger import Configuration, Pair, Served, from_traffic, judged, ledger, planned
from lastgood.judge.records import columns_of
from lastgood.judge.streams import failures
from lastgood.record.fault import FAULTS, Fault, fault
from lastgood.record.windows import Counts
from lastgood.settings import Policy

POLICY = Policy()
END = BEGIN + timedelta(minutes=30)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_healthy_version_stays_and_a_bad_one_is_found(name: str, seed: int) -> None:
    assert run(name, False, 1000 + seed)[0] is False, "healthy"
    assert run(name, True, 1000 + seed)[0] is True, "bad"


def say(given_windows: list[Counts], **more: Any) -> Any:
    return judge(Evidence("chat", "2", "1", given_windows, 60, **more), POLICY, History(), END)


@settings(max_examples=scaled(5))
@given(st.integers(0, 1000), st.randoms())
def test_third_versions_stray_rows_and_the_order_of_arrival_change_no_verdict(seed: int, order: random.Random) -> None:
    mine = windows(requests(seed, per_minute=60, errors=(1, 8)[seed % 2]))
    other = [replace(one, model_version="3") for one in windows(requests(seed + 1, per_minute=30, errors=20))]
    stray = [replace(one, model_version="unheard of") for one in other[:1]]
    mixed = [*mine, *other, *stray]
    order.shuffle(mixed)
    assert say(mixed) == say(mine)


def test_a_third_version_and_a_stray_one_change_no_pair() -> None:
    two = [Configuration(at(-5000), {"1": 100}), Configuration(BEGIN, {"1": 50, "2": 50})]
    three = [*two, Configuration(at(30), {"1": 40, "2": 50, "3": 10})]
    assert judged(two) == [Pair("2", "1", BEGIN)]
    assert judged(three) == [Pair("3", "1", at(30)), Pair("2", "1", BEGIN)]
    served = [Served("1", at(-5000), at(60), 90_000), Served("2", BEGIN, at(60), 9_000)]
    assert judged(from_traffic(served)) == judged(from_traffic([*served, Served("9", at(50), at(50), 3)]))
    assert [(p.candidate, p.prior) for p in judged(from_traffic(served))] == [("2", "1")]


def test_the_champion_is_who_carried_the_traffic_not_who_was_seen_last() -> None:
    short = [Configuration(at(-5000), {"1": 100}), Configuration(at(-10), {"2": 100}), Configuration(BEGIN, {"3": 100})]
    assert judged(short) == [Pair("3", "1", BEGIN)], "2 served for ten minutes"
    back = [*short[:2], Configuration(BEGIN, {"1": 100})]
    assert judged(back) == [Pair("1", None, BEGIN)], "rolled back by hand: 1 is its own champion, and begins anew"
    again = [*back, Configuration(at(60), {"1": 50, "2": 50})]
    assert judged(again) == [Pair("2", "1", at(60))]
    assert judged([*short, Configuration(at(40), {"3": 100, "4": 0})])[0].since == BEGIN
    away = {"1": [at(-20)]}
    assert judged(short, away) == [Pair("3", "2", BEGIN)], "a version that was rolled back is nobody's champion"


def test_a_canary_is_compared_with_what_serves_beside_it_however_short_a_time_that_has_served() -> None:
    for hours in (6, 24, 48):
        daily = [
            Configuration(at(-90_000), {"1": 100}),
            Configuration(at(-60 * hours), {"2": 100}),
            Configuration(BEGIN, {"2": 90, "3": 10}),
        ]
        assert judged(daily) == [Pair("3", "2", BEGIN)], "1 carried more, and serves no more: nothing would be compared"
        assert judged([*daily, Configuration(at(90), {"3": 100})]) == [Pair("3", "2", BEGIN)], (
            "as it was while 2 served"
        )
    bad_again = [
        Configuration(at(-90_000), {"1": 100}),
        Configuration(at(-60), {"1": 50, "2": 50}),
        Configuration(at(-30), {"1": 100}),
    ]
    assert judged([*bad_again, Configuration(BEGIN, {"2": 100})]) == [Pair("2", "1", BEGIN)], (
        "nobody serves beside it: who carried most"
    )


def test_a_configuration_seen_by_two_services_counts_once_and_one_made_anew_counts() -> None:
    def rows(number: int, minute: float, *versions: str) -> list[dict[str, Any]]:
        share = 100 // len(versions)
        return [
            {"endpoint": "chat", "config_version": number, "served_entity": v, "model_version": v, "traffic": share, "observed_at": at(minute)}
            for v in versions
        ]  # fmt: skip

    seen = [*rows(1, 0, "1"), *rows(2, 10, "1", "2"), *rows(2, 10.5, "1", "2"), *rows(1, 90, "3")]
    found = ledger(seen)["chat"]
    assert [(c.since, set(c.traffic)) for c in found] == [(at(0), {"1"}), (at(10), {"1", "2"}), (at(90), {"3"})]
    plans = planned(found, Pair("2", "1", at(10)))
    assert [(plan.share, plan.since) for plan in plans] == [(0.0, at(0)), (0.5, at(10))]


def test_who_is_judged_is_the_same_whenever_it_is_asked() -> None:
    """A restart of the service forgets nothing: the ledger alone says who is judged and since when."""
    known = [
        Configuration(at(-5000), {"1": 100}),
        Configuration(BEGIN, {"1": 95, "2": 5}),
        Configuration(at(30), {"1": 50, "2": 50}),
    ]
    assert judged(known) == judged(list(reversed(known))) == [Pair("2", "1", BEGIN)]


CODES = {
    "HTTP_500": Fault.MODEL, "HTTP_503": Fault.PLATFORM, "502": Fault.PLATFORM, "HTTP_504": Fault.TIMEOUT, "DeadlineExceeded": Fault.TIMEOUT,
    "HTTP_429": Fault.LIMIT, "RATE_LIMIT": Fault.LIMIT, "RESOURCE_EXHAUSTED": Fault.LIMIT, "HTTP_400": Fault.CLIENT, "401": Fault.CLIENT,
    "HTTP_499": Fault.CLIENT, "INVALID_ARGUMENT": Fault.CLIENT, "openai.BadRequestError": Fault.CLIENT, "content_filter": Fault.CONTENT,
    "HTTP_400 content_filter": Fault.CONTENT, "ValueError": Fault.MODEL, "": Fault.MODEL, "UNAVAILABLE": Fault.PLATFORM,
    "context_length_exceeded": Fault.CLIENT, "HTTP_408": Fault.TIMEOUT,
}  # fmt: skip


@pytest.mark.parametrize("code", CODES)
def test_whose_fault_a_code_is(code: str) -> None:
    assert fault(code) is CODES[code]
    assert set(FAULTS) == set(CODES.values())


def test_versions_that_share_no_kind_of_request_are_not_compared_and_that_is_said() -> None:
    given_requests = requests(1, errors=8, minutes=30)
    given_requests.tokens_in[:] = np.where(given_requests.arm == 1, 20.0, 3000.0)
    verdict = judge(Evidence("chat", "2", "1", columns_of(given_requests, 60), 60), POLICY, History(), END)
    assert verdict.state is not State.ROLL_BACK
    assert "comparability" in {finding.metric for finding in verdict.findings}


def test_a_proof_of_health_lapses_when_nothing_serves_beside_the_version_any_more() -> None:
    both = requests(3, minutes=60, per_minute=600)
    cols = columns_of(both, 60)
    early = judge(Evidence("chat", "2", "1", cols, 60), POLICY, History(), cols.until(59))
    assert early.state is State.HEALTHY
    alone = both.take((both.arm == 1) | (both.at < both.at.min() + 900))
    cols = columns_of(alone, 60)
    late = judge(Evidence("chat", "2", "1", cols, 60), POLICY, History(), cols.until(59))
    assert late.state is not State.HEALTHY


def test_while_replicas_are_added_speed_counts_for_nobody() -> None:
    given_requests = requests(1, minutes=30, per_minute=300)
    slow = (
        (given_requests.arm == 1)
        & (given_requests.at > given_requests.at.min() + 900)
        & (given_requests.at < given_requests.at.min() + 1000)
    )
    given_requests.latency_ms[slow] *= 4
    cols = columns_of(given_requests, 20)
    added = BEGIN + timedelta(minutes=15)
    plain, told = (Evidence("chat", "2", "1", cols, 20, scaled=scaled) for scaled in ((), (added,)))
    assert first_rollback(plain, POLICY, History())[1] is not None
    assert first_rollback(told, POLICY, History())[1] is None


def test_a_slow_version_does_not_hide_behind_the_replicas_that_it_makes_be_added() -> None:
    cols = columns_of(requests(1, minutes=60, per_minute=240, latency=2.0), 20)
    all_the_time = Evidence("chat", "2", "1", cols, 20, scaled=[at(minute) for minute in range(0, 60, 2)])
    assert first_rollback(all_the_time, POLICY, History())[1] is not None


@pytest.mark.parametrize("lengths", [True, False])
def test_failures_that_say_no_latency_scope_are_compared_with_the_requests_that_do(lengths: bool) -> None:
    """Who never reached the model has no latency of it: a stratum of failures alone would hide that one version has ten times as many."""
    asked = requests(5, minutes=60, per_minute=240, failing=0.0015, errors=10)
    failed = asked.code >= 0
    scoped = replace(asked, scope=np.where(failed, 1, 0), scopes=("model", "?"))
    scoped = replace(scoped, tokens_in=np.where(failed & ~lengths, np.nan, scoped.tokens_in))
    assert first_rollback(Evidence("chat", "2", "1", columns_of(scoped, 20), 20), POLICY, History())[1] is not None
    nowhere = replace(asked, scopes=("?",))
    assert failures(columns_of(nowhere, 20), FAULTS).n.any((0, 2)).sum() > 1, (
        "where nobody says a scope, lengths are still compared with like"
    )


def test_windows_that_count_for_nobody_change_no_mean_of_the_prompts() -> None:
    """Both versions are sent the same prompts; the split changes, so the windows near it are left out, prompts and all."""
    rng, asked = np.random.default_rng(3), requests(3, minutes=30, per_minute=240)
    share = np.where(asked.at < START + 600, 0.02, 0.6)
    labelled = asked.labelled((rng.random(len(asked.at)) < share).astype(np.int64))
    plans = [Planned(0.02, BEGIN, at(9.5)), Planned(0.6, at(10.3))]
    evidence = Evidence("chat", "2", "1", columns_of(labelled, 20), 20, planned=plans, deployed=BEGIN)
    case = case_of(evidence, Policy(), History())
    assert case is not None and case.left_out["the split changed"].any()
    assert not case.other_input.any()


def test_no_version_is_accused_while_the_ledger_is_empty() -> None:
    assert judged([]) == []
    assert outcome(replace(SCENARIOS["7 cold start"](np.random.default_rng(1), True), ledger=())) == {}


def test_a_verdict_explains_itself_in_a_short_table() -> None:
    given_requests = requests(1, errors=8, minutes=30)
    verdict = judge(Evidence("chat", "2", "1", columns_of(given_requests, 60), 60), POLICY, History(), END)
    said = explain(Verdict.from_json(verdict.as_json()))
    assert said.rows[0][0] == "errors"
    assert all(len(row) == len(COLUMNS) for row in said.rows)
    assert {"length", "pace"} <= {row[0] for row in said.rows if "change" in row[5]}
    assert "a rollback 111.1" in said.lines[1]
    assert explain(replace(verdict, figures={})).rows == ()


def test_a_promotion_is_planned_in_steps_that_can_see() -> None:
    counted = windows(requests(2, minutes=30, per_minute=600, failing=0.01))
    traffic = power.of_windows(counted, 60)
    assert traffic.per_minute == pytest.approx(600, rel=0.01)
    assert traffic.errors == pytest.approx(0.01, rel=0.3)
    steps = [power.step(traffic, share, POLICY, 90, 11, 1) for share in (5, 10, 50)]
    assert steps[2].minutes < steps[1].minutes <= steps[0].minutes
    path = power.fastest(steps, 60)
    assert path[-1].share == 50
    assert all(one.minutes <= 60 for one in path)
    assert power.fastest(steps, 0.0) == [steps[2]]


@pytest.mark.parametrize("failing", [0.0, 0.0001])
def test_a_promotion_of_what_hardly_ever_fails_is_planned_by_a_rise_to_the_objective(failing: float) -> None:
    traffic = power.typical(600, 0.5, failing)
    steps = [power.step(traffic, share, POLICY, 90, 11, 1) for share in (5, 50)]
    assert all(step.minutes <= 60 for step in steps)


@pytest.mark.parametrize("everybody", [False, True])
def test_bad_answers_of_one_requester_bring_nobody_back(everybody: bool) -> None:
    """A pinned requester has most of the new version's bad answers; where everybody has them, the version is rolled back."""
    rng = np.random.default_rng(3)
    made = []
    for window in windows(requests(5, minutes=30, per_minute=300, people=40)):
        answers = {who: facts[0] for who, facts in window.callers.items()}
        bad_share = 0.2 if everybody and window.model_version == "2" else 0.02
        callers = {who: (float(n), float(rng.binomial(n, bad_share))) for who, n in answers.items()}
        more = window.rows // 8 if window.model_version == "2" else 0
        if more:
            callers["pinned"] = (float(more), 0.9 * more)
        looked_at, bad = (sum(part) for part in zip(*callers.values(), strict=True))
        facts = dict(window.callers) | ({"pinned": (more, *(0,) * (len(FAULTS) + 3))} if more else {})
        made.append(
            replace(
                window, rows=window.rows + more, requests=window.requests + more, callers=facts,
                tokens_in=window.tokens_in * (1 + more / window.rows),
                quality={"answers": looked_at, "bad": bad}, answer_callers=callers,
            )
        )  # fmt: skip
    verdict = say(made)
    assert verdict.state is (State.ROLL_BACK if everybody else State.WATCH), verdict.reason
    anonymous = say([replace(window, answer_callers={}, callers={}) for window in made])
    assert anonymous.state.severity >= State.PAGE.severity


def test_failures_that_wait_for_their_version_end_no_harm_and_prove_no_health() -> None:
    """In the newest windows a table has not yet said whose the failures are: they are missing from the version that fails."""

    def named_later(window: Counts, since: float) -> Counts:
        late = window.start.timestamp() >= since
        callers = {who: (facts[0], *(0,) * len(FAULTS), *facts[-3:]) for who, facts in window.callers.items()}
        return replace(window, errors={}, callers=callers) if late else window

    failing = windows(requests(11, minutes=30, per_minute=120, errors=12))
    starts = sorted({window.start for window in failing})
    newest = starts[-14:]
    seen = [named_later(window, newest[0].timestamp()) for window in failing]
    assert say(failing).state is State.ROLL_BACK
    assert say(seen).state is not State.ROLL_BACK, "as if it were over"
    assert say(seen, waiting=newest).state is State.ROLL_BACK
    for clean in (10, 14, 18, 22):
        over = [named_later(window, starts[-clean].timestamp()) for window in failing]
        assert say(over).state is not State.ROLL_BACK, f"{clean} minutes in which nobody's request failed"
    healthy = windows(requests(12, minutes=30, per_minute=600))
    assert say(healthy).state is State.HEALTHY
    assert say(healthy, waiting=starts).state is State.INCONCLUSIVE
