"""What agents do is judged like the rest: failing tools and loops roll back, healthy versions are not, a run counts once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from judge_support import START, agent_windows
from scipy.stats import beta
from soak import scaled

from lastgood.judge import Evidence, History, State, Verdict, judge
from lastgood.judge.judge import first_rollback
from lastgood.settings import Policy

POLICY = Policy()
WORSE: dict[str, dict[str, Any]] = {
    "tool calls fail": {"failing": (0.03, 0.4)},
    "runs whose tool is down": {"broken": (0.01, 0.3)},
    "loops": {"looping": (0.02, 0.35)},
}


def evidence(minutes: int = 40, **more: Any) -> Evidence:
    return Evidence("chat", "2", "1", agent_windows(minutes=minutes, **more), 60)


def say(given: Evidence, minutes: int = 40) -> Verdict:
    return judge(given, POLICY, History(), datetime.fromtimestamp(START, UTC) + timedelta(minutes=minutes))


@pytest.mark.parametrize("case", WORSE)
def test_an_agent_version_that_is_worse_is_rolled_back_and_the_sentence_says_in_what(case: str) -> None:
    verdict = say(evidence(seed=3, **WORSE[case]))
    assert verdict.state is State.ROLL_BACK, verdict.reason
    assert ("loops or hits its step limit" if case == "loops" else "of a run's tool calls fail") in verdict.reason


def test_a_run_of_many_failing_calls_is_one_unit_of_evidence() -> None:
    """Two runs of the new version in which all of up to fifty calls fail are two bad runs, and no evidence for a rollback."""
    windows = agent_windows(seed=5, minutes=20, per_minute=2, failing=(0.0, 0.0), broken=(0.0, 0.1))
    bad = sum(
        w.scores["tools"][0] - w.scores["tools"][1] for w in windows if w.model_version == "2" and "tools" in w.scores
    )
    assert 0 < bad < 5
    assert say(Evidence("chat", "2", "1", windows, 60), 20).state is not State.ROLL_BACK


def test_a_healthy_agent_version_is_rolled_back_no_more_often_than_the_budget_allows() -> None:
    """At every look of every run of the simulation, runs with tools that are down included; the rate's exact upper limit (95%)."""
    n = scaled(300)
    wrong = sum(
        first_rollback(evidence(seed=i, broken=(0.05, 0.05)), POLICY, History())[1] is not None for i in range(n)
    )
    assert beta.ppf(0.95, wrong + 1, n - wrong) <= 1 / POLICY.rollback_e, f"{wrong} of {n}"
