"""Counters of `/metrics` over changes of windows: none falls, and no version ever shows more errors, or latencies, than requests."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.dashboards.exporter import ERROR, HISTOGRAMS, Ledger

CODES = ["HTTP_500", "HTTP_502", "HTTP_429", "timeout"]


def row(requests: int, codes: list[str], buckets: list[int], change: str) -> dict[str, Any]:
    """A window: each code is a failed request, each bucket a request's latency; no more of either than requests."""
    return {
        "endpoint": "e", "model_version": "1", "requests": float(requests), "errors": [(code, float(codes.count(code))) for code in set(codes)],
        "latency": [(bucket, float(buckets.count(bucket))) for bucket in set(buckets)], "_change_type": change,
    }  # fmt: skip


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, list[str], list[int]]:
    requests = draw(st.integers(0, 6))
    some = st.lists(st.sampled_from(CODES), max_size=requests)
    return requests, draw(some), draw(st.lists(st.integers(100, 104), max_size=requests))


def shown(ledger: Ledger, prefix: str) -> float:
    return sum(number for name, number in ledger.exported["e", "1"].items() if name.startswith(prefix))


@given(st.lists(st.lists(windows(), min_size=1, max_size=4), min_size=1, max_size=8))
def test_no_series_falls_and_parts_never_exceed_requests(
    corrections: list[list[tuple[int, list[str], list[int]]]],
) -> None:
    """Each window is counted again and again, each time differently, as late rows and corrections make it."""
    ledger, held = Ledger(), dict[int, tuple[int, list[str], list[int]]]()
    before: dict[str, float] = {}
    for step in corrections:
        changes = []
        for number, window in enumerate(step):
            if number in held:
                changes.append(row(*held[number], "update_preimage"))
            changes.append(row(*window, "update_postimage" if number in held else "insert"))
            held[number] = window
        ledger.take(changes)
        exported = ledger.exported["e", "1"]
        assert all(exported[name] >= number for name, number in before.items())
        requests = exported.get("requests", 0.0)
        assert shown(ledger, ERROR) <= requests
        assert all(shown(ledger, f"{name}/") <= requests for name in HISTOGRAMS)
        before = dict(exported)


@given(st.lists(windows(), min_size=1, max_size=10))
def test_what_only_grows_is_exported_as_it_is_counted(grown: list[tuple[int, list[str], list[int]]]) -> None:
    ledger = Ledger()
    for window in grown:
        ledger.take([row(*window, "insert")])
    for name, number in ledger.now["e", "1"].items():
        assert ledger.exported["e", "1"].get(name, 0.0) == number


def test_a_corrected_code_is_not_counted_twice() -> None:
    ledger = Ledger()
    ledger.take([row(1, ["HTTP_500"], [], "insert")])
    ledger.take([row(1, ["HTTP_500"], [], "update_preimage"), row(1, ["HTTP_502"], [], "update_postimage")])
    assert shown(ledger, ERROR) == 1 == ledger.exported["e", "1"]["requests"]
    ledger.take([row(3, ["HTTP_502"], [], "insert")])
    assert ledger.exported["e", "1"][f"{ERROR}HTTP_502"] == pytest.approx(1), (
        "a later failure is counted under its own code"
    )
