"""The metric catalogue (pure): every figure of a version, its unit and how it comes from window counts. All that shows one uses it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lastgood.record.windows import Counts, above, bucket, merge, middle, quantile
from lastgood.record.words import percent

Value = float | None


@dataclass(frozen=True)
class Metric:
    """`of` computes the figure from merged counts; None where they do not say. `form` shows it to people; a share is shown as all shares are."""

    name: str
    label: str
    unit: str
    doc: str
    of: Callable[[Counts], Value]
    form: str = "{:,.0f}"
    scale: float = 1.0

    def show(self, value: Value) -> str:
        """The value for people, '-' for unknown."""
        if self.unit == "share":
            return percent(value)
        return "-" if value is None else self.form.format(value * self.scale)


def _latency(q: float) -> Callable[[Counts], Value]:
    return lambda counts: quantile(counts.latency, q)


def _age(q: float) -> Callable[[Counts], Value]:
    return lambda counts: quantile(counts.feature_age, q)


def _share(part: float, whole: float) -> Value:
    return part / whole if whole else None


def _per_request(tokens: float, told: float, requests: float) -> Value:
    """Tokens per request that says them; None where none does. Counts that were made without `told` stand for all requests."""
    return _share(tokens, told or requests) if tokens or told else None


def tokens_per_s(counts: Counts) -> Value:
    """Generated tokens per second of serving (sum of latencies, within windows.RELATIVE_ERROR)."""
    return _share(
        counts.tokens_out, math.fsum(middle(index) * weight for index, weight in counts.latency.items()) / 1000
    )


def throughput(counts: Counts, seconds: float) -> float:
    """Requests per second of a window that wide."""
    return counts.requests / seconds


def error_classes(counts: Counts) -> dict[str, float]:
    """Class of error (4xx, 5xx, or the code itself where it is no HTTP status) -> share of requests."""
    shares: dict[str, float] = {}
    for code, weight in counts.errors.items():
        status = code.removeprefix("HTTP_")
        name = f"{status[0]}xx" if status.isdigit() and len(status) == 3 else code
        shares[name] = shares.get(name, 0.0) + weight / counts.requests
    return shares


def stale_share(counts: Counts, limit_ms: float) -> Value:
    """Share of requests of known feature age whose features were older than the limit (to the bucket: 2%)."""
    return _share(above(counts.feature_age, bucket(limit_ms)), math.fsum(counts.feature_age.values()))


CATALOGUE = (
    Metric("requests", "requests", "1", "requests served", lambda c: c.requests, "{:,.0f}"),
    Metric(
        "error_rate",
        "errors",
        "share",
        "requests with an error code / requests",
        lambda c: _share(c.failed, c.requests),
    ),
    Metric("p50_ms", "p50", "ms", "median latency", _latency(0.50), "{:,.0f} ms"),
    Metric("p90_ms", "p90", "ms", "90th percentile of latency", _latency(0.90), "{:,.0f} ms"),
    Metric("p95_ms", "p95", "ms", "95th percentile of latency", _latency(0.95), "{:,.0f} ms"),
    Metric("p99_ms", "p99", "ms", "99th percentile of latency", _latency(0.99), "{:,.0f} ms"),
    Metric(
        "ttft_p50_ms",
        "first token p50",
        "ms",
        "median time to first token",
        lambda c: quantile(c.ttft, 0.5),
        "{:,.0f} ms",
    ),
    Metric(
        "ttft_p99_ms", "first token p99", "ms", "99th percentile of it", lambda c: quantile(c.ttft, 0.99), "{:,.0f} ms"
    ),
    Metric("tokens_per_s", "tokens/s", "1/s", "generated tokens per second of serving", tokens_per_s),
    Metric("feature_age_max_ms", "feature age max", "ms", "oldest features", _age(1.0), "{:.0f} min", 1 / 60_000),
    Metric(
        "ttft_p95_ms",
        "first token p95",
        "ms",
        "95th percentile of time to first token",
        lambda c: quantile(c.ttft, 0.95),
        "{:,.0f} ms",
    ),
    Metric(
        "tokens_in",
        "tokens in",
        "1/request",
        "prompt tokens per request that says them",
        lambda c: _per_request(c.tokens_in, c.told_in, c.requests),
    ),
    Metric(
        "tokens_out",
        "tokens out",
        "1/request",
        "generated tokens per request that says them",
        lambda c: _per_request(c.tokens_out, c.told_out, c.requests),
    ),
    Metric(
        "bad_answers",
        "bad answers",
        "share",
        "successful answers with a bad flag / answers looked at",
        lambda c: _share(c.quality.get("bad", 0.0), c.quality.get("answers", 0.0)),
    ),
    Metric(
        "feature_age_p50_ms", "feature age p50", "ms", "median age of features", _age(0.5), "{:.0f} min", 1 / 60_000
    ),
    Metric(
        "feature_age_p95_ms",
        "feature age p95",
        "ms",
        "95th percentile of feature age",
        _age(0.95),
        "{:.0f} min",
        1 / 60_000,
    ),
)

BY_NAME = {metric.name: metric for metric in CATALOGUE}


def figures(counts: Counts) -> dict[str, Value]:
    """metric name -> value."""
    return {metric.name: metric.of(counts) for metric in CATALOGUE}


def summary(windows: Sequence[Counts]) -> dict[str, float | None]:
    """Figures of one version (see CATALOGUE)."""
    return figures(merge(windows, stratum="all")) if windows else {"requests": 0.0}
