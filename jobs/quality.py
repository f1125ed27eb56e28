"""Output quality without a model: what answers look like, counted per window.

A successful answer is bad when it is empty, a refusal, repetitive, cut by length, leaks template tokens, echoes the prompt, is in another
script than the prompt, is not the JSON that was asked for or lacks its required keys, or (with words given) holds one of them. No flag
is proof; the judge compares shares of the new version with the prior version's on the same strata.
"""

import re
from functools import reduce
from operator import add, or_
from typing import TYPE_CHECKING

from lastgood.jobs.counting import GRAIN
from lastgood.judge.outcomes import OUTCOMES, SPREAD

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

MOST = 1e12
"""Outcomes above this are no measure of anything (and infinite sums would hide the others)."""
OPENING = r"(?i)^\W*(i'?m|i am|we are) (really |very )?(sorry|unable|afraid|not able)\b"
REFUSAL = r"\bas an? (ai|language model)\b|\bi can(no|')t (help|assist|answer)"
REFUSAL_HINTS = ("an ai", "language model", "i can")
TEMPLATE = r"<\|[a-z_]+\|>|\[/?INST\]|\{\{[^}]*\}\}|<unk>"
TEMPLATE_HINTS = ("<|", "INST]", "{{", "<unk>")
"""Every match of the pattern holds one of its hints: looking for them first is many times cheaper."""
REFUSAL_CHARS, REPETITION_CHARS, SCRIPT_CHARS, SCRIPT_LETTERS = 400, 4_000, 200, 20
"""How much of an answer's beginning is looked at: a refusal comes first, and repetition does not wait for page two."""


def _holds(text: "Column", hints: tuple[str, ...]) -> "Column":
    from pyspark.sql import functions as f

    return reduce(or_, (f.contains(text, f.lit(hint)) for hint in hints))


def _latin(text: "Column") -> "Column":
    """Share of Latin letters among the letters of a text's beginning; null where there are few."""
    from pyspark.sql import functions as f

    beginning = f.substring(text, 1, SCRIPT_CHARS)
    letters = f.length(f.regexp_replace(beginning, r"\P{L}", ""))
    return f.when(letters >= SCRIPT_LETTERS, f.length(f.regexp_replace(beginning, r"\P{IsLatin}", "")) / letters)


def _asked_json() -> "dict[str, Column]":
    """Answers that are not what `response_format` (json, or json:key,key) asked for."""
    from pyspark.sql import functions as f

    asked = f.coalesce(f.col("attributes")["response_format"], f.col("attributes")["gen_ai.output.type"], f.lit(""))
    wanted = asked.startswith("json")
    keys = f.json_object_keys("output")
    required = f.split(f.substring_index(asked, ":", -1), ",")
    lacks = f.contains(asked, f.lit(":")) & (f.size(f.array_except(required, keys)) > 0)
    return {
        "not_json": wanted & f.try_parse_json("output").isNull(),
        "not_schema": wanted & f.coalesce(lacks, f.lit(False)),
    }


def flags(banned: tuple[str, ...] = ()) -> dict[str, "Column"]:
    """Flag -> whether a successful answer has it (boolean columns over `output`, `input`, `finish_reason`)."""
    from pyspark.sql import functions as f

    output = f.trim("output")
    words = f.split(f.lower(f.substring(output, 1, REPETITION_CHARS)), r"\s+")
    distinct = f.size(f.array_distinct(words)) / f.size(words)
    asked = f.trim(f.coalesce("input", f.lit("")))
    beginning = f.lower(f.substring(output, 1, REFUSAL_CHARS))
    wide = (f.octet_length(output) > f.length(output)) | (f.octet_length(asked) > f.length(asked))
    listed = r"(?i)\b(" + "|".join(map(re.escape, banned)) + r")\b"
    made = {
        "empty": output == "",
        "refusal": f.substring(output, 1, 80).rlike(OPENING)
        | (_holds(beginning, REFUSAL_HINTS) & beginning.rlike(REFUSAL)),
        "repetitive": (f.size(words) >= 12) & (distinct < 0.35),
        "truncated": f.coalesce(f.lower("finish_reason") == "length", f.lit(False)),
        "template": _holds(f.col("output"), TEMPLATE_HINTS) & f.col("output").rlike(TEMPLATE),
        "echo": (f.length(asked) >= 20) & f.startswith(output, asked),
        "script": f.when(wide, f.coalesce(f.abs(_latin(output) - _latin(asked)) > 0.5, f.lit(False))).otherwise(False),
    }
    return made | _asked_json() | ({"toxic": f.col("output").rlike(listed)} if banned else {})


def _grained(value: "Column") -> "Column":
    """In multiples of 1 / GRAIN; null for what is not finite."""
    from pyspark.sql import functions as f

    return f.when(f.abs(value) < MOST, f.round(value * GRAIN) / GRAIN)


def quality_flags(requests: "DataFrame", words: tuple[str, ...] = ()) -> "DataFrame":
    """Keyed requests -> rows of the `quality` table. Flags are of successful requests whose output was captured (`answers`); labels and
    feedback are counted of all successful requests.

    An answer's flags are one bit each, so that no flag is worked out twice and few rows are left to be summed by flag.
    """
    from pyspark.sql import functions as f

    key = ["endpoint", "model_version", "stratum", "window_start"]
    marks = flags(words)
    bits = reduce(add, (f.when(mark, 1 << i).otherwise(0) for i, mark in enumerate(marks.values())))
    seen = f.col("output").isNotNull()
    told = f.coalesce(
        f.exists(f.map_keys("attributes"), lambda name: name.isin("label.truth", *OUTCOMES.values())), f.lit(False)
    )
    captured = requests.where(f.col("error_code").isNull() & (seen | told))
    weight = f.when(seen, f.round(f.col("weight") * GRAIN) / GRAIN).alias("weight")
    known = {
        name: _grained(f.when(told, f.col("attributes")[key].try_cast("double"))) for name, key in OUTCOMES.items()
    }
    known |= {f"{name}_sq": _grained(known[name] * known[name]) for name in SPREAD}
    truth = f.when(told, f.col("attributes")["label.truth"]).alias("truth")
    cells = (
        captured.select(*key, weight, bits.alias("bits"), truth, *(value.alias(name) for name, value in known.items()))
        .groupBy(*key, "bits")
        .agg(
            f.sum("weight").alias("n"), f.count("truth").alias("labelled"),
            *(f.count(name).alias(f"{name}_n") for name in OUTCOMES), *(f.sum(name).alias(name) for name in known),
        )
    )  # fmt: skip

    def total(which: "Column") -> "Column":
        return f.sum(f.when(which, f.col("n")).otherwise(0.0))

    sums = {"answers": f.sum("n"), "bad": total(f.col("bits") > 0)}
    sums |= {name: total(f.col("bits").bitwiseAND(1 << i) > 0) for i, name in enumerate(marks)}
    sums |= {"labelled": f.sum("labelled")}
    sums |= {each: f.sum(each) for each in (*(f"{name}_n" for name in OUTCOMES), *known)}
    sums = {name: f.coalesce(value.cast("double"), f.lit(0.0)) for name, value in sums.items()}
    pairs = [part for name, value in sums.items() for part in (f.lit(name), value)]
    return cells.groupBy(*key).agg(f.create_map(*pairs).alias("quality"))
