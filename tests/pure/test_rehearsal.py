"""A rehearsal of at most 500 requests finds what is worse, and calls a version that is as good worse at most as often as it says."""

from typing import Any

import pytest
from scipy.stats import beta
from simulation.rehearsed import FIELDS, rehearsed

from lastgood.judge.rehearsal import ANSWER, LEVEL, Reply, compare


def test_a_version_that_is_as_good_is_called_worse_no_more_often_than_is_said() -> None:
    runs = 400
    wrong = sum(rehearsed(seed, n=200).state == "worse" for seed in range(runs))
    assert beta.ppf(0.95, wrong + 1, runs - wrong) <= LEVEL, wrong


@pytest.mark.parametrize(
    ("worse", "metric", "least"),
    [
        ({"slower": 1.3}, "latency", 0.95), ({"more": 0.01}, "errors", 0.75), ({"more": 0.02}, "errors", 0.95), ({"lost": 0.03}, "schema", 0.85),
        ({"drop": 0.1}, "scores", 0.75),
    ],
)  # fmt: skip
def test_what_is_worse_is_found(worse: dict[str, Any], metric: str, least: float) -> None:
    outcomes = [rehearsed(seed, **worse) for seed in range(60)]
    hits = sum(any(finding.worse and finding.metric == metric for finding in outcome.findings) for outcome in outcomes)
    assert hits / len(outcomes) >= least, hits
    assert all(outcome.state == "worse" for outcome in outcomes if any(finding.worse for finding in outcome.findings))


def test_few_requests_and_none_decide_nothing_and_extremes_have_a_sentence() -> None:
    few = compare([(Reply(None, 1.0), Reply(None, 1.0))] * 10, (0, 0), 1.25, 0.1)
    assert few.state == "undecided" and "too few" in few.sentence
    assert compare([], (0, 0), 1.25, 0.1).state == "undecided"
    broken = compare([(Reply(None, 0.0, 0), Reply("HTTP_500", 0.0))] * 60, (0, 0), 1.25, 0.1)
    assert broken.state == "worse" and "100% of its requests fail (HTTP_500)" in broken.sentence
    same = compare([(Reply(None, 1.0, 10, FIELDS, 1.0), Reply(None, 1.0, 10, FIELDS, 1.0))] * 60, (0, 0), 1.25, 0.1)
    assert same.state == "as good" and same.sentence == "no worse in 60 requests"


def test_requests_that_only_the_new_version_refuses_are_against_it_and_wrong_requests_against_nobody() -> None:
    answered, refused = Reply(None, 1.0, 10, frozenset({ANSWER, "text"})), Reply(None, 0.0)
    wrong = compare([(refused, refused)] * 20 + [(answered, answered)] * 60, (20_000, 0), 1.25, 0.1)
    assert wrong.state == "as good", "a fifth of what callers send is wrong: no version does anything for it"
    strict = compare([(answered, refused)] * 15 + [(answered, answered)] * 60, (20_000, 0), 1.25, 0.1)
    assert strict.state == "worse" and "it refuses 15 of 75 requests more than the prior" in strict.sentence
    flaky = [(answered, refused), (refused, answered)] * 5 + [(answered, answered)] * 60
    assert compare(flaky, (20_000, 0), 1.25, 0.1).state == "as good", "a filter that is a lottery for both"


def test_an_opinion_that_nobody_corrected_calls_nothing_worse() -> None:
    pairs = [(Reply(None, 1.0, opinion=0.9), Reply(None, 1.0, opinion=0.1 + i % 2 * 0.1)) for i in range(60)]
    outcome = compare(pairs, (0, 0), 1.25, 0.1)
    (opinion,) = [finding for finding in outcome.findings if finding.metric == "opinions"]
    assert outcome.state == "as good" and opinion.sentence.endswith("-0.75 ± 0.01"), opinion
