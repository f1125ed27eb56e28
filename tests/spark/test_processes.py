"""Jobs in processes of their own: killed at any commit and run again, and through Spark Connect, they end the same."""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import needs

from lastgood import tables
from lastgood.jobs.spark import has_java
from lastgood.record import telemetry
from lastgood.record.verdict import State
from lastgood.tables import Store, delta, measures

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORK = Path(__file__).with_name("work.py")
SAME = (tables.REQUESTS, tables.QUARANTINE, tables.WINDOWS, tables.QUALITY, tables.COMPLETENESS, tables.SAMPLES)
JOBS = ("conform", "windows", "quality", "completeness", "samples", "drift", "judge")


def fill(store: Store) -> None:
    r = random.Random(9)
    rows = [
        {
            "endpoint": "chat", "request_id": f"r{i}", "model_version": "2" if i >= 300 and i % 2 else "1",
            "requested_at": START + timedelta(seconds=2 * i), "latency_ms": -1.0 if i % 50 == 0 else r.lognormvariate(4, 0.3),
            "latency_scope": "client", "source": "otlp", "received_at": START + timedelta(hours=1), "weight": 1.0,
            "status_code": 200, "output": "fine", "input": "question", "tokens_in": 3, "tokens_out": i % 60, "requester": f"u{i % 9}",
            "error_code": "TIMEOUT" if i >= 300 and i % 2 and i % 3 == 0 else None,
        }
        for i in range(900)
    ]  # fmt: skip
    delta.append(store.path(tables.INBOX), pa.Table.from_pylist(rows, telemetry.arrow_schema(telemetry.INBOX)))


def start(mode: str, store: Store, *jobs: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(WORK), mode, store.location, *jobs], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> None:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert out.endswith("done\n")


def content(store: Store, table: tables.Table, *leave_out: str) -> list[str]:
    """Rows as sorted texts: a map has no order of its own."""

    def plain(value: object) -> object:
        return sorted(value, key=repr) if isinstance(value, list) else value

    rows = delta.read(store.path(table)).to_pylist()
    return sorted(repr({name: plain(value) for name, value in row.items() if name not in leave_out}) for row in rows)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same jobs in one go."""
    needs("Java (JAVA_HOME or lastgood[spark])", has_java())
    store = Store(str(tmp_path_factory.mktemp("whole") / "data"))
    fill(store)
    finish(start("local", store, *JOBS))
    return store


def kill_group(process: "subprocess.Popen[str]") -> None:
    """SIGKILL to the process and its JVM (both started by this test, in their own session)."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


KILLED = {
    "conform, right after the quarantine was written": ("conform", tables.QUARANTINE),
    "conform, right after the requests were written": ("conform", tables.REQUESTS),
    "windows, right after the windows were written": ("windows", tables.WINDOWS),
    "quality, right after the answers were counted": ("quality", tables.QUALITY),
    "drift, right after it was measured": ("drift", tables.DRIFT),
    "judge, right after the verdict": ("judge", tables.VERDICTS),
}


def test_jobs_killed_after_each_commit_then_run_by_two_at_once_end_the_same(uninterrupted: Store, store: Store) -> None:
    fill(store)
    for case, (job, table) in KILLED.items():
        process = start("local", store, job)
        while process.poll() is None and not delta.version(store.path(table)):
            time.sleep(0.005)
        kill_group(process)
        assert delta.version(store.path(table)) == 1, case
    two = [start("local", store, *JOBS) for _ in range(2)]
    for one in two:
        finish(one)
    finish(start("local", store, *JOBS))
    for table in SAME:
        assert content(store, table) == content(uninterrupted, table), table.name
    newest = {repr(sorted(row.items())) for row in delta.read(store.path(tables.DRIFT)).to_pylist()}
    assert newest == {repr(sorted(row.items())) for row in delta.read(uninterrupted.path(tables.DRIFT)).to_pylist()}
    assert measures.verdicts(store)[-1].state is State.ROLL_BACK


def test_a_collector_killed_between_its_rows_and_its_bookmark_ends_the_same(store: Store) -> None:
    """The inbox then has some rows twice; the requests do not."""
    needs("Java (JAVA_HOME or lastgood[spark])", has_java())
    rows = [
        {
            "databricks_request_id": f"p{i}", "request_time": datetime.now(UTC) - timedelta(minutes=5), "status_code": 200,
            "execution_duration_ms": 20 + i, "served_entity_id": "1", "request": '{"prompt": "q"}', "response": '{"generated_text": "a"}',
        }
        for i in range(300)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    table = table.set_column(1, "request_time", table.column("request_time").cast(pa.timestamp("us", "UTC")))
    delta.append(f"{store.location}-payload", table)
    process = start("local", store, "collect")
    while process.poll() is None and not delta.version(store.path(tables.INBOX)):
        time.sleep(0.005)
    kill_group(process)
    assert delta.read(store.path(tables.INBOX)).num_rows == 300
    finish(start("local", store, "collect", "conform", "windows"))
    kept = delta.read(store.path(tables.REQUESTS)).to_pylist()
    assert sorted(row["request_id"] for row in kept) == sorted(f"p{i}" for i in range(300))
    assert sum(one.rows for one in measures.windows(store)) == 300


def test_spark_connect_gives_the_same_as_local(uninterrupted: Store, store: Store) -> None:
    fill(store)
    finish(start("connect", store, *JOBS))
    for table in (*SAME, tables.DRIFT):
        assert content(store, table) == content(uninterrupted, table), table.name
        assert content(store, table), table.name
    assert measures.verdicts(store) == measures.verdicts(uninterrupted)
    assert [one.state for one in measures.verdicts(store)] == [State.ROLL_BACK]
