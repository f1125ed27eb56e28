"""Conform: new inbox candidates -> `requests` (one row per request) and `quarantine`. Which span is a request, its whole trace says: `traces`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs import contents, traces
from lastgood.jobs.completeness import known_skews
from lastgood.record import telemetry
from lastgood.tables.entities import named
from lastgood.tables.forgotten import remembered
from lastgood.tables.runs import Context, Run, increment, merge

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

MAX_WEIGHT = 1e9
DAY = timedelta(days=1)
KNOWN = timedelta(days=35)
"""How far back a request is looked for by its key or for its version: longer than the inbox is kept, and no scan of all there is."""
MERGED = "attributes"
"""The field that is merged key by key: a source that says nothing of a key does not take it from another."""


def _both(take: str, same: str) -> str:
    """SQL: the attributes of `s` and `t` key by key: of the better source, and of two that are believed alike the smaller value."""
    s, t = (f"coalesce({side}.attributes, map())" for side in "st")
    over = "map_zip_with({a}, {b}, (k, x, y) -> coalesce(x, y))"
    better = f"CASE WHEN {same} THEN map_zip_with({s}, {t}, (k, x, y) -> least(x, y)) "
    better += f"WHEN {take} THEN {over.format(a=s, b=t)} ELSE {over.format(a=t, b=s)} END"
    return f"CASE WHEN s.attributes IS NULL AND t.attributes IS NULL THEN NULL ELSE {better} END"


NOTE = "clock_skew_ms"
NONE = "~"
"""Provenance of a field that no source gave."""


def on_one_clock(new: "DataFrame", skews: Mapping[str, float]) -> "DataFrame":
    """Candidates with the times of spans moved onto the platform's clock, where the two are known to differ (endpoint -> milliseconds).

    What was added is said in the attribute `clock_skew_ms`; the inbox keeps the time as it was sent.
    """
    from pyspark.sql import functions as f

    if not skews:
        return new
    by_endpoint = f.create_map(*(f.lit(part) for pair in skews.items() for part in pair))
    skew = f.when(f.col("source").isin(telemetry.of_kind(telemetry.SPAN)), by_endpoint[f.col("endpoint")])
    moved = f.timestamp_micros(f.unix_micros("requested_at") + f.round(skew * 1000).cast("bigint"))
    rest = f.map_filter(f.coalesce("attributes", f.create_map().cast("map<string,string>")), lambda key, _: key != NOTE)
    noted = f.map_concat(rest, f.create_map(f.lit(NOTE), skew.cast("string")))
    return new.withColumns({
        "requested_at": f.coalesce(moved, "requested_at"), "attributes": f.when(skew.isNotNull(), noted).otherwise(f.col("attributes")),
    })  # fmt: skip


def rejections() -> dict[str, "Column"]:
    """Reason -> whether a candidate cannot be a record for it; the first that holds is the reason given."""
    from pyspark.sql import functions as f

    at, received = f.col("requested_at"), f.coalesce("received_at", f.current_timestamp())
    ahead = f.unix_seconds(at) - f.unix_seconds(received)  # microseconds of a senseless time overflow
    latency = f.col("latency_ms")
    return {
        "no endpoint": f.coalesce(f.trim("endpoint"), f.lit("")) == "",
        "no request id": f.coalesce(f.trim("request_id"), f.lit("")) == "",
        "no request time": at.isNull(),
        "request time is in the future": ahead > telemetry.MAX_AHEAD_S,
        "request time is too long ago": ahead < -telemetry.MAX_BEHIND_S,
        "latency is negative or not a number": f.isnan(latency) | (latency < 0),
        "latency is above one day": latency > telemetry.MAX_LATENCY_MS,
        "token count is negative": (f.col("tokens_in") < 0) | (f.col("tokens_out") < 0),
        "weight is not a positive number": f.isnan("weight") | (f.col("weight") <= 0) | (f.col("weight") > MAX_WEIGHT),
        "unknown source": ~f.coalesce(f.col("source").isin(list(telemetry.SOURCES)), f.lit(False)),
    }


def why_rejected() -> "Column":
    """The first reason why a candidate cannot be a record, its collector's own first; null when it can."""
    from pyspark.sql import functions as f

    ours = (f.when(failed, why) for why, failed in rejections().items())
    return f.coalesce("reject_reason", *ours)


def _rank(field: telemetry.Field) -> "Column":
    from pyspark.sql import functions as f

    ranks = [f.lit(part) for name in telemetry.SOURCES for part in (name, str(field.rank(name)))]
    return f.create_map(*ranks)[f.col("source")]


def _order(name: str, kind: str) -> "Column":
    """What ties within one rank are broken by, so that the outcome does not depend on the order of arrival."""
    from pyspark.sql import functions as f

    return f.to_json(name) if kind.startswith("map") else f.col(name)


def once(good: "DataFrame") -> "DataFrame":
    """Candidates -> rows of `requests`, one for one: what `fold` makes of a request that only one candidate saw."""
    from pyspark.sql import functions as f

    ranks = [f.when(f.col(field.name).isNull(), NONE).otherwise(_rank(field)) for field in telemetry.VALUES]
    stamps = {"sources": f.array("source"), "provenance": f.concat(*ranks)}
    return good.select(*(stamps.get(name, f.col(name)).alias(name) for name in tables.REQUESTS.columns))


def _by_key(field: telemetry.Field) -> "Column":
    """The candidates' maps as one: each entry from the best source that has its key, of equal ones the smaller."""
    from pyspark.sql import functions as f

    entries = f.transform(
        f.map_entries(field.name),
        lambda e: f.struct(e["key"].alias("k"), _rank(field).alias("r"), e["value"].alias("v")),
    )
    ordered = f.array_sort(f.flatten(f.collect_list(entries)))
    first = f.filter(
        ordered, lambda e, i: (i == 0) | (f.element_at(ordered, f.greatest(i, f.lit(1))).getField("k") != e["k"])
    )
    merged = f.map_from_entries(f.transform(first, lambda e: f.struct(e["k"].alias("key"), e["v"].alias("value"))))
    return f.when(f.count(field.name) > 0, merged).alias(field.name)


def fold(good: "DataFrame") -> "DataFrame":
    """Candidates -> one row per (endpoint, request_id): each field from the best source that gave it."""
    from pyspark.sql import functions as f

    best = []
    for field in telemetry.VALUES:
        key = f.when(
            f.col(field.name).isNotNull(),
            f.struct(_rank(field).alias("r"), _order(field.name, field.type).alias("v")),
        )
        if field.name == MERGED:
            best += [_by_key(field), f.min(key)["r"].alias(f"_{field.name}")]
        elif field.type.startswith("map"):
            best += [
                f.min_by(field.name, key).alias(field.name),
                f.min(key)["r"].alias(f"_{field.name}"),
            ]
        else:
            least = f.min(key)
            best += [least["v"].alias(field.name), least["r"].alias(f"_{field.name}")]
    merged = good.groupBy("endpoint", "request_id").agg(
        *best,
        f.array_sort(f.collect_set("source")).alias("sources"),
        f.min("received_at").alias("received_at"),
    )
    ranks = [f.coalesce(f.col(f"_{field.name}"), f.lit(NONE)) for field in telemetry.VALUES]
    return merged.withColumn("provenance", f.concat(*ranks)).select(*tables.REQUESTS.columns)


def _take(position: int, field: telemetry.Field) -> str:
    """SQL: whether the source row's value is believed over the target's."""
    own, theirs = (
        f"substr(s.provenance, {position}, 1)",
        f"rpad(substr(t.provenance, {position}, 1), 1, '{NONE}')",
    )
    form = "to_json({}.{})" if field.type.startswith("map") else "{}.{}"
    ours, old = form.format("s", field.name), form.format("t", field.name)
    return f"({own} < {theirs} OR ({own} = {theirs} AND {ours} < {old}))"


def merge_clauses() -> str:
    """SQL of the MERGE: field by field the better source; nothing is written where nothing would change."""
    takes = {field.name: _take(i, field) for i, field in enumerate(telemetry.VALUES, 1)}
    place = [field.name for field in telemetry.VALUES].index(MERGED) + 1
    same = f"substr(s.provenance, {place}, 1) = rpad(substr(t.provenance, {place}, 1), 1, '{NONE}')"
    sets = [
        f"{name} = {_both(take, same)}"
        if name == MERGED
        else f"{name} = CASE WHEN {take} THEN s.{name} ELSE t.{name} END"
        for name, take in takes.items()
    ]
    ranks = [
        f"CASE WHEN {take} THEN substr(s.provenance, {i}, 1) ELSE rpad(substr(t.provenance, {i}, 1), 1, '{NONE}') END"
        for i, take in enumerate(takes.values(), 1)
    ]
    sets += [
        "sources = array_sort(array_union(t.sources, s.sources))",
        "received_at = least(t.received_at, s.received_at)",
        f"provenance = concat({', '.join(ranks)})",
    ]
    more = "size(array_except(map_keys(coalesce(s.attributes, map())), map_keys(coalesce(t.attributes, map())))) > 0"
    changed = " OR ".join((*takes.values(), more))
    news = f"size(array_except(s.sources, t.sources)) > 0 OR s.received_at < t.received_at OR {changed}"
    columns = ", ".join(tables.REQUESTS.columns)
    values = ", ".join(f"s.{name}" for name in tables.REQUESTS.columns)
    return f"WHEN MATCHED AND ({news}) THEN UPDATE SET {', '.join(sets)} WHEN NOT MATCHED THEN INSERT ({columns}) VALUES ({values})"


def replacing_clauses() -> str:
    """SQL of the MERGE where some rows put right what fewer parts of a trace had given: `s.whole` takes the place of all there was, and
    `s.gone` is a request no longer."""
    form = {
        field.name: "to_json({0}.{1})" if field.type.startswith("map") else "{0}.{1}" for field in telemetry.REQUEST
    }
    same = " AND ".join(f"{as_.format('s', name)} <=> {as_.format('t', name)}" for name, as_ in form.items())
    sets = ", ".join(f"{name} = s.{name}" for name in tables.REQUESTS.columns)
    whole = f"WHEN MATCHED AND s.gone THEN DELETE WHEN MATCHED AND s.whole AND NOT ({same}) THEN UPDATE SET {sets} "
    ordinary = merge_clauses().replace("WHEN MATCHED AND (", "WHEN MATCHED AND NOT s.whole AND (", 1)
    return whole + ordinary.replace("WHEN NOT MATCHED THEN", "WHEN NOT MATCHED AND NOT s.gone THEN")


def split(new: "DataFrame") -> tuple["DataFrame", "DataFrame"]:
    """(candidates that can be records, the others with `why`)."""
    from pyspark.sql import functions as f

    judged = new.withColumn("why", why_rejected())
    good = judged.where(f.col("why").isNull()).drop("why", "reject_reason", "raw")
    code = f.when(
        (f.col("status_code") >= 400),
        f.concat(f.lit("HTTP_"), f.col("status_code").cast("string")),
    )
    good = good.withColumn(
        "error_code",
        f.coalesce(f.when(f.col("error_code") != "", f.col("error_code")), code),
    )
    return good, judged.where(f.col("why").isNotNull())


def _quarantine(ctx: Context, bad: "DataFrame") -> int:
    from pyspark.sql import functions as f

    told = (name for name in tables.INBOX.columns if name not in ("raw", "reject_reason", "received_at"))
    row = f.to_json(f.struct(*told))  # without the time of arrival: a row that is read again is the same row
    raw = f.coalesce("raw", row.cast("binary"))
    rows = bad.select(
        f.sha2(f.concat_ws("|", "source", "why", f.hex(raw)), 256).alias("quarantine_id"),
        "received_at",
        "source",
        f.col("why").alias("reason"),
        raw.alias("raw"),
    ).dropDuplicates(["quarantine_id"])
    return merge(
        ctx,
        rows,
        tables.QUARANTINE,
        "t.quarantine_id = s.quarantine_id",
        "WHEN NOT MATCHED THEN INSERT *",
    )


def attempts(ctx: Context, new: "DataFrame") -> "DataFrame":
    """Candidates whose request id is one attempt's. Clients use an id again: for a retry, or for a whole conversation.

    The n-th time at which a source saw an id, in the order of arrival, is its n-th attempt, and from the second on its id is `ID#n`: so the
    n-th span and the n-th row of a table are one record, and no record has values of two attempts. A row that is read again has the same
    time, and so the same id. Canonical records are known by the id they bring.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    key = ["endpoint", "request_id"]
    reusing = f.col("source").isin([*telemetry.of_kind(telemetry.SPAN), *telemetry.of_kind(telemetry.TABLE)])
    own = new.where(reusing & f.col("request_id").isNotNull())
    here = own.groupBy(*key, "source").agg(f.countDistinct("requested_at").alias("times"))
    seen = ctx.store.read(ctx.spark, tables.REQUESTS).where(f.col("requested_at") >= f.lit(ctx.clock() - KNOWN))
    seen = seen.select(*key, "sources", f.col("trace_id").alias("_trace"), f.col("requested_at").alias("_at"))
    again = own.select(*key, "source", "trace_id", "requested_at").join(seen, key)
    again = again.where(
        "array_contains(sources, source) AND NOT coalesce(_trace = trace_id AND _at = requested_at, false)"
    )
    doubtful = traces.held(ctx, here.where("times > 1").select(*key).unionByName(again.select(*key)).distinct())
    if doubtful.isEmpty():
        return new
    times = _all_of(ctx, doubtful).where(reusing).groupBy(*key, "source", "requested_at")
    arrival = Window.partitionBy(*key, "source").orderBy("first", "requested_at")
    numbered = (
        times.agg(f.min("received_at").alias("first")).withColumn("n", f.row_number().over(arrival)).drop("first")
    )
    numbered = traces.held(ctx, numbered.where("n > 1"))
    same = " AND ".join(f"c.{name} <=> a.{name}" for name in (*key, "source", "requested_at"))
    joined = new.alias("c").join(f.broadcast(numbered).alias("a"), f.expr(same), "left")
    later = f.expr("CASE WHEN a.n > 1 THEN concat(c.request_id, '#', a.n) ELSE c.request_id END").alias("request_id")
    return joined.select(*(later if name == "request_id" else f.col(f"c.{name}") for name in tables.INBOX.columns))


def _all_of(ctx: Context, keys: "DataFrame") -> "DataFrame":
    """All candidates that the inbox has of these requests, spans of a trace folded."""
    from pyspark.sql import functions as f

    key = ["endpoint", "request_id"]
    inbox = ctx.store.read(ctx.spark, tables.INBOX)
    others = inbox.where(f"NOT coalesce({traces.PARTS}, false)").join(f.broadcast(keys), key, "left_semi")
    named = inbox.where(traces.PARTS).join(f.broadcast(keys.select("request_id")), "request_id", "left_semi")
    parts = traces.of_traces(ctx, named.select("trace_id").distinct(), ctx.clock() - KNOWN)
    whole = traces.folded(parts).join(f.broadcast(keys), key, "left_semi")
    columns = [*key, "source", "requested_at", "received_at"]
    return others.select(*columns).unionByName(whole.select(*columns))


def _near(ctx: Context, good: "DataFrame", first: datetime, last: datetime) -> str:
    """SQL: times between which the requests lie that the candidates may belong to, so that MERGE opens no other files. A key does not depend
    on time: where the same key is known at other times (two clocks days apart), those times are among them."""
    from pyspark.sql import functions as f

    keys = good.select("endpoint", "request_id").distinct()
    known = ctx.store.read(ctx.spark, tables.REQUESTS).select("endpoint", "request_id", "requested_at")
    at = f.col("requested_at")
    outside = known.where(at.between(f.lit(first) - KNOWN, f.lit(last) + KNOWN))
    outside = outside.where((at < f.lit(first) - DAY) | (at > f.lit(last) + DAY))
    same = outside.join(f.broadcast(keys), ["endpoint", "request_id"], "left_semi")
    other = same.agg(f.min("requested_at").alias("a"), f.max("requested_at").alias("z")).collect()[0]
    spans = [(first - DAY, last + DAY)] + ([(other["a"], other["z"])] if other["a"] is not None else [])
    return "(" + " OR ".join(f"t.requested_at BETWEEN timestamp'{a}' AND timestamp'{z}'" for a, z in spans) + ")"


def conform(ctx: Context) -> Run | None:
    """Take in new inbox rows; None when there are none. Safe to repeat and to kill anywhere."""
    run = _conform(ctx)
    resolve(ctx)
    contents.composed(ctx)
    return run


def resolve(ctx: Context) -> int:
    """Give requests whose served entity nobody knew the version that the entities' history now names; how many. Jobs that count them see a
    changed row, and move it from `?` to its version."""
    from pyspark.sql import functions as f

    shared = ctx.settings.sources.entities_table
    own = {endpoint.entities_table for endpoint in ctx.settings.endpoints.values()}
    histories = sorted({name for name in (shared, *own) if name and tables.exists(ctx.spark, name)})
    unknown = ctx.store.read(ctx.spark, tables.REQUESTS).where("model_version IS NULL AND served_entity IS NOT NULL")
    unknown = unknown.where(f.col("requested_at") >= f.lit(ctx.clock() - KNOWN))
    total = 0
    for history in histories:
        rows = unknown.select(
            "endpoint", "request_id", f.col("served_entity").alias("entity"), f.col("requested_at").alias("at")
        )
        known = named(rows, tables.read(ctx.spark, history)).where("known.entity_version IS NOT NULL")
        if not known.isEmpty():
            sets = "model_version = s.known.entity_version, served_entity = coalesce(s.known.served_entity_name, t.served_entity)"
            on = "t.endpoint = s.endpoint AND t.request_id = s.request_id AND t.model_version IS NULL"
            total += merge(ctx, known, tables.REQUESTS, on, f"WHEN MATCHED THEN UPDATE SET {sets}")
    return total + _by_ledger(ctx, unknown)


def _by_ledger(ctx: Context, unknown: "DataFrame") -> int:
    """Give requests that name their served entity the version that the ledger of configurations says it was: of external models, feature specs
    and models paid by token no history names one."""
    from pyspark.sql import functions as f

    if not _unregistered(ctx) or unknown.isEmpty():
        return 0
    ledger = ctx.store.read(ctx.spark, tables.DEPLOYMENTS).where(f.col("model_version") != "")
    history = ledger.select(
        f.concat_ws("/", "endpoint", "served_entity").alias("served_entity_id"), f.col("endpoint").alias("endpoint_name"),
        f.col("served_entity").alias("served_entity_name"), f.col("model_version").alias("entity_version"),
        f.col("observed_at").alias("change_time"),
    )  # fmt: skip
    rows = unknown.select(
        "endpoint",
        "request_id",
        f.concat_ws("/", "endpoint", "served_entity").alias("entity"),
        f.col("requested_at").alias("at"),
    )
    known = named(rows, history).where("known.entity_version IS NOT NULL")
    if known.isEmpty():
        return 0
    on = "t.endpoint = s.endpoint AND t.request_id = s.request_id AND t.model_version IS NULL"
    return merge(ctx, known, tables.REQUESTS, on, "WHEN MATCHED THEN UPDATE SET model_version = s.known.entity_version")


def _unregistered(ctx: Context) -> bool:
    """Whether the ledger holds a version that no registry has (NAME@HASH). A folder is asked without Spark."""
    if ctx.store.in_catalog:
        return not ctx.store.read(ctx.spark, tables.DEPLOYMENTS).where("model_version LIKE '%@%'").isEmpty()
    held = ctx.store.home(tables.DEPLOYMENTS).read(["model_version"])
    return held.num_rows > 0 and any(
        "@" in version for version in held["model_version"].unique().to_pylist() if version
    )


def _conform(ctx: Context) -> Run | None:
    from pyspark.sql import functions as f

    with increment(ctx, "conform", tables.INBOX) as candidates:
        if candidates is None:
            return None
        changes, run = candidates
        new = changes.where(f.col("_change_type") == "insert").select(*tables.INBOX.columns)
        new, forgotten = remembered(ctx, new)
        run.passed_over += forgotten
        new, earlier, tangled = together(ctx, traces.held(ctx, new))
        new = attempts(ctx, new)
        new = on_one_clock(new, known_skews(ctx))
        good, bad = split(new)
        good = contents.told_apart(ctx, good)
        seen = new.withColumn("bad", why_rejected().isNotNull()).agg(
            f.count("*").alias("rows"),
            f.sum(f.col("bad").cast("int")).alias("bad"),
            f.min(f.when(~f.col("bad"), f.col("requested_at"))).alias("first"),
            f.max(f.when(~f.col("bad"), f.col("requested_at"))).alias("last"),
        )
        facts = seen.collect()[0]
        run.rows_in = facts["rows"]
        run.quarantined = facts["bad"] or 0
        if facts["bad"]:
            run.rows_out += _quarantine(ctx, bad)
        if tangled is not None:
            traces.keep_steps(ctx, tangled)  # before the requests: who follows their changes finds the steps
        if facts["first"] is not None:
            near = _near(ctx, good, facts["first"], facts["last"])
            on = f"t.endpoint = s.endpoint AND t.request_id = s.request_id AND {near}"
            rows, clauses = fold(good), merge_clauses()
            if earlier is not None:
                rows, clauses = _replacing(rows, earlier), replacing_clauses()
            run.rows_out += merge(ctx, rows, tables.REQUESTS, on, clauses)
        return run


def together(ctx: Context, new: "DataFrame") -> tuple["DataFrame", "DataFrame | None", "traces.Tangled | None"]:
    """(new candidates with the parts of each trace folded into its requests; what earlier runs made of these traces, None for nothing; the
    traces of several spans, None where there are none).

    What was made before is made anew from all that the inbox has of it, also of other sources.
    """
    from pyspark.sql import functions as f

    parts = new.where(traces.PARTS).agg(f.min("received_at").alias("first"), f.count("*").alias("n")).collect()[0]
    if not parts["n"]:
        return new, None, None
    since = (parts["first"] or ctx.clock()) - traces.LATE
    tangled = traces.held(ctx, traces.tangled(ctx, new, since))
    if tangled.isEmpty():
        return traces.simple(new, None), None, None
    every = traces.of_traces(ctx, tangled, since)
    whole = traces.held(ctx, traces.folded(every))
    made = traces.simple(new, tangled).unionByName(whole)
    earlier = traces.held(ctx, traces.known_as(ctx, tangled, since))
    if earlier.isEmpty():
        return traces.held(ctx, made), None, traces.Tangled(every, tangled, since)
    ids = earlier.select("endpoint", f.regexp_replace("request_id", r"#\d+$", "").alias("request_id")).distinct()
    others = ctx.store.read(ctx.spark, tables.INBOX).where(f"NOT coalesce({traces.PARTS}, false)")
    others = remembered(ctx, others.join(ids, ["endpoint", "request_id"], "left_semi").select(*tables.INBOX.columns))[0]
    return traces.held(ctx, made.unionByName(others)), earlier, traces.Tangled(every, tangled, since)


def _replacing(rows: "DataFrame", earlier: "DataFrame") -> "DataFrame":
    """Rows of `requests` that take the place of what earlier runs made of the same traces (`whole`); those of it that are none any more (`gone`)."""
    from pyspark.sql import functions as f

    key = ["endpoint", "request_id"]
    marked = rows.join(earlier.select(*key).withColumn("_whole", f.lit(True)), key, "left")
    marked = (
        marked.withColumn("whole", f.coalesce("_whole", f.lit(False))).withColumn("gone", f.lit(False)).drop("_whole")
    )
    gone = earlier.join(rows, key, "left_anti").withColumn("whole", f.lit(True)).withColumn("gone", f.lit(True))
    return marked.unionByName(gone, allowMissingColumns=True)
