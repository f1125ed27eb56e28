"""Tables that the released 0.1.0 wrote are read, filled and judged by this version: its verdicts, bookmarks and windows go on."""

import tarfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from lastgood import tables
from lastgood.record import telemetry
from lastgood.record.verdict import State
from lastgood.service.loop import JOBS
from lastgood.settings import load
from lastgood.tables import Store, delta, measures
from lastgood.tables.runs import Context

ARCHIVE = Path(__file__).parents[1] / "archive" / "0.1.0.tar.xz"


NEW = 50


def counted(store: Store, table: tables.Table) -> Counter[tuple[str, str]]:
    """Requests by endpoint and version, of `requests` or of `windows`."""
    total: Counter[tuple[str, str]] = Counter()
    for row in store.home(table).read().to_pylist():
        total[row["endpoint"], row["model_version"] or "?"] += row["requests"] if table is tables.WINDOWS else 1
    return total


def test_tables_of_0_1_0_go_on(spark: Any, tmp_path: Path) -> None:
    """What was there stays, what is new is taken from where the bookmarks stood, and windows are a recount of both."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    store = Store(str(tmp_path / "tables"))
    verdicts, requests = measures.verdicts(store), counted(store, tables.REQUESTS)
    assert {verdict.state for verdict in verdicts} == {State.ROLL_BACK}
    arrived = store.home(tables.INBOX).read().to_pylist()
    clock = max(row["received_at"] for row in arrived) + timedelta(minutes=10)
    ctx = Context(spark, store, load(storage=store.location), lambda: clock)
    store.ensure(spark)
    unrelated = {"trace_id": None, "span_id": None, "parent_id": None}
    fresh = [{**row, **unrelated, "request_id": f"new-{i}"} for i, row in enumerate(arrived[:NEW])]
    delta.append(store.path(tables.INBOX), pa.Table.from_pylist(fresh, telemetry.arrow_schema(telemetry.INBOX)))
    for name in (name for name in JOBS if name != "collect"):
        JOBS[name](ctx)
    assert measures.verdicts(store)[: len(verdicts)] == verdicts
    assert len(measures.verdicts(store)) > len(verdicts)
    after = counted(store, tables.REQUESTS)
    assert after.total() == requests.total() + NEW
    assert counted(store, tables.WINDOWS) == after
    runs = store.home(tables.RUNS).read().to_pylist()
    assert [run["note"] for run in runs if run["note"]] == [], "nothing was read whole"
    first = {run["job"] for run in runs if run["job"] in ("conform", "windows", "quality") and run["rows_in"] == NEW}
    assert first == {"conform", "windows", "quality"}, "each took what is new and nothing else"
