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
from lastgood.judge.cohorts import changed, cohorts, draws, first_bad
from lastgood.judge.columns import Columns, columns
from lastgood.judge.eprocess import WORSE, log_e
from lastgood.judge.levels import by_visit, levels, ranks, rises, so_far
from lastgood.judge.look import Case, Look
from lastgood.judge.records import Records, columns_of
from lastgood.judge.requesters import FAR
from lastgood.judge.streams import gathered, nothing
from lastgood.judge.trail import REQUEST, STICKY, follow
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
                    f"{rng.integers(400):03x}": (1, int(i < failed), marks[i], marks[i], 1, marks[i], 1, marks[i])
                    for i in range(20)
                }
                made.append(
                    Counts(
                        "chat", version, f"client/{(64, 256)[s]}", datetime.fromtimestamp(START, UTC) + timedelta(minutes=minute), n,
                        float(n), {"HTTP_500": float(failed)}, spread, spread, {}, 1.0, 1.0, ("a", "b", "c"),
                        {"answers": 30.0, "bad": 1.0}, spread, spread, people, {"good": (4.0, 3.0, 2.5)},
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
    some = dict(list(one.requesters.items())[::2])
    rest = {who: facts for who, facts in one.requesters.items() if who not in some}
    scores = {"good": (2.0, 1.5, 1.25)}
    return [replace(part, requesters=some, scores=scores), replace(part, requesters=rest, scores=scores)]


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
        if f.name in ("times", "n", "failed", "families", "answers", "bad", "stale")
    }
    hist = {}
    for name, found in cols.histograms.items():
        use = (found.t >= a) & (found.t < z)
        hist[name] = replace(found, **{k: v[use] for k, v in vars(found).items()})
        hist[name] = replace(hist[name], t=hist[name].t - a)
    scores = {name: one[a:z] for name, one in cols.scores.items()}
    return replace(cols, **rows, histograms=hist, scores=scores, requesters=cols.requesters.take(cols.requesters.t < 0))


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
    case = Case(follow(cols, POLICY)[0], evidence, POLICY, History())
    every = [(cols.until(t), guards.state(Look(case, t, cols.until(t)))) for t in range(len(cols.times))]
    turned = [one for i, one in enumerate(every) if i == 0 or one[1] is not every[i - 1][1]]
    assert [(one.judged_at, one.state) for one in changes(evidence, POLICY, History())] == turned


@pytest.mark.parametrize("sticky", [False, True])
def test_a_replayed_change_is_what_the_judge_would_have_said_then(sticky: bool) -> None:
    given_requests = requests(3, minutes=50, errors=6, onset=20, sticky=sticky)
    cols = columns_of(given_requests, 60)
    found = list(changes(Evidence("chat", "2", "1", cols, 60), POLICY, History()))
    assert found[-1].state is State.ROLL_BACK
    assert follow(cols, POLICY)[0].routing[-1, 0] == (STICKY if sticky else REQUEST)
    for one in found:
        then = given_requests.take(given_requests.at < one.judged_at.timestamp())
        again = judge(Evidence("chat", "2", "1", columns_of(then, 60), 60), POLICY, History(), one.judged_at)
        assert (again.state, again.reason) == (one.state, one.reason)
        assert again.e_value == pytest.approx(one.e_value, rel=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_blocks_hold_every_request_once_and_never_too_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given_counts = rng.poisson(6, (30, 3, 2, 2)).astype(float)
    opened, blocks = gathered(np.zeros((3, 2, 2)), given_counts, 60)
    assert (blocks.sum(0) + opened == given_counts.sum(0)).all()
    sizes = blocks[..., 0].sum(-1)
    assert ((sizes == 0) | (sizes >= 60)).all()


def test_first_bad_events_are_those_a_loop_finds() -> None:
    cols = columns_of(requests(5, minutes=10, people=30, failing=0.2, sticky=True), 60)
    found = cols.requesters
    chosen, until = first_bad(found, found.failed > 0)
    first: dict[int, int] = {}
    for t, who, failed in zip(found.t, found.who, found.failed, strict=True):
        if failed:
            first[who] = min(t, first.get(who, 99))
    assert {int(who): int(t) for who, t in zip(found.who[chosen], found.t[chosen], strict=True)} == first
    assert all(until[who] == t for who, t in first.items())


@pytest.mark.parametrize("width", [10, 60])
def test_what_events_are_drawn_from_is_what_a_loop_finds(width: int) -> None:
    given = requests(5, minutes=20, people=300, per_minute=90, failing=0.05, sticky=True)
    found = columns_of(given, width).requesters
    t, entry, pi = draws(found, first_bad(found, found.failed > 0), changed(found), cohorts(found, width))
    cohort, closing, _ = cohorts(found, width)
    rows = []
    for c in range(int(cohort.max()) + 1):
        label: dict[int, int] = {}
        fails: dict[int, int] = {}
        for one in range(len(found.t)):
            who = int(found.who[one])
            if cohort[who] == c:
                label.setdefault(who, int(found.arm[one]))
                if found.failed[one]:
                    fails.setdefault(who, max(int(found.t[one]), int(closing[who])))
        assert all(closing[who] == max(closing[w] for w in label) for who in label)
        for at, who in sorted((when, who) for who, when in fails.items()):
            left = [label[one] for one in label if fails.get(one, 10**9) > at or (fails[one] == at and one >= who)]
            rows.append((at, label[who], sum(left) / len(left)))
    assert sorted(rows) == sorted(zip(t.tolist(), found.arm[entry].tolist(), pi.tolist(), strict=True))


def test_persistent_requesters_who_never_fail_do_not_make_newcomers_who_do_into_evidence() -> None:
    """The labels of 40 regulars are off by chance for hours; whoever fails comes once. Both alike: no version is worse."""
    rng, high = np.random.default_rng(8), 0
    for _ in range(200):
        regulars, passing = rng.random(40) < 0.5, rng.random(600) < 0.5
        at = np.concatenate([np.tile(np.arange(0, 7200, 60.0), (40, 1)).T.ravel(), np.sort(rng.uniform(0, 7200, 600))])
        who = np.concatenate([np.tile(np.arange(40), 120), 40 + np.arange(600)])
        arm = np.concatenate([regulars, passing])[who].astype(np.int64)
        bad = (who >= 40) & (rng.random(len(who)) < 0.5)
        nan = np.full(len(who), np.nan)
        given = Records(
            at,
            arm,
            np.where(bad, 0, -1),
            ("HTTP_500",),
            who,
            nan,
            nan,
            nan,
            nan,
            nan,
            np.zeros(len(who), np.int64),
            ("m",),
        )
        trail, _ = follow(columns_of(given, 60), POLICY)
        high += max(float((one.share * one.e).max()) for one in trail.sticky) >= 20
    assert high <= 10


def test_a_score_is_compared_with_those_before_it_only() -> None:
    score = np.concatenate([np.arange(30.0), [100.0], np.zeros(400), [50.0]])
    part = ranks(score)
    assert part[30] == 30.5 / 31
    assert part[-1] > 0.99
    assert (part[:20] == 0.5).all()
    assert 0 < part.min() < part.max() < 1
    assert (ranks(np.concatenate([score, score * 1e6]))[: len(score)] == part).all()


@pytest.mark.parametrize("strength", [-FAR, -0.7, 0.0, 1.3, FAR])
def test_a_draw_is_worth_one_whatever_its_strength(strength: float) -> None:
    pi, both = np.full(2, 0.3), np.array([1.0, 0.0])
    worth = np.exp(log_e(pi, both, np.ones(2), 1.0, WORSE ** np.full((2, 1), strength)))
    assert np.array([0.3, 0.7]) @ worth == pytest.approx(np.ones(len(WORSE)))


def test_levels_and_rises_are_what_a_loop_finds() -> None:
    given = requests(6, minutes=20, people=40, per_minute=90, sticky=True)
    found = columns_of(given, 10).requesters
    levelled, level = levels(so_far(found, by_visit(found), "latency"), 3, 5)
    risen, rise = rises(so_far(found, by_visit(found), "latency"), 5)
    hoped, later = {}, {}
    for who in range(40):
        n, total, scored, was = 0, 0, 0, 0
        for i in np.flatnonzero(found.who == who):
            n, total = n + int(found.timed[i]), total + int(found.latency_sum[i])
            if who not in hoped and n >= 3:
                hoped[who] = (found.t[i], total / n - 5 * found.arm[i])
            if n // 8 > (n - found.timed[i]) // 8:
                if scored >= 16:
                    later[who, found.t[i]] = (total - was) / (n - scored) - was / scored - 5 * found.arm[i]
                scored, was = n, total
    assert dict(zip(levelled.who.tolist(), zip(levelled.t, level, strict=True), strict=True)) == hoped
    assert dict(zip(zip(risen.who, risen.t, strict=True), rise, strict=True)) == later
    assert later
    assert (np.diff(levelled.t) >= 0).all()


def test_healthy_versions_of_sticky_requesters_are_left_alone() -> None:
    found = [
        any(v.state is State.ROLL_BACK for v in changes(Evidence("c", "2", "1", columns_of(requests(i, sticky=True, split=s), 60), 60), POLICY, History()))
        for i in range(60)
        for s in (0.5, 0.1)
    ]  # fmt: skip
    assert sum(found) <= 1
