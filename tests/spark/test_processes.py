"""Jobs that die after any of their commits, run beside one another, are killed, or run through Spark Connect end the same."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import SPARK_FOR_TESTS, needs
from soak import SOAK, seed

from lastgood import tables
from lastgood.errors import TransientError
from lastgood.jobs.judge import run_judge
from lastgood.jobs.spark import has_java
from lastgood.record import telemetry
from lastgood.record.verdict import State
from lastgood.service.loop import JOBS
from lastgood.settings import load
from lastgood.tables import Store, delta, measures, runs
from lastgood.tables.runs import Context

pytestmark = pytest.mark.xdist_group("jobs that die")

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORK = Path(__file__).with_name("work.py")
REBUILT = (tables.REQUESTS, tables.QUARANTINE, tables.WINDOWS, tables.QUALITY, tables.COMPLETENESS, tables.SAMPLES)
"""Tables whose rows do not depend on how often a job ran; `drift` and `verdicts` get a row a run."""
NAMES = ("conform", "windows", "quality", "completeness", "samples", "drift", "judge")


def fill(store: Store) -> None:
    """The inbox, and the month's salt: a salt is random, and the stores are compared."""
    salt = {"month": f"{START:%Y-%m}", "salt": "of these tests", "made_at": START}
    delta.append(store.path(tables.SALTS), pa.Table.from_pylist([salt], telemetry.arrow_schema(tables.SALTS.fields)))
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


def context(spark: Any, store: Store) -> Context:
    """A job context as work.py makes it in a process of its own."""
    store.ensure(spark)
    return Context(spark, store, load(storage=store.location, window_s=60), lambda: START + timedelta(minutes=31))


def run(ctx: Context, name: str) -> None:
    """The judge without an operational state: nobody was rolled back before."""
    if name == "judge":
        run_judge(ctx)
    else:
        JOBS[name](ctx)


def start(mode: str, store: Store, *jobs: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(WORK), mode, store.location, *jobs], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]") -> None:
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    assert out.endswith("done\n")
    assert not errors, "Java's, Ivy's and Spark's own words are in a file"


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL to the process and its JVM (both started by this test, in their own session)."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def content(store: Store, table: tables.Table) -> list[str]:
    """Rows as sorted texts: a map has no order of its own."""

    def plain(value: object) -> object:
        return sorted(value, key=repr) if isinstance(value, list) else value

    rows = delta.read(store.path(table)).to_pylist()
    return sorted(repr({name: plain(value) for name, value in row.items()}) for row in rows)


def assert_same(store: Store, uninterrupted: Store) -> None:
    for table in REBUILT:
        assert content(store, table) == content(uninterrupted, table), table.name
        assert content(store, table), table.name
    assert set(content(store, tables.DRIFT)) == set(content(uninterrupted, tables.DRIFT))
    assert measures.verdicts(store)[-1] == measures.verdicts(uninterrupted)[-1]
    assert measures.verdicts(store)[-1].state is State.ROLL_BACK


@pytest.fixture(scope="module")
def uninterrupted(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same jobs in one go."""
    store = Store(str(tmp_path_factory.mktemp("whole") / "data"))
    fill(store)
    ctx = context(spark, store)
    for name in NAMES:
        run(ctx, name)
    return store


class CrashError(Exception):
    """The process dies here."""


@contextmanager
def dying_after_commit(at: int) -> Iterator[list[str]]:
    """Whatever a job commits through `tables.runs`, it dies right after commit number `at`; the tables committed to."""
    commits: list[str] = []

    def dying(inner: Callable[..., Any], table_of: Callable[..., str]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            result = inner(*args)
            commits.append(table_of(*args))
            if len(commits) == at:
                raise CrashError
            return result

        return wrapped

    seams = {
        "append": lambda ctx, frame, table: table.name,
        "merge": lambda ctx, frame, table, *_: table.name,
        "replace_rows": lambda ctx, frame, table, *_: table.name,
        "record": lambda *_: tables.RUNS.name,
    }
    with pytest.MonkeyPatch.context() as patch:
        modules = [module for name, module in sys.modules.items() if name.startswith("lastgood.")]
        for name, table_of in seams.items():
            inner = getattr(runs, name)
            wrapped = dying(inner, table_of)
            for module in modules:
                if getattr(module, name, None) is inner:
                    patch.setattr(module, name, wrapped)
        yield commits


def test_jobs_that_die_after_each_of_their_commits_end_the_same(uninterrupted: Store, spark: Any, store: Store) -> None:
    """Each job dies after its first commit, is run again and dies after its second, and so on, until it has run whole."""
    fill(store)
    ctx = context(spark, store)
    died_after: dict[str, list[str]] = {}
    for name in NAMES:
        for at in range(1, 20):
            with dying_after_commit(at) as commits:
                try:
                    run(ctx, name)
                except CrashError:
                    died_after.setdefault(name, []).append(commits[-1])
                    continue
            break
    assert died_after == {
        "conform": ["quarantine", "requests", "runs"], "windows": ["windows", "runs"], "quality": ["quality", "runs"],
        "completeness": ["completeness", "runs"], "samples": ["samples", "runs"], "drift": ["drift"], "judge": ["verdicts"],
    }  # fmt: skip
    assert_same(store, uninterrupted)


def test_two_runs_of_all_jobs_at_once_end_the_same(uninterrupted: Store, spark: Any, store: Store) -> None:
    """A run that loses a race says so (run again) and has written nothing twice."""
    fill(store)
    contexts = [context(spark.newSession(), store) for _ in range(2)]
    together, failed = threading.Barrier(2), []

    def work(ctx: Context) -> None:
        for name in NAMES:
            together.wait()
            try:
                run(ctx, name)
            except TransientError:
                continue
            except BaseException as error:
                failed.append(error)
                together.abort()
                raise

    threads = [threading.Thread(target=work, args=(ctx,), daemon=True) for ctx in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    for name in NAMES:
        run(contexts[0], name)
    assert_same(store, uninterrupted)


def test_a_collector_killed_between_its_rows_and_its_bookmark_ends_the_same(spark: Any, store: Store) -> None:
    """By a real SIGKILL to the process and its JVM. The inbox then has some rows twice; the requests do not."""
    asked_at = datetime.now(UTC) - timedelta(minutes=5)
    rows = [
        {
            "databricks_request_id": f"p{i}", "request_time": asked_at, "status_code": 200, "execution_duration_ms": 20 + i,
            "served_entity_id": "1", "request": '{"prompt": "q"}', "response": '{"generated_text": "a"}',
        }
        for i in range(300)
    ]  # fmt: skip
    payload = f"{store.location}-payload"
    table = pa.Table.from_pylist(rows)
    table = table.set_column(1, "request_time", table.column("request_time").cast(pa.timestamp("us", "UTC")))
    delta.append(payload, table)
    process = start("local", store, "collect")
    while process.poll() is None and not delta.version(store.path(tables.INBOX)):
        time.sleep(0.005)
    kill(process)
    assert delta.read(store.path(tables.INBOX)).num_rows == 300
    settings = load(storage=store.location, window_s=60, endpoints={"chat": {"payload_table": payload}})
    ctx = Context(spark, store, settings, lambda: datetime.now(UTC))
    for name in ("collect", "conform", "windows"):
        run(ctx, name)
    kept = delta.read(store.path(tables.REQUESTS)).to_pylist()
    assert sorted(row["request_id"] for row in kept) == sorted(f"p{i}" for i in range(300))
    assert sum(window.rows for window in measures.windows(store)) == 300


def test_spark_connect_gives_the_same_as_local(
    uninterrupted: Store, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the session's settings as they are in use, compiled plans among them."""
    needs("Java (JAVA_HOME or lastgood[spark])", has_java())
    for name in SPARK_FOR_TESTS:
        monkeypatch.delenv(name)
    fill(store)
    finish(start("connect", store, *NAMES))
    assert_same(store, uninterrupted)
    assert len(measures.verdicts(store)) == 1


@pytest.mark.soak
@pytest.mark.parametrize("number", range(SOAK))
def test_jobs_killed_at_any_moment_then_run_by_two_processes_at_once_end_the_same(
    uninterrupted: Store, store: Store, number: int
) -> None:
    """SIGKILL right after a commit of each job, then at moments of chance."""
    fill(store)
    r = random.Random(seed(number))
    commits = {
        "conform": tables.REQUESTS, "windows": tables.WINDOWS, "quality": tables.QUALITY, "completeness": tables.COMPLETENESS,
        "samples": tables.SAMPLES, "drift": tables.DRIFT, "judge": tables.VERDICTS,
    }  # fmt: skip
    for name, table in commits.items():
        process = start("local", store, name)
        while process.poll() is None and not delta.version(store.path(table)):
            time.sleep(0.005)
        if r.random() < 0.5:
            time.sleep(r.random())
        kill(process)
    process = start("local", store, *NAMES)
    time.sleep(60 * r.random())
    kill(process)
    for process in [start("local", store, *NAMES) for _ in range(2)]:
        finish(process)
    finish(start("local", store, *NAMES))
    assert_same(store, uninterrupted)
