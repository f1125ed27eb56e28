"""Every guard has a case in which leaving it out rolls a healthy version back, or the wrong one."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from judge_support import START, requests

from benchmarks.judge import ours, sticky
from benchmarks.judge.traffic import HEALTHY, SCENARIOS, Traffic, simulate
from lastgood.judge import Evidence, Finding, History, Planned, State, Verdict, judge
from lastgood.judge import calibrate as cal
from lastgood.judge.budget import of_try
from lastgood.judge.judge import first_rollback
from lastgood.judge.records import Records, columns_of
from lastgood.record.windows import Counts, bucket
from lastgood.settings import Policy

POLICY = Policy()


def look(given: Records, policy: Policy = POLICY, history: History | None = None, **more: Any) -> Verdict:
    cols = columns_of(given, 60)
    evidence = Evidence("chat", "2", "1", cols, 60, **more)
    return judge(evidence, policy, history or History(), cols.until(len(cols.times) - 1))


def weeks(failing: float, per_hour: float = 5000.0, ms: float = 700.0) -> list[Counts]:
    """Four earlier weeks, hour by hour."""
    start, rng, hours = datetime.fromtimestamp(START, UTC), np.random.default_rng(2), []
    for i in range(1, 4 * 168 + 1):
        errors = {"HTTP_500": float(rng.binomial(int(per_hour), failing))}
        shape = {bucket(ms * math.exp(z)): per_hour / 9 for z in np.linspace(-0.6, 0.6, 9)}
        hours.append(
            Counts("chat", "1", "model/64", start - timedelta(hours=i), int(per_hour), per_hour, errors, shape)
        )
    return hours


FAILS = requests(1, errors=8)


def test_1_a_split_off_plan_holds_a_rollback_and_without_the_plan_nothing_would() -> None:
    crooked = requests(1, errors=8, split=0.7)
    held = look(crooked, planned=(Planned(0.5),))
    assert (held.state, look(crooked).state) == (State.PAGE, State.ROLL_BACK)
    assert "not split as planned" in held.vetoes[0]
    assert "was planned 50% of the traffic and got 68.3%" in next(
        f.sentence for f in held.findings if f.metric == "split"
    )
    assert look(FAILS, planned=(Planned(0.5),)).state is State.ROLL_BACK


def test_1_plans_change_with_the_rollout_and_only_windows_under_a_plan_are_held_against_it() -> None:
    early, late = requests(1, minutes=20, split=0.1), requests(2, minutes=20, errors=8)
    late = replace(late, at=late.at + 20 * 60)
    both = Records(
        **{name: np.concatenate([getattr(early, name), getattr(late, name)]) if isinstance(value, np.ndarray) else value
           for name, value in vars(early).items()}
    )  # fmt: skip
    middle = datetime.fromtimestamp(START + 20 * 60, UTC)
    ramp = (Planned(0.1, until=middle - timedelta(minutes=2)), Planned(0.5, middle))
    assert look(both, planned=ramp).state is State.ROLL_BACK
    assert look(both, planned=(Planned(0.1),)).state is State.PAGE
    assert look(both, planned=(Planned(0.1, until=middle), Planned(0.9, middle + timedelta(hours=1)))).vetoes == ()


def test_1_a_few_requests_whose_version_nobody_names_are_no_mismatch_and_a_version_that_hangs_is() -> None:
    full = requests(3, minutes=120, per_minute=600)
    some = full.take((full.arm == 0) | (np.arange(len(full.at)) % 25 != 0))
    assert look(some, planned=(Planned(0.5),)).findings == look(some).findings
    hangs = full.take((full.arm == 0) | (full.at < START + 3000) | (np.arange(len(full.at)) % 5 == 0))
    said = look(hangs, planned=(Planned(0.5),))
    assert said.state is State.PAGE
    assert said.findings[-2].metric == "missing requests"
    assert "should have served lately: they hang" in said.reason
    assert look(hangs).state is not State.PAGE


def test_1_a_version_of_which_not_one_request_was_ever_seen_pages() -> None:
    """At a tenth of the traffic the endpoint's own count misses too little to say so."""
    every = requests(3, minutes=60, split=0.1)
    prior = every.take(every.arm == 0)
    verdict = look(prior, planned=(Planned(0.1),), deployed=datetime.fromtimestamp(START, UTC))
    assert verdict.state is State.PAGE and "shows none of the" in verdict.reason
    few = prior.take(prior.at < START + 600)
    assert look(few, planned=(Planned(0.1),)).state is State.INCONCLUSIVE, "fewer are missed than may be late"
    assert look(prior).state is State.INCONCLUSIVE, "no plan gives it traffic"
    assert look(prior, planned=(Planned(0.0),)).state is State.INCONCLUSIVE


@pytest.mark.parametrize("code", ["HTTP_422", "HTTP_429", "content_filter"])
@pytest.mark.parametrize("alone", [True, False])
def test_1_a_version_that_refuses_most_requests_of_most_requesters_pages_whoever_is_to_blame(
    code: str, alone: bool
) -> None:
    given = replace(requests(3, failing=0.0, people=50), codes=(code,))
    refused = (given.arm == 1) & (np.random.default_rng(3).random(len(given.at)) < 0.9)
    everybody = replace(given, code=np.where(refused, 0, -1))
    served = given.arm == 1 if alone else np.ones(len(given.at), bool)
    verdict = look(everybody.take(served))
    assert verdict.bad and "unanswered requests" in [finding.metric for finding in verdict.findings]
    one_client = replace(everybody, who=np.where(refused, 50, given.who))
    assert "unanswered requests" not in [finding.metric for finding in look(one_client.take(served)).findings]
    unknown = look(replace(everybody, who=np.full(len(given.at), -1)).take(served))
    assert ("unanswered requests" in [finding.metric for finding in unknown.findings]) == (code != "HTTP_429")


def test_2_without_strata_a_shift_of_the_mix_is_taken_for_a_regression() -> None:
    mix = next(one for one in SCENARIOS if one.name == "mix shift")
    found = simulate(mix, 0.5, HEALTHY, 40, np.random.default_rng(1))
    blind = Traffic(*(getattr(found, name).sum(2, keepdims=True) for name in ("n", "failed", "hist")))
    assert not np.isfinite(ours.judge(found, POLICY)).any()
    assert np.isfinite(ours.judge(blind, POLICY)).mean() > 0.9


def test_3_when_the_prior_breaks_its_objective_too_the_trouble_is_upstream() -> None:
    both = requests(2, failing=0.2, errors=3)
    assert look(both).state is State.PAGE
    assert "look upstream" in look(both).vetoes[0]
    assert look(both, POLICY.model_copy(update={"error_slo": 0.9})).state is State.ROLL_BACK


def test_4_requesters_that_always_meet_the_same_version_roll_nobody_back() -> None:
    scenario = replace(next(one for one in SCENARIOS if one.sticky), per_minute=120.0)
    rng = np.random.default_rng(3)
    runs = [sticky.records(scenario, 0.5, HEALTHY, rng) for _ in range(25)]
    for one in runs:
        one.code[(one.who % 25 == 0) & (np.arange(len(one.at)) % 3 == 0)] = 0  # some always fail, again and again
    known, nameless = (sum(np.isfinite(sticky.judged(r, POLICY, 60.0, flag)) for r in runs) for flag in (True, False))
    assert known == 0
    assert nameless >= 3
    said = look(requests(1, errors=8, sticky=True))
    assert said.state is State.PAGE, "its own objective speaks"
    assert "requesters always meet the same version" in said.figures["trail"]["doubts"]["errors"]


def test_4_where_the_policy_asks_who_sent_the_requests_nobody_is_rolled_back_without_knowing() -> None:
    asks = POLICY.model_copy(update={"rollback_without_requesters": False})
    nameless = replace(FAILS, who=np.full(len(FAILS.who), -1))
    assert look(nameless).state is State.ROLL_BACK
    assert look(nameless, asks).state is State.PAGE
    assert "who sent the requests" in look(nameless, asks).vetoes[0]
    assert look(FAILS, asks).state is State.ROLL_BACK


def test_5_calibration_finds_a_site_whose_pods_differ_and_what_keeps_the_budget_there() -> None:
    site = requests(4, minutes=40, split=0.0, failing=0.03, pods=4)
    site.code[(site.pod == 0) & (np.arange(len(site.at)) % 14 == 0)] = 0
    by_request, _ = cal.measure(site, "request", POLICY, 40, 0.5, 60, 1)
    by_pod, hits = cal.measure(site, "pod", POLICY, 1000, 0.5, 60, 1)
    assert by_request.rollbacks == 0
    assert by_pod.splits == 2**4 - 2
    assert by_pod.rollbacks >= 4
    assert cal.units(site) == ["request", "requester", "pod"]
    assert not cal.keeps(by_pod, 0.01)
    offered = cal.remedies(site, "pod", POLICY, by_pod.splits, hits, 0.01, 0.5, 60, 1)
    assert offered
    assert all(rate.rate <= 0.01 for rate in offered.values())


def test_5_no_split_of_few_pods_is_judged_twice() -> None:
    site = requests(4, minutes=10, split=0.0, pods=3)
    assert cal.owners(site, "pod") == 3
    judged = cal.seeds(site, "pod", 0.5, 1000, 1)
    drawn = [cal.labels(site, "pod", 0.5, np.random.default_rng([1, i])) for i in judged]
    assert len({one.tobytes() for one in drawn}) == 2**3 - 2
    assert all(0 < one.sum() < len(one) for one in drawn)
    assert cal.measure(site, "pod", POLICY, 1000, 0.5, 60, 1)[0].splits == 6
    assert len(cal.seeds(site, "requester", 0.5, 100, 1)) == len(cal.seeds(site, "request", 0.5, 100, 1)) == 100


def test_6_a_version_tried_again_must_be_worse_to_be_rolled_back_and_all_tries_share_one_budget() -> None:
    assert sum(of_try(j) for j in range(1, 10_000)) == pytest.approx(1.0, abs=1e-3)
    mild = requests(5, minutes=24, errors=4.0, failing=0.012)
    first, later = look(mild), look(mild, history=History({"2": [datetime.fromtimestamp(0, UTC)] * 39}))
    assert first.e_value == later.e_value
    assert (first.state, later.state) == (State.ROLL_BACK, State.PAGE)


def test_6_after_a_rollback_there_is_a_pause() -> None:
    end = datetime.fromtimestamp(float(FAILS.at.max()), UTC)
    assert look(FAILS, history=History({"0": [end - timedelta(minutes=5)]})).state is State.PAGE
    assert look(FAILS, history=History({"0": [end - timedelta(hours=5)]})).state is State.ROLL_BACK


def test_one_caller_served_by_both_versions_is_enough_and_one_sticky_caller_is_not() -> None:
    assert look(requests(6, errors=8, people=1)).state is State.ROLL_BACK
    one_fails = requests(6, people=12, sticky=True)
    mine = int(one_fails.who[one_fails.arm == 1][0])
    one_fails.code[one_fails.who == mine] = 0
    assert look(one_fails).state is not State.ROLL_BACK


def test_without_a_prior_version_more_failures_than_in_earlier_weeks_page_and_never_roll_back() -> None:
    alone = requests(7, minutes=120, split=1.0, failing=0.015, errors=4.0, onset=60)
    loose = POLICY.model_copy(update={"error_slo": 0.5})
    base = weeks(0.015)
    cols = columns_of(alone, 60)
    said = judge(Evidence("chat", "2", None, cols, 60, usual=base), loose, History(), cols.until(119))
    assert said.state is State.PAGE
    assert [f.metric for f in said.findings] == ["run length"]
    quiet = columns_of(requests(8, minutes=120, split=1.0, failing=0.015), 60)
    assert judge(Evidence("chat", "2", None, quiet, 60, usual=base), loose, History(), quiet.until(119)).findings == ()


@pytest.mark.parametrize(("slower", "state"), [(1.2, State.WATCH), (3.0, State.PAGE)])
def test_another_kind_of_prompts_explains_no_more_than_its_own_size(slower: float, state: State) -> None:
    """A tokenizer that counts a quarter more: a fifth slower may be that, three times slower is not."""
    given = requests(1, latency=slower)
    given.tokens_in[given.arm == 1] *= 1.25
    assert look(given).state is state


def test_a_version_alone_that_falls_silent_is_missed_and_one_with_fewer_requests_is_not() -> None:
    given = requests(8, minutes=120, split=1.0, failing=0.015)
    base, loose = weeks(0.015), POLICY.model_copy(update={"error_slo": 0.5})

    def look(records: Any, now_minutes: float) -> Verdict:
        cols = columns_of(records, 60)
        now = cols.until(0) + timedelta(minutes=now_minutes)
        return judge(Evidence("chat", "2", None, cols, 60, usual=base), loose, History(), now)

    silent = given.take(given.at < given.at.min() + 30 * 60)
    early, late = look(silent, 45), look(silent, 30 + loose.max_evidence_age_s / 60 + 5)
    assert (early.state, "no request since" in early.reason) == (State.INCONCLUSIVE, True)
    assert (late.state, "telemetry is lost" in late.reason) == (State.PAGE, True)
    holiday = given.take(np.arange(len(given.at)) % 5 < 2)
    assert not [f for f in look(holiday, 119).findings if f.metric == "missing requests"]
    hangs = given.take((given.at < given.at.min() + 90 * 60) | (np.arange(len(given.at)) % 5 == 0))
    assert [f.metric for f in look(hangs, 119).findings] == ["missing requests"]
    batches = given.take(((given.at - given.at.min()) % 3600 < 1800) | (np.arange(len(given.at)) % 50 == 0))
    assert not [f for f in look(batches, 119).findings if f.metric == "missing requests"], "as in the hour before"


def test_scores_of_evaluations_that_fell_are_found() -> None:
    rng = np.random.default_rng(9)
    given = requests(9, minutes=60)
    value = np.where(rng.random(len(given.at)) < 0.3, np.clip(rng.normal(0.8 - 0.25 * given.arm, 0.15), 0, 1), np.nan)
    said = look(replace(given, values={"relevance": value}))
    assert said.state is State.ROLL_BACK
    assert isinstance(said.findings[-1], Finding)
    assert "scores 0.5" in said.reason
    assert first_rollback(Evidence("chat", "2", "1", columns_of(given, 60), 60), POLICY, History())[1] is None
