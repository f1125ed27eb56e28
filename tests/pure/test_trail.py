"""One pass, many passes, side by side, window by window: the same numbers; splitting, merging and order change nothing."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_support import START, requests
from soak import scaled

from benchmarks.judge import ours
from benchmarks.judge.traffic import FAILING, SCENARIOS, Traffic, simulate
from lastgood.judge import Evidence, History, Planned, State, changes, guards, judge
from lastgood.judge.columns import Columns, columns
from lastgood.judge.judge import case_of
from lastgood.judge.look import Look
from lastgood.judge.records import columns_of
from lastgood.judge.streams import gathered, nothing
from lastgood.judge.trail import follow
from lastgood.record.windows import Counts, bucket, merge
from lastgood.settings import Policy

POLICY = Policy()


def counts(seed: int, minutes: int = 20, strata: int = 2, errors: int = 4) -> list[Counts]:
    """Window counts with everything the judge reads in them."""
    rng = np.random.default_rng(seed)
    made = []
    for minute in range(minutes):
        for version in "12":
            for s in range(strata):
                n, failed = 40, int(rng.poisson(errors if version == "2" else 1))
                marks = [bucket(float(v)) for v in rng.lognormal(5, 0.4, n)]
                spread = {int(k): float(v) for k, v in zip(*np.unique(marks, return_counts=True), strict=True)}
                people = {
                    f"{rng.integers(400):03x}": (1, int(i < failed), 0, 0, 0, 0, 0, 1, marks[i], marks[i] ** 2)
                    for i in range(20)
                }
                made.append(
                    Counts(
                        "chat", version, f"client/{(64, 256)[s]}", datetime.fromtimestamp(START, UTC) + timedelta(minutes=minute), n,
                        float(n), {"HTTP_500": float(failed)}, spread, spread, {}, 1.0, 1.0, ("a", "b", "c"),
                        {"answers": 30.0, "bad": 1.0}, spread, spread, {}, people, {"good": (4.0, 3.0, 2.5)},
                    )
                )  # fmt: skip
    return made


def said(windows: list[Counts]) -> Any:
    end = datetime.fromtimestamp(START, UTC) + timedelta(minutes=20)
    return judge(Evidence("chat", "2", "1", windows, 60), POLICY, History(), end)


def halves(one: Counts) -> list[Counts]:
    """The same requests as two rows of the same window."""
    half = {
        name: {k: v / 2 for k, v in getattr(one, name).items()}
        for name in ("errors", "latency", "ttft", "quality", "length", "pace")
    }
    part = replace(one, rows=one.rows // 2, requests=one.requests / 2, **half)
    some = dict(list(one.callers.items())[::2])
    rest = {who: facts for who, facts in one.callers.items() if who not in some}
    scores = {"good": (2.0, 1.5, 1.25)}
    return [replace(part, callers=some, scores=scores), replace(part, callers=rest, scores=scores)]


@settings(max_examples=scaled(15))
@given(st.integers(0, 1000), st.randoms())
def test_splitting_reordering_and_merging_rows_do_not_change_the_verdict(seed: int, random: Any) -> None:
    whole = counts(seed)
    parts = [part for one in whole for part in (halves(one) if random.random() < 0.5 else [one])]
    random.shuffle(parts)
    mine, theirs = said(whole), said(parts)
    assert mine.e_value == pytest.approx(theirs.e_value, rel=1e-9)
    assert (mine.state, mine.reason, mine.vetoes) == (theirs.state, theirs.reason, theirs.vetoes)
    merged: dict[Any, list[Counts]] = {}
    for one in parts:
        merged.setdefault((one.start, one.stratum, one.model_version), []).append(one)
    assert said([merge(group) for group in merged.values()]).e_value == theirs.e_value


def piece(cols: Columns, a: int, z: int) -> Columns:
    """Windows a to z only."""
    rows = {
        f.name: getattr(cols, f.name)[a:z]
        for f in fields(cols)
        if f.name in ("times", "n", "faults", "answers", "bad", "stale", "prompts")
    }
    hist = {}
    for name, found in cols.histograms.items():
        use = (found.t >= a) & (found.t < z)
        hist[name] = replace(found, **{k: v[use] for k, v in vars(found).items()})
        hist[name] = replace(hist[name], t=hist[name].t - a)
    scores = {name: one[a:z] for name, one in cols.scores.items()}
    return replace(cols, **rows, histograms=hist, scores=scores, callers=cols.callers.take(cols.callers.t < 0))


@settings(max_examples=scaled(10))
@given(st.integers(0, 1000), st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_carrying_the_state_gives_the_same_bits_as_beginning_anew(seed: int, cuts: list[int]) -> None:
    cols = piece(columns(counts(seed, sum(cuts)), "2", "1", 60), 0, sum(cuts))
    whole, _ = follow(cols, POLICY)
    carry, at, parts = nothing(), 0, []
    for cut in cuts:
        trail, carry = follow(piece(cols, at, at + cut), POLICY, carry)
        parts.append(trail.e)
        at += cut
    assert np.concatenate(parts).tobytes() == whole.e.tobytes()


def test_runs_judged_side_by_side_get_the_numbers_each_gets_alone() -> None:
    found = simulate(next(one for one in SCENARIOS if one.slow_route), 0.5, FAILING, 4, np.random.default_rng(2))
    together = follow(ours.columns(found), POLICY)[0].e
    for i in range(4):
        alone = Traffic(*(v[:, i : i + 1] for v in (found.n, found.failed, found.hist)))
        assert follow(ours.columns(alone), POLICY)[0].e[:, 0] == pytest.approx(together[:, i], rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_no_change_is_missed_between_the_windows_that_a_replay_looks_at(seed: int) -> None:
    given = requests(seed, minutes=40, sticky=seed % 2 == 1, errors=(1, 2, 8)[seed % 3], onset=15)
    given.feature_age_ms[given.at > START + 1200] = 4e7 if seed > 2 else 1.0
    cols = columns_of(given, 60, POLICY.feature_age_limit_ms)
    evidence = Evidence("chat", "2", "1", cols, 60, planned=(Planned(0.5 if seed < 4 else 0.4),))
    case = case_of(evidence, POLICY, History())
    assert case is not None
    every = [(cols.until(t), guards.state(Look(case, t, cols.until(t)))) for t in range(len(cols.times))]
    turned = [one for i, one in enumerate(every) if i == 0 or one[1] is not every[i - 1][1]]
    assert [(one.judged_at, one.state) for one in changes(evidence, POLICY, History())] == turned


def test_a_replayed_change_is_what_the_judge_would_have_said_then() -> None:
    given_requests = requests(3, minutes=50, errors=6, onset=20)
    cols = columns_of(given_requests, 60)
    found = list(changes(Evidence("chat", "2", "1", cols, 60), POLICY, History()))
    assert found[-1].state is State.ROLL_BACK
    for one in found:
        then = given_requests.take(given_requests.at < one.judged_at.timestamp())
        again = judge(Evidence("chat", "2", "1", columns_of(then, 60), 60), POLICY, History(), one.judged_at)
        assert (again.state, again.reason) == (one.state, one.reason)
        # what a requester carries is estimated from all that is known of it, so later requests change it a little
        assert again.e_value == pytest.approx(one.e_value, rel=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_blocks_hold_every_request_once_and_never_too_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_counts = rng.poisson(6, (30, 3, 2, 2)).astype(float)
    opened, blocks = gathered(np.zeros((3, 2, 2)), given_counts, 60)
    assert (blocks.sum(0) + opened == given_counts.sum(0)).all()
    sizes = blocks[..., 0].sum(-1)
    assert ((sizes == 0) | (sizes >= 60)).all()


def test_healthy_versions_of_sticky_requesters_are_left_alone() -> None:
    found = [
        any(v.state is State.ROLL_BACK for v in changes(Evidence("c", "2", "1", columns_of(requests(i, sticky=True, split=s), 60), 60), POLICY, History()))
        for i in range(60)
        for s in (0.5, 0.1)
    ]  # fmt: skip
    assert sum(found) <= 1
