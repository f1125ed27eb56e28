"""The judge: silent without evidence, held by its vetoes, never milder on worse evidence, deaf to what hit both versions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soak import scaled

from lastgood.judge import Drifted, Evidence, History, State, Verdict, judge
from lastgood.judge.drift import distance
from lastgood.record.windows import OUTSIDE, Counts, add, bucket
from lastgood.settings import Policy

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
POLICY = Policy()
NOBODY = History()
USERS = ("a1", "b2", "c3", "d4")


def histogram(values: Any) -> dict[int, float]:
    return add(*({bucket(float(v)): 1.0} for v in values))


def window(version: str, minute: int, *, n: int = 60, failed: int = 1, factor: float = 1.0, age_ms: float | None = 60_000.0,
           bad: int = 1, seed: int = 0) -> Counts:  # fmt: skip
    values = np.random.default_rng([seed, minute, int(version)]).lognormal(4, 0.35, n) * factor
    return Counts(
        "chat", version, "client/64", START + timedelta(minutes=minute), n, float(n), {"HTTP_500": float(failed)} if failed else {},
        histogram(values), {}, {} if age_ms is None else {bucket(age_ms): float(n)}, 10.0 * n, 20.0 * n,
        USERS if failed else (), {"answers": float(n - failed), "bad": float(bad)},
    )  # fmt: skip


def seen_by(one: Counts) -> dict[str, tuple[int, ...]]:
    """Four requesters are served alike, two of them see all failures."""
    failed = int(one.failed)
    faults = {"a1": failed // 2, "b2": failed - failed // 2, "c3": 0, "d4": 0}
    return {who: (one.rows // 4, bad, 0, 0, 0, 0, 0, 0, 0, 0) for who, bad in faults.items()}


def evidence(
    minutes: int = 30, new: dict[str, Any] | None = None, old: dict[str, Any] | None = None, **more: Any
) -> Evidence:
    made = [window(v, i, **(kind or {})) for i in range(minutes) for v, kind in (("2", new), ("1", old))]
    return Evidence("chat", "2", "1", made, 60, **more)


def say(given_evidence: Evidence, history: History = NOBODY, policy: Policy = POLICY, minutes: int = 30) -> Verdict:
    return judge(given_evidence, policy, history, START + timedelta(minutes=minutes))


BROKEN = {"failed": 12}


def test_a_version_that_fails_is_rolled_back_with_figures_and_a_time() -> None:
    made = [window(v, i, failed=12 if v == "2" and i >= 12 else 1) for i in range(30) for v in "21"]
    said = say(Evidence("chat", "2", "1", made, 60))
    assert said.state is State.ROLL_BACK
    assert "version 2 fails" in said.reason
    assert said.since == START + timedelta(minutes=12)
    assert said.vetoes == ()


@pytest.mark.parametrize("kind", [{"factor": 1.3}, {"bad": 15}])
def test_a_slow_version_and_a_babbling_one_are_rolled_back(kind: dict[str, Any]) -> None:
    assert say(evidence(60, new=kind), minutes=60).state is State.ROLL_BACK


def test_a_version_like_the_prior_is_not_accused_and_in_the_end_healthy() -> None:
    assert say(evidence(5), minutes=5).state in (State.INCONCLUSIVE, State.HEALTHY)
    assert say(evidence(240), minutes=240).state is State.HEALTHY


MISSING = {
    "no window at all": (Evidence("chat", "2", "1", (), 60), "no closed window"),
    "no window of the new version": (Evidence("chat", "3", "1", evidence().windows, 60), "no closed window"),
    "telemetry that stopped three hours ago": (evidence(new=BROKEN), "minutes old"),
    "a third of the telemetry": (evidence(new=BROKEN, completeness=0.33), "only 33%"),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_evidence_is_inconclusive(case: str) -> None:
    given_evidence, said = MISSING[case]
    found = say(given_evidence, minutes=240 if "hours" in case else 30)
    assert found.state is State.INCONCLUSIVE
    assert said in found.reason


RARE = [window("2", i, failed=12 if i == 29 else 0, bad=0) for i in range(30)] + [
    window("1", i, n=9000, failed=0, bad=0) for i in range(30)
]
VETOED: dict[str, tuple[Evidence, History, str]] = {
    "the prior is not ready": (evidence(new=BROKEN, prior_ready=False), NOBODY, "is not ready"),
    "the prior was rolled back itself": (evidence(new=BROKEN), History({"1": [START - timedelta(days=9)]}), "was itself rolled back"),
    "a rollback ten minutes ago": (evidence(new=BROKEN), History({"0": [START + timedelta(minutes=20)]}), "cooling down"),
    "the prior breaks the objective too": (evidence(new={"failed": 55}, old={"failed": 12}), NOBODY, "look upstream"),
    "too few windows": (evidence(2, new={"failed": 40}), NOBODY, "fewer than 3 windows"),
    "too few failures": (Evidence("chat", "2", "1", RARE, 60), NOBODY, "only 12 failed requests"),
    "one requester": (
        replace(evidence(), windows=[replace(one, callers=seen_by(one)) for one in evidence(new=BROKEN).windows]),
        NOBODY, "only 2 requesters",
    ),
    "the input drifted for both": (
        evidence(new={"bad": 30}, drift=[Drifted(v, "reference", "input", "input_chars", 0.4, 0.3) for v in "12"]),
        NOBODY, "the input drifted for both",
    ),
    "features are stale for both": (
        evidence(new={"bad": 30, "age_ms": 4e7}, old={"age_ms": 4e7}), NOBODY, "features are stale for both",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VETOED)
def test_a_veto_holds_a_rollback_and_says_so(case: str) -> None:
    given_evidence, history, said = VETOED[case]
    policy = Policy(min_bad=20) if "few failures" in case else POLICY
    found = say(given_evidence, history, policy, minutes=2 if "few windows" in case else 30)
    assert any(said in one for one in found.vetoes), found.vetoes
    assert found.state is State.PAGE
    assert found.e_value >= POLICY.rollback_e


def test_without_a_prior_version_nobody_is_rolled_back() -> None:
    found = say(replace(evidence(new={"failed": 40}), prior=None))
    assert found.state is State.PAGE
    assert found.vetoes == ("no prior version is known",)


@pytest.mark.parametrize(
    "both", [{"failed": 20}, {"factor": 3.0}, {"bad": 25}, {"age_ms": 4e7}, {"failed": 60, "factor": 9.0}]
)
def test_what_hits_both_versions_alike_rolls_nobody_back(both: dict[str, Any]) -> None:
    found = say(evidence(60, new=both, old=both), minutes=60)
    assert found.state is not State.ROLL_BACK
    assert found.e_value < POLICY.rollback_e


def test_stale_features_and_drifted_input_of_both_are_said_but_roll_nobody_back() -> None:
    moved = [Drifted(v, "reference", "input", "tokens_in", 0.5, 0.4) for v in "12"]
    found = say(evidence(60, new={"age_ms": 4e7}, old={"age_ms": 4e7}, drift=moved), minutes=60)
    assert found.state is State.WATCH
    assert {one.metric for one in found.findings} >= {"freshness", "input drift"}


@settings(max_examples=scaled(25))
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(0, 11))
def test_more_failures_of_the_new_version_never_give_a_milder_verdict(new: int, old: int, more: int, at: int) -> None:
    def severity(extra: int) -> int:
        made = [window(v, i, failed=(new + extra * (i == at)) if v == "2" else old) for i in range(12) for v in "21"]
        state = say(Evidence("chat", "2", "1", made, 60), minutes=12).state
        return state.severity

    assert severity(more) >= severity(0)


@settings(max_examples=scaled(10))
@given(st.randoms())
def test_the_order_of_windows_does_not_matter(random: Any) -> None:
    made = evidence(new={"failed": 3})
    shuffled = list(made.windows)
    random.shuffle(shuffled)
    assert say(replace(made, windows=shuffled)) == say(made)


def test_sampled_rows_are_no_more_evidence_than_rows_seen() -> None:
    few = [window(v, i, n=6, failed=1 if v == "2" and i % 5 == 0 else 0) for i in range(20) for v in "21"]

    def scaled(one: Counts) -> Counts:
        counts = {
            name: {k: 10 * w for k, w in getattr(one, name).items()}
            for name in ("errors", "latency", "quality", "feature_age")
        }
        return replace(one, requests=10 * one.requests, **counts)

    plain = say(Evidence("chat", "2", "1", few, 60), minutes=20)
    weighted = say(Evidence("chat", "2", "1", [scaled(one) for one in few], 60), minutes=20)
    assert weighted.e_value == pytest.approx(plain.e_value)


def sample(rng: np.random.Generator, n: int, memory: float, shift: float = 0.0) -> np.ndarray:
    """Standard normal values with autocorrelation `memory`."""
    steps = rng.normal(size=n)
    for i in range(1, n):
        steps[i] = memory * steps[i - 1] + (1 - memory**2) ** 0.5 * steps[i]
    return (steps + shift).astype(object)


@pytest.mark.parametrize("memory", [0.0, 0.5])
@pytest.mark.parametrize("n", [200, 1000, 5000])
def test_drift_is_not_seen_where_there_is_none_and_seen_at_one_standard_deviation(n: int, memory: float) -> None:
    rng = np.random.default_rng([n, int(memory * 10)])
    times = list(range(n))
    same = [distance(sample(rng, n, memory), sample(rng, n, memory), times, times, True).low > 0.1 for _ in range(40)]
    moved = [
        distance(sample(rng, n, memory, 1.0), sample(rng, n, memory), times, times, True).low > 0.1 for _ in range(15)
    ]
    assert sum(same) <= 2
    # 200 rows with this memory are worth 70
    assert sum(moved) >= (12 if n == 200 and memory else 15)


def test_drift_of_categories_is_seen_and_tiny_samples_say_nothing() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.choice(["x", "y"], 500), rng.choice(["x", "z"], 500)
    times = list(range(500))
    assert distance(a, b, times, times, False).low > 0.3
    assert distance(a, rng.permutation(a), times, times, False).low <= 0.1
    assert distance(a[:1], b, [0], times, False).low == 0.0


@pytest.mark.parametrize("share", [0.001, 1.0])
def test_scores_that_are_no_share_are_not_judged_and_it_is_said(share: float) -> None:
    """Stars from 1 to 5 without a range: cut off they would all be 1. A single odd value takes no name out."""
    stars = {"2": (4.6, 21.5), "3": (2.1, 4.6)}

    def window(minute: int, version: str) -> Counts:
        many, odd = 40.0, 40.0 * share
        mean, squares = stars[version]
        scores = {"stars": (many, many * 0.8, many * 0.7), f"{OUTSIDE}stars": (odd, 0.0, 0.0)}
        scores |= {"raw": (many, many * mean, many * squares)}
        latency = {bucket(200.0): 50.0}
        return Counts(
            "chat", version, "model/?", START + timedelta(minutes=minute), 50, 50.0, latency=latency, scores=scores
        )

    windows = [window(i, version) for i in range(30) for version in stars]
    evidence = Evidence("chat", "3", "2", windows, 60)
    verdict = judge(evidence, Policy(), History(), START + timedelta(minutes=31))
    (said,) = [finding.sentence for finding in verdict.findings if finding.metric == "score range"]
    assert ("raw" in said, "stars" in said) == (True, share == 1.0)
    assert verdict.state is State.WATCH
    ranged = judge(
        evidence, Policy(score_ranges={"raw": (1, 5), "stars": (1, 5)}), History(), START + timedelta(minutes=31)
    )
    (said,) = [finding.sentence for finding in ranged.findings if finding.metric == "score range"]
    assert "outside of policy.score_ranges" in said and "raw" in said, "a range that does not hold is said, not silent"
