"""Drift: inputs and outputs of the newest versions against the time before and against each other, in Spark executors.

Samples are the KEEP smallest hashes of the request id per side (bottom-k: mergeable and repeatable), so a group of
50 million rows costs what one of 5,000 does.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.deployed import Pair, pairs
from lastgood.runs import Context, Run, append
from lastgood.telemetry import spark_ddl

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

KEEP, MIN_ROWS = 2_000, 50
ROOM = 450
"""Ten standard deviations of how many of KEEP expected hashes fall below a bound: the bound never cuts into the KEEP."""
NUMERIC = {
    "tokens_in": "input",
    "input_chars": "input",
    "tokens_out": "output",
    "output_chars": "output",
}
CATEGORICAL = {"finish_reason": "output"}
MAX_FEATURES = 50


def samples(requests: "DataFrame", chosen: "DataFrame") -> "DataFrame":
    """Requests and (endpoint, candidate, prior, since) -> bounded samples, one row per (group, side, request).

    Groups: each version since the candidate appeared against the reference (all requests before), and the candidate
    against the prior version over the same minutes.
    """
    from pyspark.sql import functions as f

    rows = requests.join(f.broadcast(chosen), "endpoint").where(f.col("error_code").isNull())
    after = f.col("requested_at") >= f.col("since")
    is_new, is_prior = (
        f.col("model_version") == f.col("candidate"),
        f.col("model_version") == f.col("prior"),
    )

    def role(version: str, against: str, side: str, when: object) -> object:
        return f.when(
            when,
            f.struct(
                f.col(version).alias("version"),
                f.lit(against).alias("against"),
                f.lit(side).alias("side"),
            ),
        )

    roles = f.array(
        role("candidate", "reference", "current", after & is_new),
        role("prior", "reference", "current", after & is_prior),
        role("candidate", "reference", "reference", ~after),
        role("prior", "reference", "reference", ~after),
        role("candidate", "prior", "current", after & is_new),
        role("candidate", "prior", "reference", after & is_prior),
    )
    slim = rows.select(
        "endpoint",
        f.unix_micros("requested_at").alias("at"),
        f.xxhash64("request_id").alias("hash"),
        f.col("tokens_in").cast("double").alias("tokens_in"),
        f.length("input").cast("double").alias("input_chars"),
        f.col("tokens_out").cast("double").alias("tokens_out"),
        f.length("output").cast("double").alias("output_chars"),
        "finish_reason",
        "features",
        f.explode(f.filter(roles, lambda one: one.isNotNull())).alias("role"),
    ).select("*", "role.version", "role.against", "role.side")
    group = ("endpoint", "version", "against", "side")
    slim = slim.where(f.col("version").isNotNull())
    sizes = slim.groupBy(*group).agg(f.count("*").alias("n"))
    within = (f.col("hash") / 2.0**64 + 0.5) * f.col("n") <= KEEP + ROOM
    few = slim.join(f.broadcast(sizes), list(group)).where(within)
    values = f.struct("hash", "at", *NUMERIC, *CATEGORICAL, f.to_json("features").alias("features"))
    kept = few.groupBy(*group).agg(f.slice(f.array_sort(f.collect_list(values)), 1, KEEP).alias("kept"))
    return kept.select(*group, f.explode("kept").alias("k")).select(*group, "k.*")


def _wide(group: "pd.DataFrame") -> tuple["pd.DataFrame", dict[str, str]]:
    """The group's columns side by side, tabular features included, and the kind of each."""
    import json

    import pandas as pd

    kinds = dict(NUMERIC) | dict(CATEGORICAL)
    features = pd.DataFrame(
        [json.loads(one) if isinstance(one, str) else {} for one in group["features"]],
        index=group.index,
    )
    features = features.iloc[:, :MAX_FEATURES].add_prefix("feature.")
    for name in features.columns:
        numbers = pd.to_numeric(features[name], errors="coerce")
        if numbers.notna().sum() >= 0.9 * features[name].notna().sum():
            features[name] = numbers
        kinds[str(name)] = "input"
    return pd.concat([group.drop(columns="features"), features], axis=1), kinds


def compare(group: "pd.DataFrame", limit: float, computed_at: datetime) -> "pd.DataFrame":
    """One group's samples -> rows of the drift table. Columns with fewer than MIN_ROWS values on a side are left out."""
    import numpy as np
    import pandas as pd

    from lastgood.jobs.evidently_report import opinions
    from lastgood.judge.drift import distance

    wide, kinds = _wide(group)
    sides = {side: wide[wide["side"] == side] for side in ("current", "reference")}
    usable = [name for name in kinds if min(side[name].notna().sum() for side in sides.values()) >= MIN_ROWS]
    numeric = [name for name in usable if pd.api.types.is_numeric_dtype(wide[name])]
    categorical = [name for name in usable if name not in numeric]
    theirs = opinions(sides["current"], sides["reference"], numeric, categorical) if usable else {}
    rows = []
    for name in usable:
        new, old = (side[side[name].notna()] for side in (sides["current"], sides["reference"]))
        ours = distance(
            np.asarray(new[name], dtype=object),
            np.asarray(old[name], dtype=object),
            new["at"].tolist(),
            old["at"].tolist(),
            name in numeric,
        )
        said = theirs.get(name)
        rows.append(
            (
                group["endpoint"].iloc[0], group["version"].iloc[0], group["against"].iloc[0], kinds[name], name, computed_at,
                ours.n_current, ours.n_reference, ours.distance, ours.low, bool(ours.low > limit),
                said.method if said else None, said.score if said else None, said.drifted if said else None,
            )
        )  # fmt: skip
    return pd.DataFrame(rows, columns=list(tables.DRIFT.columns))


def measure(ctx: Context, requests: "DataFrame", chosen: Mapping[str, Pair], now: datetime) -> "DataFrame":
    """Rows of the drift table for the chosen versions of each endpoint."""
    from pyspark.sql import types

    rows = [(endpoint, one.candidate, one.prior, one.since.replace(tzinfo=UTC)) for endpoint, one in chosen.items()]
    frame = ctx.spark.createDataFrame(rows, "endpoint string, candidate string, prior string, since timestamp")
    limits = {endpoint: ctx.settings.endpoint(endpoint).policy.drift_limit for endpoint in chosen}
    at = now.astimezone(UTC).replace(tzinfo=None)
    schema = types.StructType.fromDDL(spark_ddl(tables.DRIFT.fields))
    grouped = samples(requests, frame).groupBy("endpoint", "version", "against")
    return grouped.applyInPandas(lambda group: compare(group, limits[group["endpoint"].iloc[0]], at), schema)


def drift(ctx: Context) -> Run | None:
    """Append the present drift of every endpoint to `drift`. Run again, it appends a newer measurement."""
    now = ctx.clock()
    requests = ctx.store.read(ctx.spark, tables.REQUESTS)
    version = ctx.store.version(ctx.spark, tables.REQUESTS)
    append(ctx, measure(ctx, requests, pairs(ctx), now), tables.DRIFT)
    return Run("drift", tables.REQUESTS.name, version)
