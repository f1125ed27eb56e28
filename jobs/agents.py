"""Agents: changed requests that are runs -> `agent_runs`; these -> counts by agent version (`agent_windows`) and by tool (`tool_windows`).

A run is counted in the window in which it began, and so are its tool calls. What comes late changes its request, and by it the windows.
"""

import math
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.cost import by_token, paid, priced_by
from lastgood.jobs.touched import Measure, Touched, recompute
from lastgood.jobs.traces import STEP_KEY, step_key
from lastgood.record.agents import LOOP
from lastgood.record.windows import GROWTH, ZERO
from lastgood.settings.prices import known_prices
from lastgood.tables.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

DAY_S = 86_400
"""A step begins at most so much later than its run."""
UNKNOWN = "?"


def _bucket(name: str) -> "Column":
    """windows.bucket of a column; null where that is."""
    from pyspark.sql import functions as f

    value = f.col(name)
    index = f.when(value > 0, f.floor(f.log(value) / math.log(GROWTH))).otherwise(ZERO)
    return f.when(value.isNotNull(), index).cast("int")


def _counted(rows: "DataFrame", key: list[str], by: str, alias: str) -> "DataFrame":
    """Weights by the values of a column, as a map, for each key."""
    from pyspark.sql import functions as f

    each = rows.where(f.col(by).isNotNull()).groupBy(*key, by).agg(f.sum("weight").alias("_n"))
    return each.groupBy(*key).agg(f.map_from_entries(f.collect_list(f.struct(by, "_n"))).alias(alias))


def _runs(ctx: Context, rows: "DataFrame", _: Touched) -> "DataFrame":
    """Requests of whole windows -> rows of `agent_runs`."""
    from pyspark.sql import functions as f

    def told(name: str) -> "Column":
        return f.col("attributes")[f"run.{name}"]

    price = known_prices(ctx.settings.prices)
    of_runs = rows.where("attributes['run.tools'] IS NOT NULL").withColumn("named", priced_by(ctx))
    priced = of_runs.join(paid(ctx, price), "named")
    token_known = f.col("tokens_in").isNotNull() | f.col("tokens_out").isNotNull()
    money = f.when(
        (f.col("mode") == "pay_per_token") & token_known, f.nullif(by_token(), f.lit(float("nan"))) * price.dbu
    )
    longest = told("longest").try_cast("bigint")
    share = f.when(
        f.col("latency_ms") > 0, f.least(f.lit(1.0), told("tool_ms").try_cast("double") / f.col("latency_ms"))
    )
    made = {
        "model_version": f.coalesce("model_version", f.lit(UNKNOWN)), "agent": f.coalesce(told("agent"), f.lit(UNKNOWN)),
        "started_at": f.col("requested_at"), "model_calls": f.col("calls"), "tool_calls": told("tools").try_cast("bigint"),
        "tool_failures": told("tool_failures").try_cast("bigint"), "longest_repeat": longest, "looped": longest >= LOOP,
        "step_limit": f.coalesce(told("step_limit") == "true", f.lit(False)), "handoffs": told("handoffs").try_cast("bigint"),
        "money": money, "tool_share": share, "weight": f.coalesce("weight", f.lit(1.0)),
    }  # fmt: skip
    return priced.select(*(made.get(name, f.col(name)).alias(name) for name in tables.AGENT_RUNS.columns))


def _agent_windows(_: Context, runs: "DataFrame", __: Touched) -> "DataFrame":
    """Rows of `agent_runs` of whole windows -> rows of `agent_windows`."""
    from pyspark.sql import functions as f

    key = ["endpoint", "model_version", "agent", "window_start"]

    def weighted(value: "Column") -> "Column":
        return f.coalesce(f.sum(value * f.col("weight")), f.lit(0.0))

    def having(condition: str) -> "Column":
        return f.coalesce(f.sum(f.when(f.expr(condition), f.col("weight"))), f.lit(0.0))

    sums = ("handoffs", "model_calls", "tool_calls", "tool_failures", "tokens_in", "tokens_out", "tokens_cached")
    made = runs.groupBy(*key).agg(
        f.count("*").alias("rows"), f.sum("weight").alias("runs"), having("error_code IS NOT NULL").alias("failed"),
        having("looped").alias("looped"), having("looped IS NOT NULL").alias("loops_known"), having("step_limit").alias("step_limited"),
        having("tool_failures > 0").alias("tools_failed"), *(weighted(f.col(name)).alias(name) for name in sums),
        f.sum(f.col("money") * f.col("weight")).alias("money"), having("money IS NOT NULL").alias("priced"),
        weighted(f.col("latency_ms")).alias("busy_ms"), weighted(f.col("latency_ms") * f.col("tool_share")).alias("tool_ms"),
    )  # fmt: skip
    latency = _counted(runs.withColumn("_bucket", _bucket("latency_ms")), key, "_bucket", "latency")
    return made.join(latency, key, "left")


def _tool_windows(ctx: Context, runs: "DataFrame", which: Touched) -> "DataFrame":
    """Rows of `agent_runs` of whole windows, with their steps -> rows of `tool_windows`."""
    from pyspark.sql import functions as f

    steps = ctx.store.read(ctx.spark, tables.STEPS).where(which.wider(DAY_S).where("started_at")).where("kind = 'tool'")
    steps = steps.select(
        *step_key(), f.coalesce("name", f.lit(UNKNOWN)).alias("tool"), f.col("error_code").alias("code"), _bucket("latency_ms").alias("_bucket"),
    )  # fmt: skip
    calls = steps.join(runs.select(*step_key(), "request_id", "model_version", "window_start", "weight"), STEP_KEY)
    key = ["endpoint", "model_version", "tool", "window_start"]
    per_run = calls.groupBy(*key, "request_id", "weight").agg(f.count("*").alias("n"), f.count("code").alias("bad"))
    made = per_run.groupBy(*key).agg(
        f.sum(f.col("n") * f.col("weight")).alias("calls"), f.sum(f.col("bad") * f.col("weight")).alias("errors"),
        f.sum("weight").alias("runs"), f.sum(f.when(f.col("bad") > 0, f.col("weight")).otherwise(0.0)).alias("runs_failed"),
    )  # fmt: skip
    made = made.join(_counted(calls, key, "_bucket", "latency"), key, "left")
    return made.join(_counted(calls, key, "code", "codes"), key, "left")


RUNS = Measure("agents", tables.AGENT_RUNS, _runs, only="attributes['run.tools'] IS NOT NULL")
WINDOWS = Measure("agent windows", tables.AGENT_WINDOWS, _agent_windows, tables.AGENT_RUNS, "window_start")
TOOLS = Measure(
    "tool windows", tables.TOOL_WINDOWS, _tool_windows, tables.AGENT_RUNS, "window_start", beside=(tables.STEPS,)
)


def agents(ctx: Context) -> Run | None:
    """Bring the runs of agents and their windows up to date with `requests`; the run of the first."""
    run = recompute(ctx, RUNS)
    recompute(ctx, WINDOWS)
    recompute(ctx, TOOLS)
    return run
