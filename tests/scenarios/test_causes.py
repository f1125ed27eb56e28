"""What moved with a harm: each kind is found and ranked, and a quiet table says nothing."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alerts_support import START
from fleet_support import put, window

from lastgood import tables
from lastgood.record.windows import bucket
from lastgood.tables import Store
from lastgood.tables.causes import moved

SINCE = START - timedelta(minutes=30)


def counts(
    version: str,
    minute: int,
    endpoint: str = "chat",
    tokens: float = 50,
    answers: float = 40,
    age_ms: float = 60_000,
    failed: float = 0,
) -> dict[str, Any]:
    row = window(endpoint, version, SINCE + timedelta(minutes=minute), 100.0, failed)
    return row | {
        "tokens_in": 100 * tokens, "tokens_out": 100 * answers, "told_in": 100.0, "told_out": 100.0, "feature_age": [(bucket(age_ms), 100.0)],
    }  # fmt: skip


def quiet(store: Store, new: dict[str, float], prior: dict[str, float], other: float = 0) -> None:
    put(store, tables.WINDOWS, [counts("2", m) for m in range(-120, 0, 10)])
    put(
        store,
        tables.WINDOWS,
        [counts("2", m, **prior) for m in range(0, 30, 10)] + [counts("3", m, **new) for m in range(0, 30, 10)],
    )
    put(store, tables.WINDOWS, [counts("1", m, "search") for m in range(-120, 0, 10)])
    put(store, tables.WINDOWS, [counts("1", m, "search", failed=other) for m in range(0, 30, 10)])
    put(store, tables.DEPLOYMENTS, [{"endpoint": "chat", "model_version": "3", "observed_at": SINCE}])
    put(
        store,
        tables.FRESHNESS,
        [
            {
                "endpoint": "chat",
                "name": "users",
                "as_of": START - timedelta(minutes=5),
                "state": "ONLINE",
                "checked_at": START,
            }
        ],
    )
    put(store, tables.DRIFT, [{"endpoint": "chat", "model_version": "3", "against": "prior", "kind": "input", "column": "age", "drifted": False,
                               "distance": 0.01, "computed_at": START - timedelta(hours=1)}])  # fmt: skip
    tool = {
        "endpoint": "chat",
        "tool": "search",
        "window_start": SINCE,
        "runs": 50.0,
        "runs_failed": 0.0,
        "codes": [],
        "latency": [],
    }
    put(store, tables.TOOL_WINDOWS, [tool | {"model_version": v, "calls": 100.0, "errors": 1.0} for v in ("2", "3")])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "tables"))


def sentences(store: Store) -> list[str]:
    return [each.sentence for each in moved(store, "chat", "3", "2", SINCE, START)]


def test_where_nothing_moved_nothing_is_said(store: Store) -> None:
    assert sentences(store) == [], "no tables yet"
    quiet(store, {}, {})
    assert sentences(store) == []


def test_a_token_count_that_doubled_and_features_that_went_stale_are_ranked_by_how_far(store: Store) -> None:
    quiet(store, {"answers": 80, "age_ms": 60 * 60_000.0}, {})
    found = sentences(store)
    assert found[0].startswith("features of version 3 against 1 minute old of version 2: 60 minutes old"), found
    assert found[1] == "answers of version 3 against 40 tokens of version 2: 80 tokens"
    assert len(found) == 2


def test_what_moved_for_the_prior_version_too_is_said_so(store: Store) -> None:
    quiet(store, {"tokens": 200}, {"tokens": 200})
    assert sentences(store) == ["prompts of version 2 too, against 50 tokens before: 200 tokens"]


def test_a_failing_tool_a_deploy_elsewhere_another_endpoint_an_old_source_and_drift(store: Store) -> None:
    quiet(store, {}, {}, other=10)
    put(store, tables.TOOL_WINDOWS, [{"endpoint": "chat", "tool": "book", "window_start": SINCE, "runs": 50.0, "runs_failed": 9.0, "codes": [], "latency": [],
                                      "model_version": "3", "calls": 50.0, "errors": 20.0}])  # fmt: skip
    put(
        store,
        tables.DEPLOYMENTS,
        [{"endpoint": "embedder", "model_version": "9", "observed_at": SINCE - timedelta(minutes=4)}],
    )
    put(
        store,
        tables.FRESHNESS,
        [
            {
                "endpoint": "chat",
                "name": "items",
                "as_of": START - timedelta(hours=8),
                "state": "ONLINE",
                "checked_at": START,
            }
        ],
    )
    put(store, tables.DRIFT, [{"endpoint": "chat", "model_version": "3", "against": "prior", "kind": "input", "column": "age", "drifted": True,
                               "distance": 0.3, "computed_at": START}])  # fmt: skip
    assert sentences(store) == [
        "tool book fails in 40% of its calls against 0%", "endpoint search fails more too: 10% against 0% before", "features' source items is 8.0 hours old",
        "input column age drifted from the prior (distance 0.30)", "endpoint embedder was deployed 4 minutes before",
    ]  # fmt: skip
