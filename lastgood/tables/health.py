"""Tables and run records -> how they are: sizes, how far behind the jobs, the newest verdicts, and how the tables are reached."""

from collections import Counter
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from lastgood import tables
from lastgood.record.windows import utc
from lastgood.tables import edits
from lastgood.tables.runs import UPKEEP, chain
from lastgood.tables.summing import lists

Rows = list[dict[str, Any]]


def quarantined(store: tables.Store, since: datetime) -> Rows:
    """What was set aside since a moment, by source and reason, the most first: rows, and when the newest came."""
    home = store.home(tables.QUARANTINE)
    rows = home.read(["source", "reason", "received_at"], [("received_at", ">=", since)])
    if not rows.num_rows:
        return []
    key = ["source", "reason"]
    counted = rows.group_by(key).aggregate([("received_at", "count"), ("received_at", "max")])
    made = [
        {"source": source, "reason": reason, "rows": number, "newest": utc(at).isoformat()}
        for source, reason, number, at in lists(counted, *key, "received_at_count", "received_at_max")
    ]
    return sorted(made, key=lambda row: (-row["rows"], row["source"], row["reason"]))


def completeness(store: tables.Store, since: datetime) -> Rows:
    """How complete each endpoint's telemetry is since a moment, the least first: rows seen, rows there should be (None where nothing says it), their
    share 0-1, and the 95th percentile of the delay until they reached Lastgood, the worst window's, in milliseconds."""
    names = ["endpoint", "seen", "expected", "delivery_lag_p95_ms"]
    rows = store.home(tables.COMPLETENESS).read([*names, "window_start"], [("window_start", ">=", since)])
    if not rows.num_rows:
        return []
    known = rows.append_column("known", pc.if_else(pc.is_valid(rows["expected"]), rows["seen"], 0))
    sums = [("seen", "sum"), ("known", "sum"), ("expected", "sum"), ("delivery_lag_p95_ms", "max")]
    counted = known.group_by(["endpoint"]).aggregate(sums)
    made = [
        {
            "endpoint": endpoint, "seen": seen, "expected": expected,
            "share": min(1.0, of / expected) if expected else None, "delivery_lag_p95_ms": lag,
        }
        for endpoint, seen, of, expected, lag in lists(
            counted, "endpoint", "seen_sum", "known_sum", "expected_sum", "delivery_lag_p95_ms_max"
        )
    ]  # fmt: skip
    return sorted(made, key=lambda row: (row["share"] is None, row["share"] or 0.0, row["endpoint"]))


def health(store: tables.Store, now: datetime) -> dict[str, Rows]:
    """What `lastgood status` shows. tables: size, files, seconds since the newest commit; storage: how
    many tables are reached which way; jobs:
    bookmark, how many versions of its source it has not taken in, its newest run; verdicts: the newest of each endpoint.
    """
    sizes = {table.name: facts for table in tables.ALL if (facts := store.home(table).facts())}
    shown = [
        {
            "table": name, "rows": facts["rows"], "files": facts["files"], "MiB": round(facts["bytes"] / 2**20, 2),
            "version": facts["version"], "age_s": None if facts["changed_at"] is None else round(now.timestamp() - facts["changed_at"] / 1000),
        }
        for name, facts in sizes.items()
    ]  # fmt: skip
    records: dict[tuple[str, str], Rows] = {}
    if tables.RUNS.name in sizes:
        for run_record in store.home(tables.RUNS).read().to_pylist():
            records.setdefault((run_record["job"], run_record["source"]), []).append(run_record)
    jobs = []
    for (job, source), runs in sorted(records.items()):
        if job == UPKEEP:
            continue
        run, at = max(runs, key=lambda record: record["finished_at"]), chain(runs)
        known = sizes.get(source)
        jobs.append({
            "job": job, "source": source, "taken": at, "behind": known["version"] - at if known else None, "rows_in": run["rows_in"],
            "rows_out": run["rows_out"], "seconds": run["seconds"], "finished_at": str(run["finished_at"]),
            "read_whole": sum(record.get("note") is not None for record in runs),
            "passed_over": sum(record.get("passed_over") or 0 for record in runs), "note": run.get("note"),
        })  # fmt: skip
    newest: dict[str, dict[str, Any]] = {}
    if tables.VERDICTS.name in sizes:
        verdicts = store.home(tables.VERDICTS).read(["endpoint", "state", "reason", "judged_at"]).to_pylist()
        newest = {
            verdict["endpoint"]: verdict for verdict in sorted(verdicts, key=lambda verdict: verdict["judged_at"])
        }
    judged = [verdict | {"judged_at": str(verdict["judged_at"])} for verdict in newest.values()]
    ways = Counter(store.home(table).way() for table in tables.ALL)
    reached = (
        []
        if store.in_folder
        else [{"storage": store.location, "tables": n, "reached by": way} for way, n in ways.items()]
    )
    rare_contents = edits.rare(store, now) if tables.CONTENTS.name in sizes else {}
    told = [
        {"endpoint": name, "requests of a day whose prompt or tools are too rare to be a version": n}
        for name, n in rare_contents.items()
    ]
    return {"storage": reached, "tables": shown, "jobs": jobs, "verdicts": judged, "contents": told}
