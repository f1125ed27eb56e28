"""Cost: changed requests -> tokens, seconds of serving, DBU and money by endpoint, version, team and day."""

from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.jobs.touched import Measure, Touched, recompute
from lastgood.record.telemetry import KINDS
from lastgood.settings import CostSettings
from lastgood.settings.prices import Prices, known_prices
from lastgood.tables.runs import Context, Run

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

DAY_S = 86_400


LEAST_IDLE_S = 60.0
"""What stays up is not told apart in shorter stretches, also where nothing stays up without a request."""
NEVER = 1e18


def rates(cost: CostSettings, price: Prices) -> tuple[str, float, float, float, float, float, bool]:
    """(mode, DBU per prompt token, per generated token, per hour of a unit, requests a unit serves at once, tokens a second it serves, whether
    it is up all day)."""
    if cost.mode == "pay_per_token" and (token := price.pay_per_token.get(cost.model)):
        return cost.mode, token.input / 1e6, token.output / 1e6, 0.0, NEVER, NEVER, False
    if cost.mode == "provisioned" and (unit := price.provisioned.get(cost.model)):
        return cost.mode, 0.0, 0.0, unit.per_hour, NEVER, unit.tokens_per_s, True
    instance = price.cpu if cost.mode == "cpu" else price.gpu.get(cost.gpu)
    if cost.mode in ("cpu", "gpu") and instance:
        return cost.mode, 0.0, 0.0, instance.per_hour, instance.concurrency, NEVER, not cost.scale_to_zero
    return cost.mode, float("nan"), float("nan"), float("nan"), 1.0, NEVER, False


def surcharges(cost: CostSettings, price: Prices) -> tuple[float, ...]:
    """DBU that a token of each of KINDS costs more than others of its side, where tokens are paid for."""
    token = price.pay_per_token.get(cost.model) if cost.mode == "pay_per_token" else None
    more = token.surcharge() if token else {}
    return tuple(more.get(kind, 0.0) / 1e6 for kind in KINDS)


def paid(ctx: Context, price: Prices) -> "DataFrame":
    """Rates and surcharges by `named`; see `priced_by`."""
    from pyspark.sql import functions as f

    costs = {name: settings.cost for name, settings in ctx.settings.endpoints.items()} | {"": ctx.settings.default.cost}
    rows = [(name, *rates(cost, price), *surcharges(cost, price)) for name, cost in costs.items()]
    kind = "named string, mode string, into double, out double, per_hour double, at_once double, tokens_per_s double, always boolean, "
    kind += ", ".join(f"more_{name} double" for name in KINDS)
    return f.broadcast(ctx.spark.createDataFrame(rows, kind))


def priced_by(ctx: Context) -> "Column":
    """The name under which an endpoint's price is: its own, or '' for the default's."""
    from pyspark.sql import functions as f

    return f.when(f.col("endpoint").isin(list(ctx.settings.endpoints)), f.col("endpoint")).otherwise("")


def by_token() -> "Column":
    """DBU of a row's tokens, each kind at its own price; NaN where there is no price."""
    from pyspark.sql import functions as f

    def tokens(name: str) -> "Column":
        return f.coalesce(f.col(f"tokens_{name}"), f.lit(0))

    total = tokens("in") * f.col("into") + tokens("out") * f.col("out")
    for name in KINDS:
        total = total + tokens(name) * f.col(f"more_{name}")
    return total


def _make(ctx: Context, rows: "DataFrame", _: Touched) -> "DataFrame":
    """Requests of whole days -> rows of `cost`.

    Units are those that the mean load of the time with requests needs, rounded up. They are paid for in every stretch of `idle_s` with a
    request, or all day where they never scale to zero; versions and teams share what they cost by their seconds of serving,
    or by their requests where none says how long it took.
    `lastgood cost` looks at every window instead.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    price = known_prices(ctx.settings.prices)
    idle_s = max(price.idle_s, LEAST_IDLE_S)
    weight = f.coalesce("weight", f.lit(1.0))
    slot = f.floor(f.unix_seconds("requested_at") / idle_s)
    key = [
        "endpoint",
        f.coalesce("model_version", f.lit("?")).alias("model_version"),
        f.coalesce("team", f.lit("?")).alias("team"),
    ]
    used = rows.groupBy(*key, "window_start").agg(
        f.sum(weight).alias("requests"), f.coalesce(f.sum(f.col("tokens_in") * weight), f.lit(0.0)).alias("tokens_in"),
        f.sum(f.when(f.col("tokens_in").isNotNull() | f.col("tokens_out").isNotNull(), weight).otherwise(0.0)).alias("requests_with_tokens"),
        f.coalesce(f.sum(f.col("tokens_out") * weight), f.lit(0.0)).alias("tokens_out"),
        f.round(f.coalesce(f.sum(f.col("latency_ms") * weight), f.lit(0.0)) / 1000, 3).alias("busy_s"),
        *(f.coalesce(f.sum(f.col(f"tokens_{name}") * weight), f.lit(0.0)).alias(f"tokens_{name}") for name in KINDS),
    )  # fmt: skip
    up = rows.groupBy("endpoint", "window_start").agg((f.count_distinct(slot) * idle_s).alias("up_s"))
    named_usage = (
        used.join(up, ["endpoint", "window_start"]).withColumn("named", priced_by(ctx)).join(paid(ctx, price), "named")
    )
    whole = Window.partitionBy("endpoint", "window_start")
    all_busy, all_tokens = f.sum("busy_s").over(whole), f.sum(f.col("tokens_in") + f.col("tokens_out")).over(whole)
    at_once, a_second = all_busy / f.col("up_s") / f.col("at_once"), all_tokens / f.col("up_s") / f.col("tokens_per_s")
    units = f.greatest(f.lit(1), f.ceil(at_once), f.ceil(a_second))
    paid_s = f.when(f.col("always"), f.lit(float(DAY_S))).otherwise(f.col("up_s"))
    share = f.when(all_busy > 0, f.col("busy_s") / all_busy).otherwise(
        f.col("requests") / f.sum("requests").over(whole)
    )
    dbu = f.nullif(f.round(by_token() + share * units * f.col("per_hour") * paid_s / 3600, 6), f.lit(float("nan")))
    return named_usage.withColumn("dbu", dbu).withColumn("money", f.col("dbu") * price.dbu).select(*tables.COST.columns)


def cost(ctx: Context) -> Run | None:
    """Bring `cost` up to date with `requests`; None when nothing changed."""
    return recompute(ctx, Measure("cost", tables.COST, _make, seconds=DAY_S))
