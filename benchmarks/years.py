"""Three simulated years over the tables and the state that 0.1.0 left: `python -m benchmarks.years [--cycles 18] [--quick]`.

In a cycle (two months) endpoints come and go, receivers commit, every job runs, maintenance deletes, merges and vacuums. Then every file is made as
old as it would be, so that what goes by a file's age (VACUUM, the cleaning of Delta's logs) happens. The state lives through every day: verdicts,
rollbacks, messages, housekeeping. What may not grow is compared between the end of the second and of the third year.
"""

import argparse
import json
import logging
import os
import random
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from alerts_support import KEY, FixedTelemetry, ListNotifier, MemoryWorkspace, endpoint, verdict

from benchmarks.measured import machine
from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.schema import metadata
from lastgood.alerts.store import Store as State
from lastgood.jobs.spark import session
from lastgood.record import telemetry
from lastgood.record.verdict import State as Judged
from lastgood.service.loop import JOBS
from lastgood.settings import EndpointSettings, Mode, Policy, Settings, SparkSettings, load
from lastgood.tables import Store, delta
from lastgood.tables.runs import Context

ARCHIVE = Path(__file__).parents[1] / "tests" / "archive" / "0.1.0.tar.xz"
DAYS, ENDPOINTS = 3 * 365, 1000
ALIVE, REQUESTS, COMMITS = 80, 12, 24
"""Endpoints that are served in a cycle, requests of each, commits of receivers."""
ASKING = ("collect", "labels", "freshness")
"""Jobs that ask others; nobody is there to be asked."""
FADING = ("nonces", "outbox", "leases", "pauses", "verdicts")
"""Tables of the state that housekeeping keeps short. The others are the record of what was done: a few rows for each incident."""


def arrivals(cycle: int, first: int, at: datetime) -> list[dict[str, Any]]:
    """Inbox rows of a cycle: endpoints that are there from number `first` on, each with the cycle's version beside the one before."""
    r = random.Random(cycle)
    none = {field.name: None for field in telemetry.INBOX}
    return [
        {
            **none, "endpoint": f"model-{number:04d}", "request_id": f"{cycle}-{number}-{i}", "model_version": str(cycle + i % 2),
            "requested_at": at - timedelta(seconds=3600 * r.random()), "latency_ms": r.lognormvariate(5, 0.5), "latency_scope": "client",
            "tokens_in": r.randrange(900), "tokens_out": r.randrange(300), "status_code": 200 if r.random() > 0.02 else 500,
            "requester": f"u{r.randrange(40)}", "weight": 1.0, "source": "otlp", "received_at": at, "input": "question " * r.randrange(30),
            "output": "answer " * r.randrange(30),
        }
        for number in range(first, first + ALIVE)
        for i in range(REQUESTS)
    ]  # fmt: skip


@dataclass(frozen=True)
class Cycle:
    """What is there at the end of a cycle. `rows`: by table; `log`: files of Delta's logs."""

    seconds: float
    bytes: int
    files: int
    log: int
    rows: Counter[str]
    of_tables: dict[str, tuple[int, int, int]]
    """Table -> bytes, data files, files of its log."""


def files_of(root: Path) -> Iterator[Path]:
    return (path for path in list(root.rglob("*")) if path.is_file())


def age(root: Path, since: float, when: float) -> None:
    """Files written since then are as old as their cycle, and so is what their logs say of deleted files: VACUUM goes by both."""
    for path in files_of(root):
        if path.stat().st_mtime < since:
            continue
        if path.name.endswith(".crc") and "_delta_log" in path.parts:
            path.unlink()  # Hadoop's and Delta's sums, of what the files held before
            continue
        if path.parent.name == "_delta_log" and path.suffix == ".json":
            path.write_text(
                "\n".join(json.dumps(_aged(json.loads(line), since, when)) for line in path.read_text().splitlines())
                + "\n"
            )
        elif ".checkpoint." in path.name and path.suffix == ".parquet":
            _age_checkpoint(path, since, when)
        os.utime(path, (when, when))


def _aged(action: dict[str, Any], since: float, when: float) -> dict[str, Any]:
    removed = action.get("remove")
    if removed and removed.get("deletionTimestamp", 0) >= since * 1000:
        removed["deletionTimestamp"] = int(when * 1000)
    return action


def _age_checkpoint(path: Path, since: float, when: float) -> None:
    rows = pq.read_table(path)
    place = rows.schema.get_field_index("remove")
    removed = rows["remove"].combine_chunks()
    names = [field.name for field in removed.type]
    parts = [removed.field(name) for name in names]
    at = names.index("deletionTimestamp")
    parts[at] = pc.if_else(
        pc.fill_null(pc.greater_equal(parts[at], int(since * 1000)), False), int(when * 1000), parts[at]
    )
    column = pa.StructArray.from_arrays(parts, fields=list(removed.type), mask=pc.is_null(removed))
    pq.write_table(rows.set_column(place, rows.schema.field(place), column), path)


def play(ctx: Context, cycle: int, first: int, when: float) -> Cycle:
    """A cycle: `when` is the age that its files get, as seconds since the epoch."""
    store, since, started = ctx.store, time.time() - 1, time.monotonic()
    rows = pa.Table.from_pylist(arrivals(cycle, first, ctx.clock()), telemetry.arrow_schema(telemetry.INBOX))
    for number in range(COMMITS):
        part = rows.slice(number * rows.num_rows // COMMITS, rows.num_rows // COMMITS)
        delta.append(store.path(tables.INBOX), part, app=("receiver", cycle * COMMITS + number + 1))
    delta.compact(store.path(tables.INBOX))
    delta.vacuum(store.located(tables.INBOX), 168)
    for name in (name for name in JOBS if name not in ASKING):
        done = JOBS[name](ctx)
        for report in done if name == "maintain" else ():
            assert "error" not in report, report
    took = time.monotonic() - started
    age(Path(store.location), since, when)
    every = list(files_of(Path(store.location)))
    counts = Counter({table.name: (store.home(table).facts() or {"rows": 0}).get("rows", 0) for table in tables.ALL})
    of_tables: dict[str, tuple[int, int, int]] = {}
    for path in every:
        name, size = path.relative_to(store.location).parts[0], path.stat().st_size
        total, data, log = of_tables.get(name, (0, 0, 0))
        of_tables[name] = (total + size, data + ("_delta_log" not in path.parts), log + ("_delta_log" in path.parts))
    logs = sum("_delta_log" in path.parts for path in every)
    return Cycle(took, sum(path.stat().st_size for path in every), len(every), logs, counts, of_tables)


def recount(store: Store) -> list[str]:
    """Endpoints whose windows are not what `requests` holds, of those of which nothing has been deleted."""
    requests: Counter[str] = Counter(store.home(tables.REQUESTS).read(["endpoint"])["endpoint"].to_pylist())
    windows: Counter[str] = Counter()
    for row in store.home(tables.WINDOWS).read(["endpoint", "requests"]).to_pylist():
        windows[row["endpoint"]] += round(row["requests"])
    return sorted(name for name in requests if windows[name] != requests[name])


def lived(days: int, folder: Path) -> list[Counter[str]]:
    """The state through `days` days, a third of them with a bad version: rows of its tables at the end of each year."""
    now = [datetime(2026, 11, 28, tzinfo=UTC)]
    workspace, channel = MemoryWorkspace(polls=0), ListNotifier()
    policy = Policy(cooldown_s=0, warmup_s=0, warmup_requests=0, settle_s=0)
    names = [f"model-{number:04d}" for number in range(days + 10)]
    settings = Settings(endpoints={name: EndpointSettings(mode=Mode.AUTO, policy=policy) for name in names})
    state = State(f"sqlite:///{folder}/state.db")
    controller = Controller(
        state, workspace, settings, {"pagerduty": channel}, FixedTelemetry(), Signer([KEY]), lambda: now[0]
    )
    years: list[Counter[str]] = []
    for day in range(days):
        bad = day % 3 == 0
        name = names[day]
        workspace._endpoints = {
            each: replace(endpoint("2", "3", name=each), config_version=1) for each in names[max(0, day - 9) : day + 1]
        }
        for judged in (Judged.ROLL_BACK, Judged.HEALTHY) if bad else (Judged.HEALTHY,):
            controller.handle(replace(verdict(judged, now[0]), endpoint=name))
            for _ in range(6):
                now[0] += timedelta(seconds=30)
                controller.tick()
                controller.send()
        controller.observe_endpoints()
        controller.housekeep()
        now[0] = now[0].replace(hour=0, minute=0, second=0) + timedelta(days=1)
        if (day + 1) % 365 == 0:
            with state._engine.connect() as db:
                years.append(Counter({t.name: len(db.execute(t.select()).all()) for t in metadata.sorted_tables}))
    with state.read() as tx:
        assert tx.verify() == []
        assert not tx.unsent() and not tx.live_rollbacks()
    state.close()
    return years


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=18)
    parser.add_argument("--quick", action="store_true", help="three cycles of a year each")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    cycles = 3 if given.quick else given.cycles
    with tempfile.TemporaryDirectory() as folder:
        years = lived(DAYS, Path(folder))
        print("| state table | year 1 | year 2 | year 3 |\n|---|---|---|---|")
        for name in sorted(years[0] | years[-1]):
            print(f"| {name} | {' | '.join(str(year[name]) for year in years)} |", flush=True)
        ended = tables_through(cycles, Path(folder))
    print(
        "| cycle | s | MiB | files | log files | rows of requests | of windows | of verdicts | of runs |\n|---|---|---|---|---|---|---|---|---|"
    )
    for number, cycle in enumerate(ended):
        rows = " | ".join(f"{cycle.rows[name]:,}" for name in ("requests", "windows", "verdicts", "runs"))
        print(
            f"| {number + 1} | {cycle.seconds:.0f} | {cycle.bytes / 2**20:.1f} | {cycle.files} | {cycle.log} | {rows} |"
        )
    second, third = ended[2 * cycles // 3 - 1], ended[-1]
    print(
        "\n| table | KiB, year 2 | year 3 | data files, year 2 | year 3 | log files, year 2 | year 3 |\n|---|---|---|---|---|---|---|"
    )
    for name, (size, data, log) in sorted(third.of_tables.items(), key=lambda item: -item[1][0]):
        size_2, data_2, log_2 = second.of_tables.get(name, (0, 0, 0))
        print(f"| {name} | {size_2 // 1024:,} | {size // 1024:,} | {data_2} | {data} | {log_2} | {log} |")
    print(f"\n{machine()}")
    print(json.dumps({
        "days": DAYS, "endpoints": ENDPOINTS, "bytes_ratio": round(third.bytes / second.bytes, 3),
        "files_ratio": round(third.files / second.files, 3), "seconds_ratio": round(third.seconds / second.seconds, 3),
        "state_fading_ratio": round(sum(years[2][t] for t in FADING) / max(1, sum(years[1][t] for t in FADING)), 3),
    }))  # fmt: skip


def tables_through(cycles: int, folder: Path) -> list[Cycle]:
    """The tables of 0.1.0 through three years; what each cycle came to. Errors: AssertionError where windows are no recount."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    store, step = Store(str(folder / "tables")), DAYS / cycles
    begin = datetime(2026, 11, 28, 19, tzinfo=UTC)
    spark = session(SparkSettings(driver_memory="2g"))
    store.ensure(spark)
    age(Path(store.location), 0.0, time.time() - DAYS * 86_400)
    ended = []
    for cycle in range(cycles):
        clock = begin + timedelta(days=step * (cycle + 1))
        ctx = Context(spark, store, load(storage=store.location), lambda clock=clock: clock)  # type: ignore[misc]
        first = cycle * (ENDPOINTS - ALIVE) // max(1, cycles - 1)
        ended.append(play(ctx, cycle, first, time.time() - (cycles - cycle - 1) * step * 86_400))
        wrong = recount(store)
        assert not wrong, f"cycle {cycle + 1}: windows are no recount of {wrong[:3]}"
        print(
            f"cycle {cycle + 1}: {ended[-1].seconds:.0f} s, {ended[-1].bytes / 2**20:.1f} MiB",
            file=sys.stderr,
            flush=True,
        )
    return ended


if __name__ == "__main__":
    main()
