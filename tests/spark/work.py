"""`work.py MODE STORAGE [JOB ...]`: jobs in a process of their own, to be killed or run through Spark Connect."""

import sys
from datetime import UTC, datetime

from lastgood.errors import TransientError
from lastgood.jobs.judge import run_judge
from lastgood.jobs.spark import session
from lastgood.service.loop import JOBS
from lastgood.settings import SparkSettings, load
from lastgood.tables import Store
from lastgood.tables.runs import Context

if __name__ == "__main__":
    mode, storage, *jobs = sys.argv[1:]
    spark, store = session(SparkSettings(mode=mode)), Store(storage)
    store.ensure(spark)
    now = datetime(2026, 3, 1, 12, 31, tzinfo=UTC)
    payload = {"chat": {"payload_table": f"{storage}-payload"}}
    context = Context(spark, store, load(storage=storage, window_s=60, endpoints=payload), lambda: now)
    for job in jobs:
        print(job, flush=True)
        try:
            if job == "judge":
                run_judge(context)
            else:
                JOBS[job](context)
        except TransientError as error:
            print(f"again: {error}", flush=True)
    print("done", flush=True)
    spark.stop()
