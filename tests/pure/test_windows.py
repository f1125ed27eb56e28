"""Histograms keep quantiles within their stated error and merge like sums."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.record.windows import (
    KEPT_REQUESTERS,
    RELATIVE_ERROR,
    ZERO,
    Counts,
    add,
    bucket,
    merge,
    middle,
    quantile,
    stratum,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
positive = st.floats(1e-6, 1e9)
histograms = st.dictionaries(st.integers(-50, 900), st.integers(1, 1000).map(float), max_size=8)
codes = st.dictionaries(st.sampled_from(["TIMEOUT", "HTTP_500", "x"]), st.integers(1, 9).map(float))
counts = st.builds(
    Counts,
    endpoint=st.just("chat"),
    model_version=st.just("2"),
    stratum=st.just("model/64"),
    start=st.integers(0, 9).map(lambda i: START + timedelta(minutes=i)),
    rows=st.integers(0, 999),
    requests=st.integers(0, 999).map(float),
    errors=codes,
    latency=histograms,
    ttft=histograms,
    feature_age=histograms,
    tokens_in=st.integers(0, 999).map(float),
    tokens_out=st.integers(0, 999).map(float),
    error_requesters=st.lists(st.text("abcdef", min_size=4, max_size=4), unique=True, max_size=KEPT_REQUESTERS).map(
        lambda who: tuple(sorted(who))
    ),
    quality=codes,
    failed_latency=histograms,
)


@given(positive)
def test_a_bucket_stands_for_its_values_within_one_per_cent(value: float) -> None:
    assert abs(middle(bucket(value)) / value - 1) <= RELATIVE_ERROR + 1e-9
    assert RELATIVE_ERROR < 0.01


@given(positive, positive)
def test_buckets_keep_the_order_of_values(a: float, b: float) -> None:
    assert (bucket(a) <= bucket(b)) if a <= b else (bucket(a) >= bucket(b))


@pytest.mark.parametrize("value", [0.0, -1.0, -0.0])
def test_zero_and_below_share_one_bucket(value: float) -> None:
    assert bucket(value) == ZERO
    assert middle(ZERO) == 0.0


@given(counts, counts, counts)
def test_merging_is_associative_and_commutative(a: Counts, b: Counts, c: Counts) -> None:
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])]) == merge([c, b, a]) == merge([b, a, c])


@given(histograms, histograms)
def test_a_sum_of_histograms_holds_the_weight_of_both(a: dict[int, float], b: dict[int, float]) -> None:
    assert add(a, b) == add(b, a)
    assert math.fsum(add(a, b).values()) == math.fsum(a.values()) + math.fsum(b.values())


_RNG = np.random.default_rng(7)
ADVERSARIAL = {
    "all the same": np.full(1000, 41.7),
    "two far peaks": np.repeat([0.01, 86_400_000.0], 500),
    "heavy tail": _RNG.pareto(0.5, 5000) + 1e-3,
    "lognormal": _RNG.lognormal(4, 1, 5000),
    "geometric right on bucket edges": 1.02 ** np.arange(-200, 800),
    "tiny": _RNG.uniform(1e-9, 1e-6, 1000),
    "one value": np.array([3.0]),
    "half zeros": np.concatenate([np.zeros(500), _RNG.lognormal(0, 3, 500)]),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.9, 0.95, 0.99, 1.0])
def test_quantiles_are_within_the_stated_error_of_the_exact_ones(name: str, q: float) -> None:
    values = ADVERSARIAL[name]
    histogram = add(*({bucket(v): 1.0} for v in values.tolist()))
    exact = float(np.sort(values)[max(0, math.ceil(q * len(values)) - 1)])
    found = quantile(histogram, q)
    assert found is not None
    assert abs(found - exact) <= exact * (RELATIVE_ERROR + 1e-9)


def test_weights_count_like_repeated_values() -> None:
    assert quantile({10: 9.0, 20: 1.0}, 0.9) == middle(10)
    assert quantile({10: 9.0, 20: 1.0}, 0.91) == middle(20)
    assert quantile({}, 0.5) is None


@pytest.mark.parametrize(
    ("scope", "tokens", "chars", "expected"),
    [
        ("model", 0, None, "model/64"),
        ("model", 63, None, "model/64"),
        ("model", 64, None, "model/256"),
        ("client", 4096, None, "client/more"),
        ("client", None, None, "client/?"),
        (None, 10, None, "?/64"),
        ("model", None, 4 * 64, "model/256"),
        ("model", 9999, 8, "model/64"),
    ],
)
def test_a_stratum_is_scope_and_prompt_length_the_captured_prompt_first(scope, tokens, chars, expected) -> None:
    assert stratum(scope, tokens, chars) == expected
