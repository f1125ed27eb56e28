"""Output quality without a model: what answers look like, counted per window.

A successful answer is bad when it is empty, a refusal, repetitive, cut by length, leaks template tokens, or echoes the
prompt. No flag is proof; the judge compares shares of the new version with the prior version's on the same strata.
"""

from functools import reduce
from operator import add, or_
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

OPENING = r"(?i)^\W*(i'?m|i am|we are) (really |very )?(sorry|unable|afraid|not able)\b"
REFUSAL = r"\bas an? (ai|language model)\b|\bi can(no|')t (help|assist|answer)"
REFUSAL_HINTS = ("an ai", "language model", "i can")
TEMPLATE = r"<\|[a-z_]+\|>|\[/?INST\]|\{\{[^}]*\}\}|<unk>"
TEMPLATE_HINTS = ("<|", "INST]", "{{", "<unk>")
"""Every match of the pattern holds one of its hints: looking for them first is many times cheaper."""
REFUSAL_CHARS, REPETITION_CHARS = 400, 4_000
"""How much of an answer's beginning is looked at: a refusal comes first, and repetition does not wait for page two."""


def _holds(text: "Column", hints: tuple[str, ...]) -> "Column":
    from pyspark.sql import functions as f

    return reduce(or_, (f.contains(text, f.lit(one)) for one in hints))


def flags() -> dict[str, "Column"]:
    """Flag -> whether a successful answer has it (boolean columns over `output`, `input`, `finish_reason`)."""
    from pyspark.sql import functions as f

    output = f.trim("output")
    words = f.split(f.lower(f.substring(output, 1, REPETITION_CHARS)), r"\s+")
    distinct = f.size(f.array_distinct(words)) / f.size(words)
    asked = f.trim(f.coalesce("input", f.lit("")))
    beginning = f.lower(f.substring(output, 1, REFUSAL_CHARS))
    return {
        "empty": output == "",
        "refusal": f.substring(output, 1, 80).rlike(OPENING)
        | (_holds(beginning, REFUSAL_HINTS) & beginning.rlike(REFUSAL)),
        "repetitive": (f.size(words) >= 12) & (distinct < 0.35),
        "truncated": f.coalesce(f.lower("finish_reason") == "length", f.lit(False)),
        "template": _holds(f.col("output"), TEMPLATE_HINTS) & f.col("output").rlike(TEMPLATE),
        "echo": (f.length(asked) >= 20) & f.startswith(output, asked),
    }


def quality_flags(requests: "DataFrame") -> "DataFrame":
    """Keyed requests -> rows of the `quality` table. Only successful requests whose bodies were captured count.

    An answer's flags are one bit each, so that no flag is worked out twice and few rows are left to be summed by flag.
    """
    from pyspark.sql import functions as f

    key = ["endpoint", "model_version", "stratum", "window_start"]
    marks = flags()
    bits = reduce(add, (f.when(mark, 1 << i).otherwise(0) for i, mark in enumerate(marks.values())))
    captured = requests.where(f.col("error_code").isNull() & f.col("output").isNotNull())
    cells = captured.select(*key, "weight", bits.alias("bits")).groupBy(*key, "bits").agg(f.sum("weight").alias("n"))

    def total(which: "Column") -> "Column":
        return f.sum(f.when(which, f.col("n")).otherwise(0.0))

    sums = {"answers": f.sum("n"), "bad": total(f.col("bits") > 0)}
    sums |= {name: total(f.col("bits").bitwiseAND(1 << i) > 0) for i, name in enumerate(marks)}
    pairs = [part for name, value in sums.items() for part in (f.lit(name), value)]
    return cells.groupBy(*key).agg(f.create_map(*pairs).alias("quality"))
