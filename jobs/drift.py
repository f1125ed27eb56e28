"""Drift: inputs and outputs of the newest versions against a reference and against each other, from the hourly samples.

Each comparison is of at most KEEP rows a side, so a group of 50 million rows costs what one of 5,000 does, and 100 days what one does.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs.deployed import pairs
from lastgood.jobs.samples import sample, samples, smallest
from lastgood.jobs.touched import HOUR_S, Touched, ranges
from lastgood.judge.ledger import Pair
from lastgood.record.telemetry import spark_ddl
from lastgood.tables.measures import report_path
from lastgood.tables.runs import Context, Run, append

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import Column, DataFrame

MIN_ROWS = 50
NUMERIC = {"tokens_in": "input", "input_chars": "input", "tokens_out": "output", "output_chars": "output"}
CATEGORICAL = {"finish_reason": "output"}
TEXTS = {"input": "input", "output": "output"}
MAX_FEATURES = 50
FEW_VALUES = 10
"""A column of no more distinct numbers than this is compared value by value."""
CURRENT, WEEK = timedelta(days=1), timedelta(days=7)
REFERENCES = ("baseline", "week", "before")
"""Sides that can be the reference, the preferred first; the prior version's rows are `prior`."""
GROUPS_A_TASK = 8
"""Comparisons one Python worker makes: each worker holds Evidently, about 110 MiB."""


def _chosen(ctx: Context, chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    rows = []
    for endpoint, pair in chosen.items():
        since = pair.since.replace(tzinfo=UTC)
        rows.append(
            (
                endpoint,
                pair.candidate,
                pair.prior,
                since,
                max(since, now - CURRENT),
                ctx.settings.endpoint(endpoint).drift_reference,
            )
        )
    kind = "endpoint string, candidate string, prior string, since timestamp, start timestamp, prefer string"
    return ctx.spark.createDataFrame(rows, kind)


def near(chosen: Mapping[str, Pair], now: datetime) -> str:
    """SQL: hours whose samples the comparisons of these endpoints need: a day each of now, last week and before the candidate."""
    hours: set[int] = set()
    for pair in chosen.values():
        since = pair.since.replace(tzinfo=UTC)
        start = max(since, now - CURRENT)
        for a, z in ((start, now), (start - WEEK, now - WEEK), (since - CURRENT, since)):
            hours |= set(range(int(a.timestamp() // 3600), int(z.timestamp() // 3600) + 1))
    return Touched(ranges((hour * HOUR_S for hour in hours), HOUR_S), tuple(sorted(chosen))).where("window_start")


def sides(rows: "DataFrame", chosen: "DataFrame", now: datetime) -> "DataFrame":
    """Samples (and baselines, which have a `baseline` number) -> bounded samples by (endpoint, version, against, side).

    Comparisons: each version since the candidate appeared (a day at most) against the reference, and the candidate against the prior
    version over the same minutes.
    """
    from pyspark.sql import functions as f

    rows = rows.join(f.broadcast(chosen), "endpoint")
    at, stored = f.col("requested_at"), f.col("baseline").isNotNull()
    ago = f.expr(f"INTERVAL {int(WEEK.total_seconds())} SECONDS")
    after = ~stored & (at >= f.col("start")) & (at <= f.lit(now))
    week = ~stored & (at >= f.col("start") - ago) & (at < f.lit(now) - ago) & (at < f.col("since"))
    before = ~stored & (at < f.col("since")) & (at >= f.col("since") - f.expr("INTERVAL 1 DAY"))
    is_new, is_prior = (f.col("model_version") == f.col(name) for name in ("candidate", "prior"))

    def role(version: str, against: str, side: str, when: "Column") -> "Column":
        return f.when(
            when, f.struct(f.col(version).alias("version"), f.lit(against).alias("against"), f.lit(side).alias("side"))
        )

    roles = [
        role("candidate", "prior", "current", after & is_new),
        role("candidate", "prior", "prior", after & is_prior),
    ]
    for version, member in (("candidate", is_new), ("prior", is_prior)):
        roles.append(role(version, "reference", "current", after & member))
        roles += [
            role(version, "reference", s, w) for s, w in (("baseline", stored), ("week", week), ("before", before))
        ]
    tagged = rows.withColumn("role", f.explode(f.filter(f.array(*roles), lambda candidate: candidate.isNotNull())))
    tagged = tagged.select("*", "role.version", "role.against", "role.side").where(f.col("version").isNotNull())
    return comparable(smallest(tagged, "endpoint", "version", "against", "side"))


def comparable(sampled: "DataFrame") -> "DataFrame":
    """Sampled rows, each on a side of a comparison, as `compare` takes them."""
    from pyspark.sql import functions as f

    names = ("hash", "tokens_in", "tokens_out", "input_chars", "output_chars", "finish_reason", "input", "output")
    return sampled.select(
        "endpoint", "version", "against", "side", "prefer", "baseline", f.unix_micros("requested_at").alias("at"), *names,
        f.to_json("features").alias("features"),
    )  # fmt: skip


def _wide(group: "pd.DataFrame") -> tuple["pd.DataFrame", dict[str, str]]:
    """The group's columns side by side, tabular features included, and the kind (input or output) of each."""
    import json

    import pandas as pd

    kinds = NUMERIC | CATEGORICAL | TEXTS
    parsed = [json.loads(text) if isinstance(text, str) else {} for text in group["features"]]
    features = pd.DataFrame(parsed, index=group.index).iloc[:, :MAX_FEATURES].add_prefix("feature.")
    types = {}
    for name in features.columns:
        numbers = pd.to_numeric(features[name], errors="coerce")
        types[f"{name}:type"] = (
            pd.Series("null", group.index).mask(features[name].notna(), "text").mask(numbers.notna(), "number")
        )
        if numbers.notna().sum() >= 0.9 * features[name].notna().sum():
            features[name] = numbers
        kinds |= {str(name): "input", f"{name}:type": "input"}
    return pd.concat([group.drop(columns="features"), features, pd.DataFrame(types, index=group.index)], axis=1), kinds


def _reference(wide: "pd.DataFrame", prefer: str) -> str | None:
    """The side to compare with: the wanted one, else the first there is with enough rows."""
    counts = wide["side"].value_counts()
    order = [prefer, *REFERENCES] if prefer in REFERENCES else [*REFERENCES]
    return next((side for side in ["prior", *order] if counts.get(side, 0) >= MIN_ROWS), None)


def compare(group: "pd.DataFrame", limit: float, computed_at: datetime) -> "pd.DataFrame":
    """One group's samples -> rows of the drift table. Columns with fewer than MIN_ROWS values on a side are left out, but a column that
    is new, went missing or changed its type shows in `NAME:type`.
    """
    import pandas as pd

    from lastgood.judge.drift import discoveries

    side = _reference(group, str(group["prefer"].iloc[0]))
    wide, kinds = _wide(group[group["side"].isin(["current", side])])
    columns = list(_columns(wide, kinds, limit)) if side and (wide["side"] == "current").any() else []
    fell = discoveries([ours.p for _, ours, _, _ in columns])
    label = {"week": "last week", "prior": "prior"}.get(str(side), str(side))
    if side == "baseline":
        label = f"baseline {int(wide['baseline'].max())}"
    key = [group[name].iloc[0] for name in ("endpoint", "version", "against")]
    rows = [
        (
            *key, kinds[name], name, computed_at, ours.n_current, ours.n_reference, ours.distance, ours.low, bool(moved),
            theirs.method if theirs else None, theirs.score if theirs else None, theirs.drifted if theirs else None, label, method, ours.p,
        )
        for (name, ours, theirs, method), moved in zip(columns, fell, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(tables.DRIFT.columns))


def _columns(wide: "pd.DataFrame", kinds: Mapping[str, str], limit: float) -> Iterator[tuple[str, Any, Any, str]]:
    """(column, our Distance, Evidently's Opinion or None, method) of every column that can be compared."""
    import numpy as np
    import pandas as pd

    from lastgood.jobs.classifier import separation
    from lastgood.jobs.evidently_report import opinion
    from lastgood.judge.drift import distance

    current, reference = wide[wide["side"] == "current"], wide[wide["side"] != "current"]
    for name in kinds:
        new, old = (side[side[name].notna()] for side in (current, reference))
        if min(len(new), len(old)) < MIN_ROWS:
            continue
        times = (new["at"].tolist(), old["at"].tolist())
        if name in TEXTS:
            yield name, separation(new[name].tolist(), old[name].tolist(), times, limit), None, "classifier"
            continue
        distinct = pd.concat([new[name], old[name]]).nunique()
        if name.endswith(":type") and distinct == 1:
            continue
        number = pd.api.types.is_numeric_dtype(wide[name])
        a, b = (np.asarray(side[name], dtype=object) for side in (new, old))
        ours = distance(a, b, *times, number and distinct > FEW_VALUES, limit=limit)
        yield name, ours, opinion(new[name], old[name], number), "jensen-shannon"


def measure(ctx: Context, rows: "DataFrame", chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """Rows of the drift table for the chosen versions of each endpoint, from rows of `samples` (with or without `baseline`)."""
    from pyspark.sql import functions as f
    from pyspark.sql import types

    if "baseline" not in rows.columns:
        rows = rows.withColumn("baseline", f.lit(None).cast("bigint"))
    limits = {endpoint: ctx.settings.endpoint(endpoint).policy.drift_limit for endpoint in chosen}
    at = now.astimezone(UTC).replace(tzinfo=None)
    schema = types.StructType.fromDDL(spark_ddl(tables.DRIFT.fields))
    few = sides(rows, _chosen(ctx, chosen, now), now)
    tasks = max(1, -(-3 * len(chosen) // GROUPS_A_TASK))
    grouped = few.repartition(tasks, "endpoint", "version", "against").groupBy("endpoint", "version", "against")
    return grouped.applyInPandas(lambda group: compare(group, limits[group["endpoint"].iloc[0]], at), schema)


def of_requests(ctx: Context, requests: "DataFrame", chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """`measure` straight from requests, where there is no table of samples."""
    return measure(ctx, sample(requests), chosen, now)


def _rows(ctx: Context, chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """Samples the comparisons need, and each endpoint's newest baseline."""
    from pyspark.sql import functions as f

    kept = ctx.store.read(ctx.spark, tables.SAMPLES).where(near(chosen, now))
    kept = kept.withColumn("baseline", f.lit(None).cast("bigint"))
    stored = ctx.store.read(ctx.spark, tables.BASELINES)
    newest = stored.groupBy("endpoint").agg(f.max("baseline").alias("baseline"))
    return kept.unionByName(stored.join(newest, ["endpoint", "baseline"]).select(*kept.columns))


def drift(ctx: Context) -> Run | None:
    """Bring `samples` up to date and append the present drift of every endpoint to `drift`. Run again, it appends a newer measurement."""
    taken = samples(ctx)
    now, chosen = ctx.clock(), pairs(ctx)
    if not chosen:
        return taken
    append(ctx, measure(ctx, _rows(ctx, chosen, now), chosen, now), tables.DRIFT)
    return taken or Run("drift", tables.SAMPLES.name, ctx.store.version(ctx.spark, tables.SAMPLES))


def evidently_html(ctx: Context, endpoint: str, path: Path | None = None) -> dict[str, Any]:
    """Write Evidently's own report on the candidate against the reference (without `path` where the evidence page looks for it); what was
    compared.

    Errors: ConfigError when there is nothing to compare.
    """
    import pandas as pd

    from lastgood.jobs.evidently_report import report

    now, pair = ctx.clock(), pairs(ctx).get(endpoint)
    if pair is None:
        raise ConfigError(f"no version of {endpoint} is known; run `lastgood job windows`")
    chosen = {endpoint: pair}
    frame = sides(_rows(ctx, chosen, now), _chosen(ctx, chosen, now), now)
    group: pd.DataFrame = frame.where(
        f"version = {tables.literal(pair.candidate)} AND against = 'reference'"
    ).toPandas()
    side = _reference(group, ctx.settings.endpoint(endpoint).drift_reference) if len(group) else None
    if side is None or not (group["side"] == "current").any():
        raise ConfigError(f"{endpoint}: no samples to compare; run `lastgood job samples`, or set a baseline")
    wide, kinds = _wide(group[group["side"].isin(["current", side])])
    current, reference = wide[wide["side"] == "current"], wide[wide["side"] == side]
    usable = [
        n for n in kinds if n not in TEXTS and min(current[n].notna().sum(), reference[n].notna().sum()) >= MIN_ROWS
    ]
    numeric = [name for name in usable if pd.api.types.is_numeric_dtype(wide[name])]
    path = path or report_path(ctx.store, endpoint, pair.candidate)
    path.parent.mkdir(parents=True, exist_ok=True)
    report(current, reference, numeric, [name for name in usable if name not in numeric], path)
    return {
        "endpoint": endpoint,
        "version": pair.candidate,
        "reference": side,
        "rows": [len(current), len(reference)],
        "html": str(path),
    }
