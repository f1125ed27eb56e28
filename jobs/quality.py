"""Output quality without a model: what answers look like, counted per window.

A successful answer is bad when it is empty, a refusal, repetitive, cut by length, leaks template tokens, or echoes the
prompt. No flag is proof; the judge compares shares of the new version with the prior version's on the same strata.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

REFUSAL = (
    r"(?i)^\W*(i'?m|i am|we are) (really |very )?(sorry|unable|afraid|not able)\b"
    r"|\bas an? (ai|language model)\b|\bi can(no|')t (help|assist|answer)"
)
TEMPLATE = r"<\|[a-z_]+\|>|\[/?INST\]|\{\{[^}]*\}\}|<unk>"
MAX_TEXT = 20_000


def flags() -> dict[str, "Column"]:
    """Flag -> whether a successful answer has it (boolean columns over `output`, `input`, `finish_reason`)."""
    from pyspark.sql import functions as f

    output = f.substring(f.coalesce("output", f.lit("")), 1, MAX_TEXT)
    words = f.split(f.lower(f.trim(output)), r"\s+")
    distinct = f.size(f.array_distinct(words)) / f.size(words)
    asked = f.trim(f.coalesce("input", f.lit("")))
    return {
        "empty": f.trim(output) == "",
        "refusal": output.rlike(REFUSAL),
        "repetitive": (f.size(words) >= 12) & (distinct < 0.35),
        "truncated": f.coalesce(f.lower("finish_reason") == "length", f.lit(False)),
        "template": output.rlike(TEMPLATE),
        "echo": (f.length(asked) >= 20) & f.startswith(f.trim(output), asked),
    }


def quality_flags(requests: "DataFrame") -> "DataFrame":
    """Keyed requests -> rows of the `quality` table. Only successful requests whose bodies were captured count."""
    from pyspark.sql import functions as f

    key = ["endpoint", "model_version", "stratum", "window_start"]
    marks = flags()
    captured = f.col("error_code").isNull() & f.col("output").isNotNull()
    bad = f.lit(False)
    for mark in marks.values():
        bad = bad | mark
    weight = f.col("weight")
    sums = {"answers": f.sum(weight), "bad": f.sum(f.when(bad, weight).otherwise(0.0))}
    sums |= {name: f.sum(f.when(mark, weight).otherwise(0.0)) for name, mark in marks.items()}
    counted = requests.where(captured).groupBy(*key).agg(*(total.alias(f"q_{name}") for name, total in sums.items()))
    pairs = [part for name in sums for part in (f.lit(name), f.col(f"q_{name}"))]
    return counted.select(*key, f.create_map(*pairs).alias("quality"))
