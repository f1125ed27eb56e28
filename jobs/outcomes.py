"""Outcomes: scores and labels that came later -> attributes of the requests they are about, so that `quality` is counted anew.

A score NAME becomes `outcome.NAME`. A report named `label` or `label.NAME` says what the answer should have been: compared with the output
it gives `outcome.correct`; for yes/no labels also `outcome.precision` (where yes was answered) and `outcome.recall` (where yes was
right), whose means are precision and recall; for numbers `label.error`, the absolute error. `quality` holds, per window, how many
answers have each and their sums: the share labelled is `labelled` / `answers`. A report without value and label withdraws what was reported
before. The judge takes scores from `scores` by when they arrived (jobs.evidence), so that what was judged stays: these attributes are not
evidence a second time.
"""

import math
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.scored import about
from lastgood.tables.runs import Context, Run, increment, merge

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

LATEST_DAYS = 35
"""Scores older than this no longer wait for their request."""
YES, NO = ("1", "1.0", "true", "yes", "positive"), ("0", "0.0", "false", "no", "negative")
CHANGED = "t.attributes IS NULL OR exists(map_entries(s.reported), e -> NOT (t.attributes[e.key] <=> e.value))"
SET = "attributes = map_concat(map_filter(coalesce(t.attributes, map()), (k, v) -> NOT map_contains_key(s.reported, k)), s.reported)"


def _matched(scores: "DataFrame", requests: "DataFrame") -> "DataFrame":
    """The newest score of each request and name: by when it was evaluated (not known: received), then by when it was received."""
    from pyspark.sql import functions as f

    asked = requests.select("endpoint", "request_id", "trace_id", "output")
    newest = f.struct(f.coalesce("at", "scored_at").alias("at"), "scored_at", "value", "label")
    grouped = about(scores.where("name IS NOT NULL"), asked).groupBy("endpoint", "request_id", "name")
    return grouped.agg(f.max(newest).alias("newest"), f.first("output").alias("output"))


def _said(answer: "Column") -> "Column":
    """The first prediction of an output such as `[1]`, `["yes"]` or `yes`, in lower case."""
    from pyspark.sql import functions as f

    return f.lower(f.trim(f.regexp_replace(f.regexp_replace(answer, r"^\s*\[\s*", ""), r"""^"|"?\s*[,\]].*$|"$""", "")))


def _attributes(matched: "DataFrame") -> "DataFrame":
    """(endpoint, request_id, found): the attributes to set."""
    from pyspark.sql import functions as f

    value = f.col("newest.value")
    truth = f.lower(f.trim(f.coalesce("newest.label", value.cast("string"))))
    says, is_label = _said(f.col("output")), f.col("name").startswith("label")
    nothing = ~is_label & value.isNull() & f.col("newest.label").isNull()
    known = is_label & truth.isNotNull() & says.isNotNull()
    a, b = truth.try_cast("double"), says.try_cast("double")
    same = f.coalesce(a == b, truth == says)
    binary = truth.isin(*YES, *NO) & says.isin(*YES, *NO)
    right = f.when(truth.isin(*YES) == says.isin(*YES), "1").otherwise("0")
    entries = {
        "plain": f.when(~is_label & (f.abs(value) < math.inf), _pair(f.concat(f.lit("outcome."), "name"), value.cast("string"))),
        "withdrawn": f.when(nothing, _pair(f.concat(f.lit("outcome."), "name"), f.lit(None).cast("string"))),
        "truth": f.when(is_label & truth.isNotNull(), _pair("label.truth", truth)),
        "correct": f.when(known, _pair("outcome.correct", f.when(binary, right).when(same, "1").otherwise("0"))),
        "precision": f.when(known & binary & says.isin(*YES), _pair("outcome.precision", right)),
        "recall": f.when(known & binary & truth.isin(*YES), _pair("outcome.recall", right)),
        "error": f.when(known & ~binary & (f.abs(a - b) < math.inf), _pair("label.error", f.abs(a - b).cast("string"))),
    }  # fmt: skip
    listed = matched.select("endpoint", "request_id", f.explode(f.array(*entries.values())).alias("entry")).where(
        "entry IS NOT NULL"
    )
    once = listed.groupBy("endpoint", "request_id", "entry.key").agg(f.max("entry.value").alias("value"))
    pairs = f.map_from_entries(f.array_sort(f.collect_list(f.struct("key", "value")))).alias("reported")
    return once.groupBy("endpoint", "request_id").agg(pairs)


def _pair(key: "str | Column", value: "Column") -> "Column":
    from pyspark.sql import functions as f

    return f.struct((f.lit(key) if isinstance(key, str) else key).alias("key"), value.alias("value"))


def outcomes(ctx: Context) -> Run | None:
    """Put new scores on their requests, and scores that waited on requests that have come since; None when nothing is new."""
    from pyspark.sql import functions as f

    runs = []
    for source, other in ((tables.SCORES, tables.REQUESTS), (tables.REQUESTS, tables.SCORES)):
        with increment(ctx, "outcomes", source, "received_at") as changed:
            if changed is None:
                continue
            changes, run = changed
            new = changes.where(f.col("_change_type").isin("insert", "update_postimage"))
            rest = ctx.store.read(ctx.spark, other)
            if other is tables.SCORES:
                rest = rest.where(f.col("received_at") >= f.lit(ctx.clock()) - f.expr(f"INTERVAL {LATEST_DAYS} DAYS"))
            scores, requests = (new, rest) if source is tables.SCORES else (rest, new)
            run.rows_in = new.count()
            attributes = _attributes(_matched(scores, requests))
            on = "t.endpoint = s.endpoint AND t.request_id = s.request_id"
            run.rows_out = merge(
                ctx, attributes, tables.REQUESTS, on, f"WHEN MATCHED AND ({CHANGED}) THEN UPDATE SET {SET}"
            )
            runs.append(run)
    return runs[0] if runs else None
