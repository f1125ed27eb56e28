"""Window counts and prices -> what the traffic costs in each serving mode, which is the cheapest, and when that would change (pure)."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lastgood.record.windows import Counts, merge, middle, quantile
from lastgood.record.words import counted, percent
from lastgood.settings import CostSettings
from lastgood.settings.prices import Prices

MODES = ("pay_per_token", "provisioned", "cpu", "gpu")
HOUR_S = 3600
FACTORS = 10.0 ** (1 / 20)
"""Traffic is tried in steps of 12% when looking for where the cheapest mode changes, up to a thousandfold either way."""


@dataclass(frozen=True)
class Load:
    """Traffic of one window: start (seconds), tokens, seconds of serving (requests x latency), and the kinds of tokens that may have prices of
    their own (see telemetry.KINDS)."""

    start: float
    requests: float
    tokens_in: float
    tokens_out: float
    busy_s: float
    kinds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """One mode's price for the traffic. `units`: the most units at once. `meets`: None where its latency is not known."""

    mode: str
    dbu: float
    money: float
    units: int
    p95_ms: float | None
    meets: bool | None
    why: str = ""


def loads(windows: Iterable[Counts]) -> list[Load]:
    """Windows of any versions and strata -> load per window, by time."""
    by_start: dict[float, Load] = {}
    for window in windows:
        busy = sum(middle(bucket) * weight for bucket, weight in window.latency.items()) / 1000
        old = by_start.get(window.start.timestamp(), Load(window.start.timestamp(), 0, 0, 0, 0))
        by_start[old.start] = Load(
            old.start,
            old.requests + window.requests,
            old.tokens_in + window.tokens_in,
            old.tokens_out + window.tokens_out,
            old.busy_s + busy,
            {kind: old.kinds.get(kind, 0.0) + window.kinds.get(kind, 0.0) for kind in {**old.kinds, **window.kinds}},
        )
    return [by_start[start] for start in sorted(by_start)]


def _hourly(traffic: Sequence[Load], window_s: int, per_unit: float, need: str) -> dict[int, int]:
    """Hour -> units that carry its busiest window: seconds of serving a second, or tokens a second, over what one unit carries."""
    hours: dict[int, int] = {}
    for load in traffic:
        much = (load.busy_s if need == "busy" else load.tokens_in + load.tokens_out) / window_s
        hour = int(load.start // HOUR_S)
        hours[hour] = max(hours.get(hour, 1), math.ceil(much / per_unit - 1e-9))
    return hours


def _awake(traffic: Sequence[Load], window_s: int, idle_s: float) -> tuple[float, int]:
    """(hours an endpoint that scales to zero is up, how often it starts)."""
    up, starts, until = 0.0, 0, -math.inf
    for load in traffic:
        end = load.start + window_s + idle_s
        if load.start > until:
            starts += 1
            up += end - load.start
        else:
            up += end - until
        until = end
    return up / HOUR_S, starts


def _serverless(
    traffic: Sequence[Load], window_s: int, per_hour: float, concurrency: float, prices: Prices, to_zero: bool
) -> tuple[float, int]:
    """(DBU, most units): an instance for every `concurrency` requests at once, adjusted hourly; down when idle where it may be."""
    hours = _hourly(traffic, window_s, concurrency, "busy")
    most = max(hours.values(), default=0)
    up, starts = _awake(traffic, window_s, prices.idle_s)
    span = (traffic[-1].start + window_s - traffic[0].start) / HOUR_S if traffic else 0.0
    mean = sum(hours.values()) / max(1, len(hours))
    return (
        (mean * per_hour * up + starts * prices.launch, most) if to_zero else (mean * per_hour * max(span, 0.0), most)
    )


def offers(
    traffic: Sequence[Load], window_s: int, prices: Prices, cost: CostSettings, p95_ms: float | None, target_ms: float
) -> list[Offer]:
    """What each mode would cost for this traffic. Latency of the mode in use is the measured one, that of others it times
    `cost.latency` (how many times as long they take); where that is not given it is not known.
    """
    result = []
    for mode in MODES:
        factor = 1.0 if mode == cost.mode else cost.latency.get(mode)
        p95 = p95_ms * factor if p95_ms is not None and factor is not None else None
        dbu, units, why = _dbu(mode, traffic, window_s, prices, cost, factor or 1.0)
        if dbu is not None:
            result.append(
                Offer(mode, dbu, dbu * prices.dbu, units, p95, None if p95 is None else p95 <= target_ms, why)
            )
    return result


def _dbu(
    mode: str, traffic: Sequence[Load], window_s: int, prices: Prices, cost: CostSettings, factor: float
) -> tuple[float | None, int, str]:
    if mode == "pay_per_token":
        if (token := prices.pay_per_token.get(cost.model)) is None:
            return None, 0, ""
        into, out = sum(load.tokens_in for load in traffic), sum(load.tokens_out for load in traffic)
        more = math.fsum(
            sum(load.kinds.get(kind, 0.0) for load in traffic) * price for kind, price in token.surcharge().items()
        )
        return (into * token.input + out * token.output + more) / 1e6, 0, "by token"
    if mode == "provisioned":
        if (unit := prices.provisioned.get(cost.model)) is None:
            return None, 0, ""
        hours = _hourly(traffic, window_s, unit.tokens_per_s, "tokens")
        span = (int(traffic[-1].start // HOUR_S) - int(traffic[0].start // HOUR_S) + 1) if traffic else 0
        idle = span - len(hours)
        return (
            unit.per_hour * (sum(hours.values()) + idle),
            max(hours.values(), default=0),
            "at least one unit, always up",
        )
    instance = prices.cpu if mode == "cpu" else prices.gpu.get(cost.gpu)
    if instance is None:
        return None, 0, ""
    slower = [replace(load, busy_s=load.busy_s * factor) for load in traffic]
    dbu, units = _serverless(slower, window_s, instance.per_hour, instance.concurrency, prices, cost.scale_to_zero)
    return dbu, units, "down when idle" if cost.scale_to_zero else "always up"


def cheapest(available: Sequence[Offer]) -> Offer | None:
    """The cheapest that meets the target; for want of one, the cheapest whose latency is not known; never one that misses it."""
    able = [offer for offer in available if offer.meets] or [offer for offer in available if offer.meets is None]
    return min(able, key=lambda offer: (offer.money, offer.mode), default=None)


def scaled(traffic: Sequence[Load], factor: float) -> list[Load]:
    """The same traffic, so many times as much."""
    return [
        Load(
            load.start,
            load.requests * factor,
            load.tokens_in * factor,
            load.tokens_out * factor,
            load.busy_s * factor,
            {kind: n * factor for kind, n in load.kinds.items()},
        )
        for load in traffic
    ]


def changes(
    traffic: Sequence[Load], window_s: int, prices: Prices, cost: CostSettings, p95_ms: float | None, target_ms: float
) -> list[tuple[float, str]]:
    """(how many times the traffic, mode that is then the cheapest), nearest below and nearest above; empty where it never changes."""

    def best(factor: float) -> str | None:
        offer = cheapest(offers(scaled(traffic, factor), window_s, prices, cost, p95_ms, target_ms))
        return offer.mode if offer else None

    now, turning = best(1.0), []
    for way in (-1, 1):
        for step in range(1, 61):
            if (mode := best(FACTORS ** (way * step))) != now and mode:
                turning.append((FACTORS ** (way * step), mode))
                break
    return turning


def report(
    windows: Sequence[Counts], window_s: int, prices: Prices, cost: CostSettings, target_ms: float
) -> dict[str, Any]:
    """All of it as plain values; windows of one endpoint over the time asked about."""
    traffic = loads(windows)
    latency: dict[int, float] = {}
    for window in windows:
        for bucket, weight in window.latency.items():
            latency[bucket] = latency.get(bucket, 0.0) + weight
    p95 = quantile(latency, 0.95)
    requests = math.fsum(window.requests for window in windows)
    told = max(math.fsum(window.told_in for window in windows), math.fsum(window.told_out for window in windows))
    available = offers(traffic, window_s, prices, cost, p95, target_ms)
    best = cheapest(available)
    by: Mapping[str, Offer] = {offer.mode: offer for offer in available}
    return {
        "requests": sum(load.requests for load in traffic), "tokens_in": sum(load.tokens_in for load in traffic),
        "tokens_out": sum(load.tokens_out for load in traffic), "busy_s": sum(load.busy_s for load in traffic), "p95_ms": p95,
        "kinds": dict(sorted(merge(windows).kinds.items())) if windows else {},
        "tokens_known": told / requests if requests else None,
        "target_ms": target_ms, "mode": cost.mode, "offers": [vars(offer) for offer in available], "cheapest": best.mode if best else None,
        "cheapest_meets": best.meets if best else None, "saving": by[cost.mode].money - best.money if best and cost.mode in by else None,
        "changes": [{"traffic": factor, "mode": mode} for factor, mode in changes(traffic, window_s, prices, cost, p95, target_ms)],
        "as_of": str(prices.as_of), "checked": prices.checked, "currency": prices.currency,
    }  # fmt: skip


HEADER = ("mode", "DBU", "money", "units at most", "p95 ms", "meets the target", "")


def show(
    endpoint: str,
    report: Mapping[str, Any],
    say: Callable[[str], None],
    table: Callable[[str, Sequence[str], Any], None],
) -> None:
    """The report for people."""
    meets = {True: "yes", False: "no", None: "not known"}
    rows = [
        (offer["mode"] + (" (now)" if offer["mode"] == report["mode"] else ""), f"{offer['dbu']:,.1f}", f"{offer['money']:,.2f} {report['currency']}",
         offer["units"] or "-", "-" if offer["p95_ms"] is None else f"{offer['p95_ms']:.0f}", meets[offer["meets"]], offer["why"])
        for offer in report["offers"]
    ]  # fmt: skip
    table(
        f"{endpoint}: {counted(report['requests'], 'request')}, {report['tokens_in']:,.0f} tokens in, {report['tokens_out']:,.0f} out"
        + "".join(f", {n:,.0f} {kind.replace('_', ' ')}" for kind, n in report["kinds"].items()),
        HEADER,
        rows,
    )
    known_share = report["tokens_known"]
    if known_share is not None and known_share < 1:
        say(
            f"{percent(1 - known_share)} of the requests, or more, say no tokens: what is paid by token, or needed for them, is at least this"
        )
    best, money = report["cheapest"], report["currency"]
    if best is None:
        say("no mode is known to meet the latency target: set `cost.latency`, or prices for more modes")
    else:
        known = "" if report["cheapest_meets"] else ", whose latency is not known: set `cost.latency`"
        saving = f", saves {report['saving']:,.2f} {money}" if report["saving"] else ""
        say(f"cheapest for {report['target_ms'] / 1000:g} s: {best}{known}{saving}")
    for change in report["changes"]:
        say(f"at {change['traffic']:.2g} times this traffic it would be {change['mode']}")
    say(f"prices of {report['as_of']}" + ("" if report["checked"] else ", not checked against your contract"))
