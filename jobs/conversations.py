"""Conversations: changed requests that name one -> `conversations`, one row each with how it went; these -> counts by version.

What an outcome means, and what it cannot see, is in docs/explanation/agents.md. A conversation is worked out anew, whole, when one of its requests
changes, when feedback on one comes, and when nothing came for so long that it is over.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.scored import about
from lastgood.jobs.touched import Measure, Touched, recompute, window_start
from lastgood.jobs.traces import STEP_KEY, held, step_key
from lastgood.record.words import counted
from lastgood.tables.runs import Context, Run, append, increment, merge

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from lastgood.settings import Policy

JOB, SCORE = "conversations", "conversation"
KEY = ["endpoint", "conversation_id"]
KNOWN = timedelta(days=35)
"""How far back the requests of a conversation are looked for."""
MOST_REQUESTS = 500
"""An id that stands on more is none of a conversation: a constant, or a name of all that one program asks."""
LEAST_CHARS = 12
"""A shorter question ("yes", "go on") may be asked again for good reasons."""
SEVERAL = "*"
"""Version of a conversation that several versions served: it is no version's outcome."""
RESULT = (
    "model_version",
    "window_start",
    "started_at",
    "last_at",
    "last_request",
    "requests",
    "failed",
    "closed",
    "abandoned",
    "repeated",
    "escalated",
)
"""Columns of `conversations` that are worked out."""


def _touched(ctx: Context, changes: "DataFrame", told: "DataFrame | None") -> "DataFrame":
    """Conversations that have to be worked out: those of changed requests, those on which feedback came that may escalate, those that may be over."""
    from pyspark.sql import functions as f

    ids = changes.where("conversation_id IS NOT NULL").select(*KEY)
    names = {name for policy in _policies(ctx).values() for name in policy.escalation_feedback}
    if told is not None and names:
        asked = _recent(ctx).where("conversation_id IS NOT NULL").select(*KEY, "request_id", "trace_id")
        ids = ids.unionByName(about(told.where(f.col("name").isin(sorted(names))), asked).select(*KEY))
    over = f.col("last_at") < f.lit(ctx.clock() - timedelta(seconds=ctx.settings.conversation_idle_s))
    due = ctx.store.read(ctx.spark, tables.CONVERSATIONS).where(~f.col("closed") & over).select(*KEY)
    return ids.unionByName(due).distinct()


def _policies(ctx: Context) -> dict[str, "Policy"]:
    """Endpoint -> its policy; '' for the others."""
    return {"": ctx.settings.default.policy} | {name: each.policy for name, each in ctx.settings.endpoints.items()}


def _recent(ctx: Context) -> "DataFrame":
    from pyspark.sql import functions as f

    return ctx.store.read(ctx.spark, tables.REQUESTS).where(f.col("requested_at") >= f.lit(ctx.clock() - KNOWN))


def _named(ctx: Context, setting: str, column: str) -> "Column":
    """Whether a column is one of the names that a setting of the endpoint's policy has."""
    from pyspark.sql import functions as f

    policies = _policies(ctx)
    holds = ~f.col("endpoint").isin(list(policies)) & f.col(column).isin(list(getattr(policies[""], setting)))
    for name, policy in policies.items():
        if name:
            holds = holds | ((f.col("endpoint") == name) & f.col(column).isin(list(getattr(policy, setting))))
    return holds


def _escalated(ctx: Context, requests: "DataFrame") -> "DataFrame":
    """(endpoint, request_id) of requests that a person was asked to take over: by a tool, or by feedback, that the policy names."""
    from pyspark.sql import functions as f

    since = f.lit(ctx.clock() - KNOWN)
    ids = requests.select("endpoint", "request_id", "trace_id")
    steps = ctx.store.read(ctx.spark, tables.STEPS).where((f.col("started_at") >= since) & (f.col("kind") == "tool"))
    steps = steps.where(_named(ctx, "escalation_tools", "name")).select(*step_key())
    by_tool = (
        requests.select(*step_key(), "request_id").join(steps, STEP_KEY, "left_semi").select("endpoint", "request_id")
    )
    reports = about(ctx.store.read(ctx.spark, tables.SCORES).where(f.col("received_at") >= since), ids)
    reports = reports.where(_named(ctx, "escalation_feedback", "name")).groupBy("endpoint", "request_id", "name")
    newest = f.struct(f.coalesce("at", "scored_at"), "scored_at", "value").alias(
        "newest"
    )  # the newest holds: what is withdrawn has no value
    by_feedback = reports.agg(f.max(newest).alias("newest")).where("newest.value > 0").select("endpoint", "request_id")
    return by_tool.unionByName(by_feedback).distinct().withColumn("escalated", f.lit(True))


def _asked_again(requests: "DataFrame") -> "DataFrame":
    """Requests with `again`: whether one asks what an earlier one of its conversation asked and was answered; null where its text is not known."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    words = f.trim(f.regexp_replace(f.lower("input"), r"[^\p{L}\p{N}]+", " "))
    question = f.when(f.length(words) >= LEAST_CHARS, f.sha2(words, 256))
    earlier = (
        Window.partitionBy(*KEY, "question")
        .orderBy("requested_at", "request_id")
        .rowsBetween(Window.unboundedPreceding, -1)
    )
    answered = f.max(f.col("error_code").isNull()).over(earlier)
    again = f.when(f.col("question").isNotNull(), f.coalesce(answered, f.lit(False))).otherwise(False)
    return requests.withColumn("question", question).withColumn("again", f.when(f.col("input").isNotNull(), again))


def worked_out(ctx: Context, ids: "DataFrame") -> "DataFrame":
    """All requests of these conversations -> KEY and RESULT."""
    from pyspark.sql import functions as f

    requests = _recent(ctx).join(ids, KEY, "left_semi")
    marked = _asked_again(requests).join(_escalated(ctx, requests), ["endpoint", "request_id"], "left")
    ended = f.timestamp_micros(
        f.unix_micros("requested_at") + f.round(f.coalesce("latency_ms", f.lit(0.0)) * 1000).cast("bigint")
    )
    newest = f.struct("requested_at", "request_id", "error_code")
    version = f.coalesce("model_version", f.lit("?"))
    made = marked.groupBy(*KEY).agg(
        f.when(f.min(version) == f.max(version), f.min(version)).otherwise(SEVERAL).alias("model_version"),
        f.min("requested_at").alias("started_at"), f.max(ended).alias("last_at"), f.max(newest).alias("newest"),
        f.count("*").alias("requests"), f.count("error_code").alias("failed"), f.max("again").alias("repeated"),
        f.coalesce(f.max("escalated"), f.lit(False)).alias("escalated"),
    )  # fmt: skip
    over = f.col("last_at") < f.lit(ctx.clock() - timedelta(seconds=ctx.settings.conversation_idle_s))
    made = made.withColumns({
        "closed": over, "abandoned": f.when(over, f.col("newest.error_code").isNotNull()), "last_request": f.col("newest.request_id"),
        "window_start": window_start(ctx.settings.window_s, "newest.requested_at"),
    })  # fmt: skip
    return made.select(*KEY, *RESULT)


def _score(ctx: Context, made: "DataFrame") -> "DataFrame":
    """Rows with `scored_at`: conversations that are over, of one version, at endpoints whose policy judges them, are scored once, for good."""
    from pyspark.sql import functions as f

    judging = sorted(name for name, policy in _policies(ctx).items() if policy.conversations == "judged")
    ours = f.col("endpoint").isin(judging)
    if "" in judging:
        ours = ours | ~f.col("endpoint").isin(list(_policies(ctx)))
    known = ctx.store.read(ctx.spark, tables.CONVERSATIONS).select(*KEY, "scored_at")
    rows = made.join(known, KEY, "left")
    due = ours & f.col("closed") & f.col("scored_at").isNull() & ~f.col("model_version").isin(SEVERAL, "?")
    rows = held(
        ctx,
        rows.withColumn("due", due).withColumn(
            "scored_at", f.when(due, f.lit(ctx.clock())).otherwise(f.col("scored_at"))
        ),
    )
    bad = f.col("abandoned") | f.coalesce("repeated", f.lit(False)) | f.col("escalated")
    told = {
        "request_id": f.col("last_request"), "name": f.lit(SCORE), "value": f.when(bad, 0.0).otherwise(1.0), "source": f.lit(JOB),
        "at": f.col("scored_at"), "received_at": f.col("scored_at"), "endpoint": f.col("endpoint"),
    }  # fmt: skip
    new = rows.where("due")
    if judging and not new.isEmpty():
        columns = (told.get(each.name, f.lit(None).cast(each.type)).alias(each.name) for each in tables.SCORES.fields)
        append(ctx, new.select(*columns), tables.SCORES)
    return rows.drop("due")


def _follow(ctx: Context) -> Run | None:
    """Bring `conversations` up to date; None where nothing changed and nothing is over."""
    from pyspark.sql import functions as f

    with increment(ctx, JOB, tables.REQUESTS) as changed, increment(ctx, JOB, tables.SCORES, "received_at") as told:
        nothing = ctx.spark.createDataFrame([], "endpoint string, conversation_id string")
        ids = held(ctx, _touched(ctx, changed[0] if changed else nothing, told[0] if told else None))
        run = changed[1] if changed else None
        if ids.isEmpty():
            return run
        asked = _recent(ctx).join(ids, KEY, "left_semi").groupBy(*KEY).count()
        endless = held(ctx, asked.where(f.col("count") > MOST_REQUESTS).select(*KEY))
        if run and (number := endless.count()):
            run.note = (
                f"{counted(number, 'id')} of conversations on more than {MOST_REQUESTS} requests: counted as none"
            )
        made = _score(ctx, worked_out(ctx, ids.join(endless, KEY, "left_anti"))).withColumn("gone", f.lit(False))
        gone = ids.join(made, KEY, "left_anti").withColumn("gone", f.lit(True))
        rows = made.unionByName(gone, allowMissingColumns=True)
        # A text that is no longer kept does not undo what was seen while it was.
        sets = {name: f"s.{name}" for name in (*RESULT, "scored_at")} | {"repeated": "coalesce(s.repeated, t.repeated)"}
        same = " AND ".join(f"t.{name} <=> {value}" for name, value in sets.items())
        clauses = f"WHEN MATCHED AND s.gone THEN DELETE WHEN MATCHED AND NOT ({same}) THEN UPDATE SET "
        clauses += ", ".join(f"{name} = {value}" for name, value in sets.items())
        columns = ", ".join(tables.CONVERSATIONS.columns)
        clauses += f" WHEN NOT MATCHED AND NOT s.gone THEN INSERT ({columns}) VALUES ({', '.join(f's.{name}' for name in tables.CONVERSATIONS.columns)})"
        written = merge(ctx, rows, tables.CONVERSATIONS, " AND ".join(f"t.{name} = s.{name}" for name in KEY), clauses)
        if run:
            run.rows_out += written
        return run


def _windows(_: Context, rows: "DataFrame", __: Touched) -> "DataFrame":
    """Rows of `conversations` of whole windows -> rows of `conversation_windows`."""
    from pyspark.sql import functions as f

    def having(condition: str) -> "Column":
        return f.coalesce(f.sum(f.when(f.expr(condition), 1.0)), f.lit(0.0))

    return rows.groupBy("endpoint", "model_version", "window_start").agg(
        f.count("*").cast("double").alias("conversations"), having("closed").alias("closed"), having("abandoned").alias("abandoned"),
        having("repeated").alias("repeated"), having("repeated IS NOT NULL").alias("repeated_known"), having("escalated").alias("escalated"),
        f.sum("requests").cast("double").alias("requests"),
    )  # fmt: skip


WINDOWS = Measure("conversation windows", tables.CONVERSATION_WINDOWS, _windows, tables.CONVERSATIONS, "window_start")


def conversations(ctx: Context) -> Run | None:
    """Bring conversations and their counts by version up to date with requests, feedback and the clock."""
    run = _follow(ctx)
    recompute(ctx, WINDOWS)
    return run
