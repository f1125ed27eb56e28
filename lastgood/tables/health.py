"""Tables and run records -> how they are: sizes, how far behind the jobs, the newest verdicts, and how the tables are reached."""

from collections import Counter
from datetime import datetime
from typing import Any

from lastgood import tables
from lastgood.tables.runs import UPKEEP, chain

Rows = list[dict[str, Any]]


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
    return {"storage": reached, "tables": shown, "jobs": jobs, "verdicts": judged}
