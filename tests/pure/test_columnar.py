"""Windows as a table are judged as the same windows are one by one."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_support import START, requests, windows
from soak import scaled

from lastgood import tables
from lastgood.jobs.columnar import columns_of_table, totals
from lastgood.judge.columns import Callers, Entries, Scored, columns
from lastgood.record.metrics import summary
from lastgood.record.telemetry import arrow_schema
from lastgood.record.windows import Counts


def table(given_windows: list[Counts]) -> pa.Table:
    maps = (
        "errors",
        "latency",
        "ttft",
        "feature_age",
        "length",
        "pace",
        "failed_latency",
        "callers",
        "scores",
        "score_callers",
        "quality",
        "answer_callers",
    )
    rows = [
        {f.name: getattr(one, f.name) for f in fields(one) if f.name not in (*maps, "start", "error_requesters")}
        | {"window_start": one.start, "error_requesters": list(one.error_requesters)}
        | {
            name: [(key, list(item) if isinstance(item, tuple) else item) for key, item in getattr(one, name).items()]
            for name in maps
        }
        for one in given_windows
    ]
    answers = [arrow_schema(tables.QUALITY.fields).field(name) for name in ("quality", "answer_callers")]
    return pa.Table.from_pylist(rows, pa.schema([*arrow_schema(tables.WINDOWS.fields), *answers]))


def same(mine: Any, theirs: Any) -> bool:
    if isinstance(theirs, Entries | Callers | Scored):
        return all(same(getattr(mine, name), part) for name, part in vars(theirs).items())
    if isinstance(theirs, dict):
        return list(mine) == list(theirs) and all(same(mine[key], part) for key, part in theirs.items())
    return bool(np.allclose(mine, theirs)) if isinstance(theirs, np.ndarray) else bool(mine == theirs)


@settings(max_examples=scaled(6), deadline=None)
@given(st.integers(0, 1000))
def test_a_table_gives_the_same_columns_as_its_windows_one_by_one(seed: int) -> None:
    given_windows = windows(requests(seed, minutes=12, failing=0.2, people=20))
    at = datetime.fromtimestamp(START, UTC) + timedelta(minutes=3)
    given_windows += [
        Counts("chat", "2", "?/?", at, scores={"good": (3.0, 2.0, 1.5)}, score_callers={"x/good": (2.0, 1.0, 0.5)}),
        replace(given_windows[0], model_version="9"),
    ]
    given_windows = [
        replace(
            one,
            quality={"answers": 4.0, "bad": 1.0},
            feature_age={100: 2.0, 900: 1.0},
            answer_callers={"elsewhere": (1.0, 1.0)} | dict.fromkeys(list(one.callers)[::3], (3.0, 1.0)),
        )
        if one.rows
        else one
        for one in given_windows
    ]
    mine, theirs = columns_of_table(table(given_windows), "2", "1", 60, 500), columns(given_windows, "2", "1", 60, 500)
    for name in (f.name for f in fields(theirs)):
        assert same(getattr(mine, name), getattr(theirs, name)), name


def test_totals_are_the_windows_added_up() -> None:
    given_windows = windows(requests(3, minutes=12, failing=0.2))
    found = totals(table(given_windows))
    assert set(found) == {"1", "2"}
    wanted = summary([one for one in given_windows if one.model_version == "2"])
    assert {k: v for k, v in summary([found["2"]]).items() if v is not None} == pytest.approx(
        {k: v for k, v in wanted.items() if v is not None}
    )
