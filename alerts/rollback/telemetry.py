"""Verification from window counts: did the traffic move, and is the metric back where the prior version had it?

Shares are judged by the one-sided 95% Clopper-Pearson bound, so a handful of requests that happen to fail is no failed recovery; where
requests are few, the answer is "not known yet" and the rollback waits for requests, not for minutes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from lastgood import tables
from lastgood.alerts.rollback.verify import Recovery
from lastgood.judge.intervals import rate_interval
from lastgood.record import metrics
from lastgood.record.contents import base
from lastgood.record.windows import Counts, Histogram, above, bucket, merge
from lastgood.record.words import counted, percent
from lastgood.settings import Policy, Settings
from lastgood.tables import measures

MOVED_SHARE = 0.02
"""Share of requests that may still reach the version that was left: clients with its own address, retries."""
MIN_REQUESTS = 30
DAY, LOOK_BACK = timedelta(days=1), timedelta(days=30)
TWO_SIDED = 0.90
RATE_RATIO, RATE_SLACK = 1.5, 0.01
LATENCY_RATIO, LATENCY_SLACK_MS, LATENCY_TAIL = 1.25, 20.0, 0.05
LENGTH_RATIO = 1.25


@dataclass(frozen=True)
class WindowTelemetry:
    """Asks the `windows` and `quality` tables. `settings`: for the width of a window and for objectives."""

    store: tables.Store
    settings: Settings

    def recovery(self, endpoint: str, bad_version: str, prior_version: str, since: datetime, metric: str) -> Recovery:
        """Whole windows after the shift only, of these two versions.

        The yardstick is the prior version's newest day of the 30 before the shift; without one, the endpoint's objectives.
        """
        counts = [_served(window) for window in measures.windows(self.store, endpoint, since - DAY)]
        start = since + timedelta(seconds=self.settings.window_s)
        after = [
            window
            for window in counts
            if window.start >= start and window.model_version in (bad_version, prior_version)
        ]
        requests = math.fsum(window.requests for window in after)
        rows = sum(window.rows for window in after)
        if min(requests, rows) < MIN_REQUESTS:
            return Recovery(None, None, f"{counted(requests, 'request')} since the shift, {MIN_REQUESTS} are needed")
        share = math.fsum(window.requests for window in after if window.model_version == bad_version) / requests
        moved = _lower(share, rows) <= MOVED_SHARE
        own = [window for window in after if window.model_version == prior_version]
        before = self._yardstick(counts, endpoint, prior_version, since)
        sentence = f"{percent(share)} of {counted(requests, 'request')} still reach version {bad_version}"
        if not own:
            return Recovery(moved, None, f"{sentence}; none has reached version {prior_version}")
        policy = self.settings.endpoint(endpoint).policy
        recovered, words = _recovered(metric, merge(own, stratum="all"), before, policy)
        against = "" if before else f"; version {prior_version} was not seen in 30 days: compared with the objectives"
        return Recovery(moved, recovered, f"{sentence}; {words}{against}", {"share": share})

    def _yardstick(self, recent: Sequence[Counts], endpoint: str, version: str, since: datetime) -> Counts | None:
        """The version's newest day before the shift with enough requests, in one."""
        own = [window for window in recent if window.model_version == version and window.start < since]
        if sum(window.rows for window in own) < MIN_REQUESTS:
            older = measures.windows(self.store, endpoint, since - LOOK_BACK, since, version)
            if not older and self.settings.endpoint(endpoint).versions_by:
                every = measures.windows(self.store, endpoint, since - LOOK_BACK, since)
                older = [window for window in map(_served, every) if window.model_version == version]
            newest = max((window.start for window in older if window.requests), default=since)
            own = [window for window in older if newest - DAY < window.start < since]
        return merge(own, stratum="all") if sum(window.rows for window in own) >= MIN_REQUESTS else None


def _served(window: Counts) -> Counts:
    """A window of an effective version as one of the version it is of."""
    return replace(window, model_version=base(window.model_version))


def _recovered(metric: str, now: Counts, before: Counts | None, policy: Policy) -> tuple[bool | None, str]:
    """Whether the metric the judge named is back (None: not known yet), and its figure in words."""
    if metric in ("latency", "pace", "ttft"):
        return _tail("ttft" if metric == "ttft" else "latency", now, before, policy)
    if metric == "quality":
        return _rate("bad_answers", now, before, policy.quality_slo, now.quality.get("answers", 0.0))
    if metric == "scores" or metric.startswith("scores "):
        return _scores(metric.removeprefix("scores").strip(), now, before, policy)
    if metric == "length":
        return _length(now, before)
    return _rate("error_rate", now, before, policy.error_slo, now.rows)


def _rate(name: str, now: Counts, before: Counts | None, objective: float, number: float) -> tuple[bool | None, str]:
    """`number`: how many requests, or answers, stand behind the rate."""
    figure = metrics.BY_NAME[name]
    rate, was = figure.of(now), figure.of(before) if before else None
    words = f"{figure.label} {figure.show(rate)}"
    if rate is None or number < MIN_REQUESTS:
        return None, f"{words} of {number:.0f}"
    limit = objective if was is None else was * RATE_RATIO + RATE_SLACK
    return _lower(rate, number) <= limit, words


def _tail(name: str, now: Counts, before: Counts | None, policy: Policy) -> tuple[bool | None, str]:
    """At most a twentieth may be slower than the prior version's 95th percentile and a slack."""
    figure = metrics.BY_NAME["ttft_p95_ms" if name == "ttft" else "p95_ms"]
    histogram: Histogram = getattr(now, name)
    was = figure.of(before) if before else None
    words = f"{figure.label} {figure.show(figure.of(now))}"
    number = math.fsum(histogram.values()) * (now.rows / now.requests)
    if number < MIN_REQUESTS:
        return None, f"{words} of {number:.0f}"
    if was is None:
        limit_ms, tail = policy.latency_target_s * 1000, policy.latency_slo
    else:
        limit_ms, tail = was * LATENCY_RATIO + LATENCY_SLACK_MS, LATENCY_TAIL
    slower = above(histogram, bucket(limit_ms)) / math.fsum(histogram.values())
    return _lower(slower, number) <= tail, f"{words} (limit {figure.show(limit_ms)})"


def _length(now: Counts, before: Counts | None) -> tuple[bool | None, str]:
    figure = metrics.BY_NAME["tokens_out"]
    length, was = figure.of(now), figure.of(before) if before else None
    words = f"{figure.label} {figure.show(length)}"
    if length is None or not was:
        return (None if length is None else True), words
    return was / LENGTH_RATIO <= length <= was * LENGTH_RATIO, words


def _scores(name: str, now: Counts, before: Counts | None, policy: Policy) -> tuple[bool | None, str]:
    """Means of evaluation scores in 0-1 against the prior version's own, with two standard errors."""
    names = [name] if name else sorted(now.scores)
    lines: list[str] = []
    verdicts: list[bool | None] = []
    for score in names:
        number, total, squares = now.scores.get(score, (0, 0.0, 0.0))
        was = before.scores.get(score) if before else None
        if number < MIN_REQUESTS or not was or not was[0]:
            verdicts.append(None)
            lines.append(f"{score}: {number:.0f} scored" + ("" if was else ", no yardstick"))
            continue
        mean = total / number
        error = math.sqrt(max(0.0, squares / number - mean * mean) / number)
        verdicts.append(mean + 2 * error >= was[1] / was[0] - policy.score_tolerance)
        lines.append(f"{score} {mean:.2f}, was {was[1] / was[0]:.2f}")
    known = [verdict for verdict in verdicts if verdict is not None]
    recovered = False if False in known else True if known and len(known) == len(verdicts) else None
    return recovered, "; ".join(lines) or "nothing is scored yet"


def _lower(share: float, number: float) -> float:
    """One-sided 95% lower Clopper-Pearson bound of a share of `number` (weights are scaled to the rows they came from)."""
    interval = rate_interval(number, share * number, TWO_SIDED)
    return interval[1] if interval else 0.0
