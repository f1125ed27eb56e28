"""Candidates of endpoints whose versions differ by more than the registered one -> which content each was asked with (see record.contents).

A content is a version of its own once enough requests had it: a prompt that differs in every request would make as many versions as requests.
What is too rare stays with the served version, and is counted under '?' in the ledger `contents`.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.jobs.columns import by_endpoint
from lastgood.judge.edits import replaced
from lastgood.record import contents, telemetry
from lastgood.record.telemetry import spark_ddl
from lastgood.record.windows import utc
from lastgood.settings import EndpointSettings
from lastgood.tables.edits import RARE, as_change
from lastgood.tables.runs import Context, append, merge

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

LEAST = 20
"""Requests, of a run or of a day, that make a content a version of its own."""
MOST_A_DAY = 20
"""So many contents of an endpoint are admitted in a day; a template that is filled in makes more."""
LOOKED_AT = 20
"""Contents of an endpoint that are noted in a run, the most frequent ones."""
DAY, LATE = timedelta(days=1), timedelta(days=2)


def _hash(own: EndpointSettings) -> "Column | None":
    """The content of a candidate, null where nothing is known of it. Where bodies are logged they alone tell it, for spans may tell less."""
    from pyspark.sql import functions as f

    if not own.versions_by:
        return None
    digests = [f.col("attributes")[contents.PREFIX + part] for part in own.versions_by]
    named = f.concat_ws(
        "|",
        *(
            f.concat(f.lit(f"{part}="), f.coalesce(d, f.lit("")))
            for part, d in zip(own.versions_by, digests, strict=True)
        ),
    )
    telling = f.coalesce(*digests).isNotNull()
    if own.payload_table:
        telling &= ~f.col("source").isin(telemetry.of_kind(telemetry.SPAN))
    return f.when(telling, f.substring(f.sha2(named, 256), 1, contents.HASH_CHARS))


def told_apart(ctx: Context, good: "DataFrame") -> "DataFrame":
    """Candidates with the attribute CONTENT where their content is a version of its own, and that version; without the texts. New contents are noted."""
    from pyspark.sql import functions as f

    if not ctx.settings.tells_contents:
        return good
    marked = good.withColumn("_content", by_endpoint(ctx.settings, _hash))
    admitted = _noted(ctx, marked)
    marked = marked.withColumn("_content", f.when(_among(admitted), f.col("_content")))
    plain = f.map_filter("attributes", lambda key, _: ~key.isin(contents.TEXTS, contents.CONTENT))
    added = f.create_map(f.lit(contents.CONTENT), f.col("_content"))
    both = f.when(f.col("_content").isNull(), plain).otherwise(f.map_concat(plain, added))
    return marked.withColumns(
        {"attributes": both, "model_version": _effective(f.col("model_version"), f.col("_content"))}
    ).drop("_content")


def _among(admitted: set[tuple[str, str]]) -> "Column":
    """Whether a candidate's content is one of these (endpoint, content)."""
    from pyspark.sql import functions as f

    keys = [f.struct(f.lit(endpoint), f.lit(content)) for endpoint, content in sorted(admitted)]
    return f.struct("endpoint", "_content").isin(keys) if keys else f.lit(False)


def _effective(version: "Column", content: "Column") -> "Column":
    from pyspark.sql import functions as f

    return f.when(content.isNotNull(), f.concat(version, f.lit(contents.MARK), content)).otherwise(version)


def composed(ctx: Context) -> int:
    """Give requests whose version and content were told by different sources their effective version; how many."""
    from pyspark.sql import functions as f

    if not ctx.settings.tells_contents:
        return 0
    content = f.col("attributes")[contents.CONTENT]
    rows = ctx.store.read(ctx.spark, tables.REQUESTS).where(f.col("requested_at") >= f.lit(ctx.clock() - LATE))
    rows = rows.where(
        content.isNotNull() & f.col("model_version").isNotNull() & ~f.contains("model_version", f.lit(contents.MARK))
    )
    rows = rows.select(
        "endpoint", "request_id", "requested_at", _effective(f.col("model_version"), content).alias("version")
    )
    if rows.isEmpty():
        return 0
    on = "t.endpoint = s.endpoint AND t.request_id = s.request_id AND t.requested_at = s.requested_at"
    return merge(ctx, rows, tables.REQUESTS, on, "WHEN MATCHED THEN UPDATE SET model_version = s.version")


def _noted(ctx: Context, marked: "DataFrame") -> set[tuple[str, str]]:
    """The (endpoint, content) that are versions of their own; those that become one now, and those that are too rare, are written to the ledger."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    ledger = [
        row.asDict() for row in ctx.store.read(ctx.spark, tables.CONTENTS).where(f"content != '{RARE}'").collect()
    ]
    admitted = {(row["endpoint"], row["content"]) for row in ledger if row["admitted"]}
    attributes, first = f.col("attributes"), "requested_at"
    parts = f.map_filter("attributes", lambda key, _: key.isin(list(contents.DIGESTS)))
    unknown = marked.where(f.col("_content").isNotNull() & ~_among(admitted))
    grouped = unknown.groupBy("endpoint", f.col("_content").alias("content")).agg(
        f.count("*").alias("requests"), f.min(first).alias("first_at"), f.min_by(f.coalesce("model_version", f.lit("?")), first).alias("version"),
        f.min_by(parts, first).alias("parts"), f.max(attributes[contents.TEXTS]).alias("texts"),
        f.min_by(f.coalesce(attributes[contents.WHO], "team"), first).alias("who"),
    )  # fmt: skip
    place = f.row_number().over(Window.partitionBy("endpoint").orderBy(f.desc("requests"), "content"))
    total = f.sum("requests").over(Window.partitionBy("endpoint"))
    rows = grouped.withColumns({"total": total, "place": place}).where(f.col("place") <= LOOKED_AT)
    seen = [row.asDict() for row in rows.collect()]
    made: list[dict[str, Any]] = []
    for endpoint in sorted({row["endpoint"] for row in seen}):
        own = [row for row in seen if row["endpoint"] == endpoint]
        made += _admission(ctx, endpoint, own, [row for row in ledger if row["endpoint"] == endpoint])
    if made:
        rows_made = [tuple(row[name] for name in tables.CONTENTS.columns) for row in made]
        append(ctx, ctx.spark.createDataFrame(rows_made, spark_ddl(tables.CONTENTS.fields)), tables.CONTENTS)
    return admitted | {(row["endpoint"], row["content"]) for row in made if row["admitted"]}


def _admission(
    ctx: Context, endpoint: str, seen: Sequence[dict[str, Any]], ledger: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of the ledger for contents that are not in it yet."""
    now = ctx.clock()
    changes = {row["content"]: as_change(row) for row in ledger if row["admitted"]}
    room = MOST_A_DAY - len({row["content"] for row in ledger if row["admitted"] and utc(row["noted_at"]) > now - DAY})
    lately: dict[str, list[dict[str, Any]]] = {}
    for row in ledger:
        if not row["admitted"] and utc(row["noted_at"]) > now - DAY:
            lately.setdefault(row["content"], []).append(row)
    made, rare = [], max((row["total"] for row in seen), default=0) - sum(row["requests"] for row in seen)
    for row in sorted(
        (row for row in seen if row["content"] not in changes), key=lambda row: (row["first_at"], row["content"])
    ):
        before = lately.get(row["content"], ())
        enough = row["requests"] + sum(earlier["requests"] for earlier in before) >= LEAST and room > 0
        first_at = min([utc(row["first_at"]), *(utc(earlier["first_at"]) for earlier in before)])
        rare += 0 if enough else row["requests"]
        texts = contents.texts_of(row["texts"]) if enough else {}
        digests = {name.removeprefix(contents.PREFIX): value for name, value in row["parts"].items()}
        new = {
            "endpoint": endpoint, "content": row["content"], "model_version": contents.base(row["version"]), "first_at": first_at,
            "requests": row["requests"], "admitted": enough, "replaces": None, "who": row["who"], "parts": digests, "texts": texts, "noted_at": now,
        }  # fmt: skip
        if enough:
            room -= 1
            new["replaces"] = replaced(as_change(new), changes.values())
            changes[row["content"]] = as_change(new)
        made.append(new)
    if rare:
        made.append(dict.fromkeys(tables.CONTENTS.columns) | {
            "endpoint": endpoint, "content": RARE, "model_version": RARE, "first_at": now, "requests": rare, "admitted": False, "noted_at": now,
        })  # fmt: skip
    return made
