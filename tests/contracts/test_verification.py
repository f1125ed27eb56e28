"""What window counts must show before a rollback counts as verified: traffic moved, and the metric the judge named is back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.live import write
from lastgood import tables
from lastgood.record.windows import Counts, bucket
from lastgood.tables.measures import WindowTelemetry, evidence_series

SHIFT = datetime(2026, 3, 1, 12, tzinfo=UTC)


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
    found = WindowTelemetry(store, 60).recovery("chat", "3", "2", SHIFT, metric)
    return found.traffic_moved, found.recovered


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
