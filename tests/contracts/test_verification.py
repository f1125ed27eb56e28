"""What window counts must show before a rollback counts as verified: traffic moved, and the metric the judge named is back."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from benchmarks.live import write
from lastgood import tables
from lastgood.alerts.rollback.telemetry import WindowTelemetry, _recovered
from lastgood.record.windows import Counts, bucket
from lastgood.settings import Policy, Settings
from lastgood.tables.measures import evidence_series

SHIFT = datetime(2026, 3, 1, 12, tzinfo=UTC)
SETTINGS = Settings(window_s=60)


def window(
    version: str, minutes: int, requests: int = 100, bad: int = 0, ms: float = 400.0, tokens: float = 90.0
) -> Counts:
    start, n = SHIFT + timedelta(minutes=minutes), float(requests)
    errors = {"500": float(bad)} if bad else {}
    return Counts(
        "chat", version, "client/64", start, requests, n, errors, {bucket(ms): n}, {bucket(ms / 4): n}, {},
        20 * n, tokens * n,
    )  # fmt: skip


def recovery(folder: Path, metric: str, *after: Counts) -> tuple[bool | None, bool | None]:
    store = tables.Store(str(folder))
    write(store.path(tables.WINDOWS), [window("2", -5), window("3", -5, bad=30, ms=900, tokens=20), *after])
    shown = WindowTelemetry(store, SETTINGS).recovery("chat", "3", "2", SHIFT, metric)
    return shown.traffic_moved, shown.recovered


@pytest.mark.parametrize("metric", ["errors", "latency", "pace", "ttft", "length", "error SLO"])
def test_a_metric_that_is_back_is_back(tmp_path: Path, metric: str) -> None:
    assert recovery(tmp_path, metric, window("2", 2)) == (True, True)


@pytest.mark.parametrize(
    ("metric", "after"),
    [
        ("errors", window("2", 2, bad=10)),
        ("error SLO", window("2", 2, bad=10)),
        ("latency", window("2", 2, ms=700)),
        ("pace", window("2", 2, ms=700)),
        ("ttft", window("2", 2, ms=700)),
        ("length", window("2", 2, tokens=40)),
        ("length", window("2", 2, tokens=200)),
    ],
)
def test_a_metric_that_is_still_bad_is_not(tmp_path: Path, metric: str, after: Counts) -> None:
    assert recovery(tmp_path, metric, after) == (True, False)


def test_figures_of_days_ago_are_no_yardstick(tmp_path: Path) -> None:
    """Three days ago half of the prior version's requests failed; that a tenth fails now is no recovery."""
    store = tables.Store(str(tmp_path))
    write(store.path(tables.WINDOWS), [window("2", -3 * 1440, bad=50)])
    assert recovery(tmp_path, "errors", window("2", 2, bad=10)) == (True, False)


def test_the_page_draws_the_windows_around_its_verdict(tmp_path: Path) -> None:
    store = tables.Store(str(tmp_path))
    days = [window("2", 1440 * day + minute, bad=day + 3) for day in (-3, 0, 3) for minute in (-1, 0)]
    write(store.path(tables.WINDOWS), [*days, window("3", 0, bad=20)])
    _, errors, _, requests = evidence_series(store, "chat", "3", "2", SHIFT, 60)
    assert (errors["unit"], errors["prior"]) == ("%", pytest.approx([3.0, 3.0]))
    assert (errors["new"], requests["new"]) == ([None, pytest.approx(20.0)], [None, 100.0])


def test_traffic_that_did_not_move_is_seen_whatever_the_config_says(tmp_path: Path) -> None:
    assert recovery(tmp_path, "latency", window("2", 2, 60), window("3", 2, 40))[0] is False


def test_what_came_before_a_whole_window_has_passed_says_nothing(tmp_path: Path) -> None:
    assert recovery(tmp_path, "errors", window("2", 0)) == (None, None)
    assert recovery(tmp_path / "few", "errors", window("2", 2, requests=29)) == (None, None)


def test_third_versions_and_traffic_of_nobody_are_left_out(tmp_path: Path) -> None:
    """A canary beside the two fails and is fast; it says nothing about the rollback."""
    canary = window("9", 2, requests=5000, bad=2500, ms=5)
    assert recovery(tmp_path, "errors", window("2", 2), canary) == (True, True)
    assert recovery(tmp_path / "latency", "latency", window("2", 2), canary) == (True, True)


def test_a_prior_version_that_was_unseen_for_a_day_is_compared_with_its_last_day(tmp_path: Path) -> None:
    """The slow path puts back a version that last served ten days ago, at 400 ms."""
    store = tables.Store(str(tmp_path))
    old = [window("2", -10 * 1440 - minute) for minute in range(5)]
    write(store.path(tables.WINDOWS), [*old, window("3", -5, ms=900), window("2", 2, ms=420)])
    shown = WindowTelemetry(store, SETTINGS).recovery("chat", "3", "2", SHIFT, "latency")
    assert (shown.traffic_moved, shown.recovered) == (True, True), shown.sentence


@pytest.mark.parametrize(("ms", "recovered"), [(9_000.0, True), (11_000.0, False)])
def test_a_prior_version_without_a_past_is_compared_with_the_objectives(
    tmp_path: Path, ms: float, recovered: bool
) -> None:
    store = tables.Store(str(tmp_path))
    write(store.path(tables.WINDOWS), [window("3", -5, ms=20_000), window("2", 2, ms=ms)])
    shown = WindowTelemetry(store, SETTINGS).recovery("chat", "3", "2", SHIFT, "latency")
    assert (shown.recovered, "not seen in 30 days" in shown.sentence) == (recovered, True)


def scored(version: str, minutes: int, mean: float, number: int = 100) -> Counts:
    return replace(window(version, minutes), scores={"relevance": (number, mean * number, (mean**2 + 0.01) * number)})


@pytest.mark.parametrize(
    ("after", "recovered"),
    [(scored("2", 2, 0.88), True), (scored("2", 2, 0.6), False), (scored("2", 2, 0.9, number=3), None), (window("2", 2), None)],
)  # fmt: skip
def test_scores_are_verified_by_the_scores(tmp_path: Path, after: Counts, recovered: bool | None) -> None:
    """Not by the share of bad answers: that was fine all the time. Scores that are late are waited for."""
    store = tables.Store(str(tmp_path))
    write(store.path(tables.WINDOWS), [scored("2", -5, 0.9), scored("3", -5, 0.5), after])
    shown = WindowTelemetry(store, SETTINGS).recovery("chat", "3", "2", SHIFT, "scores relevance")
    assert (shown.traffic_moved, shown.recovered) == (True, recovered), shown.sentence


def test_thin_traffic_waits_for_requests_and_a_failure_among_few_is_no_failed_recovery(tmp_path: Path) -> None:
    """Two requests a minute: nothing is known after 14 minutes, and one failure in 40 does not tell 2.5% from 0%."""
    thin = [window("2", minute, requests=2) for minute in range(2, 16)]
    assert recovery(tmp_path / "a", "errors", *thin) == (None, None)
    enough = [window("2", minute, requests=2, bad=int(minute == 9)) for minute in range(2, 22)]
    assert recovery(tmp_path / "b", "errors", *enough) == (True, True)
    worse = [window("2", minute, requests=2, bad=minute % 2) for minute in range(2, 22)]
    assert recovery(tmp_path / "c", "errors", *worse) == (True, False)


def test_a_version_as_before_is_called_recovered_in_at_least_95_of_100_thin_shifts(tmp_path: Path) -> None:
    """Binomial failures at the rate of before, 40 requests each; the lower bound of the share is what counts."""
    rng = np.random.default_rng(3)
    before, policy = window("2", -5, requests=1000, bad=30), Policy()
    answers = [
        _recovered("errors", window("2", 2, 40, int(rng.binomial(40, 0.03))), before, policy)[0] for _ in range(400)
    ]
    wrong = sum(answer is False for answer in answers)
    assert beta.ppf(0.975, wrong + 1, 400 - wrong) <= 0.05, wrong
