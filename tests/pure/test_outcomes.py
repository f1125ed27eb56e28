"""What labels say of two versions: by hand, and how often the intervals hold the truth."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from lastgood.judge.intervals import rate_interval
from lastgood.judge.outcomes import compare, difference, interval, labelled, report, wilson
from lastgood.record.windows import Counts

START = datetime(2026, 3, 1, tzinfo=UTC)


def window(version: str, stratum: str = "a", minute: int = 0, rows: int = 0, **quality: float) -> Counts:
    return Counts("chat", version, stratum, START + timedelta(minutes=minute), rows, float(rows), quality=quality)


def test_the_wilson_interval_is_the_one_of_the_textbook_and_an_error_gets_students() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I: 81 of 263 and 0 of 20.
    assert wilson(263, 81 / 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(20, 0.0) == pytest.approx((0.0, 0.1611), abs=5e-5)
    found = interval(4, 10.0, 30.0)  # 1, 2, 3, 4: mean 2.5, s 1.291, t(3, .975) 3.182
    assert found is not None
    assert (found.low, found.high) == pytest.approx((2.5 - 2.054, 2.5 + 2.054), abs=1e-3)
    assert interval(1, 3.0, 9.0) is None
    assert interval(0, 0.0, None) is None


def test_versions_are_compared_on_strata_both_served_and_a_lower_error_is_better() -> None:
    # In every stratum the versions are equal; the new one answered more of the hard ones. Pooled it would look worse.
    new = [
        window("2", "hard", rows=1000, correct_n=1000, correct=500),
        window("2", "easy", rows=100, correct_n=100, correct=95),
    ]
    prior = [
        window("1", "hard", rows=100, correct_n=100, correct=50),
        window("1", "easy", rows=1000, correct_n=1000, correct=950),
    ]
    (same,) = compare([*new, window("2", "only new", correct_n=50, correct=0)], prior)
    assert same["difference"]["mean"] == pytest.approx(0.0)
    assert same["verdict"] is None
    less = [window("2", abs_error_n=100, abs_error=100, abs_error_sq=110, thumbs_n=200, thumbs=100, thumbs_sq=100)]
    more = [window("1", abs_error_n=100, abs_error=200, abs_error_sq=410, thumbs_n=200, thumbs=180, thumbs_sq=180)]
    assert {one["outcome"]: one["verdict"] for one in compare(less, more)} == {"abs_error": "better", "thumbs": "worse"}
    assert compare(new, [])[0]["difference"] is None


def test_the_prior_version_is_taken_from_the_same_time_where_it_has_labels_then() -> None:
    old, beside = (
        window("1", minute=0, rows=10, thumbs_n=5, thumbs=0),
        window("1", minute=9, rows=10, thumbs_n=5, thumbs=5),
    )
    new = window("2", minute=9, rows=20, thumbs_n=5, thumbs=5, labelled=10)
    found = report([old, beside, new], "2", "1")
    assert (found["prior_seen"], found["outcomes"][0]["prior"]["mean"]) == ("the same time", 1.0)
    found = report([old, new], "2", "1")
    assert (found["prior_seen"], found["outcomes"][0]["prior"]["mean"], found["labelled"]["new"]) == (
        "before",
        0.0,
        0.5,
    )
    assert report([new], "2", None)["prior_seen"] is None
    assert labelled([]) is None


TRUTHS: dict[str, Any] = {
    "shares, equal": ((0.9, 0.9), (0.5, 0.5)),
    "shares, apart, one stratum thin": ((0.97, 0.9), (0.6, 0.4)),
    "means": None,
}


@pytest.mark.parametrize("case", TRUTHS)
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_stated(case: str) -> None:
    """2,000 pairs of versions with strata of 12 to 300 labels: the share whose interval holds the true difference, 95% stated."""
    rng, held, runs = np.random.default_rng(11), 0, 2000
    sizes = ((40, 300), (12, 60))
    for _ in range(runs):
        pairs, truth, weight = [], 0.0, 0.0
        for i, (n1, n0) in enumerate(sizes):
            if TRUTHS[case] is None:
                means, sides = (2.0, 1.5), [rng.exponential(m, n) for m, n in zip((2.0, 1.5), (n1, n0), strict=True)]
                made = [interval(len(x), float(x.sum()), float((x * x).sum())) for x in sides]
            else:
                means = TRUTHS[case][i]
                made = [interval(n, float(rng.binomial(n, p)), None) for n, p in zip((n1, n0), means, strict=True)]
            assert made[0] is not None
            assert made[1] is not None
            pairs.append((made[0], made[1]))
            w = n1 * n0 / (n1 + n0)
            truth, weight = truth + w * (means[0] - means[1]), weight + w
        found = difference(pairs)
        assert found is not None
        held += found[1] <= truth / weight <= found[2]
    sure = rate_interval(runs, held, 0.99)
    assert sure is not None
    assert sure[2] >= 0.94, f"covers {held / runs:.1%}"
    assert sure[0] <= 0.985, f"covers {held / runs:.1%}: too wide"
