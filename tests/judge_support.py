"""Simulated requests for tests of the judge."""

import math
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import numpy as np
import pyarrow as pa

from lastgood.judge.ledger import Configuration
from lastgood.judge.records import Records
from lastgood.record import telemetry
from lastgood.record.agents import LOOPS, TOOLS
from lastgood.record.fault import FAULTS
from lastgood.record.windows import START_TOKENS, ZERO, Counts, bucket, merge, stratum

START = 1_772_366_400.0
"""2026-03-01 12:00 UTC."""
BEGIN = datetime.fromtimestamp(START, UTC)
LEDGER = {"chat": [Configuration(BEGIN - timedelta(days=9), {"1": 100}), Configuration(BEGIN, {"1": 50, "2": 50})]}


def requests(
    seed: int, minutes: float = 30, per_minute: float = 120, failing: float = 0.01, people: int = 200, split: float = 0.5,
    sticky: bool = False, errors: float = 1.0, latency: float = 1.0, onset: float = 0.0, pods: int = 0,
) -> Records:  # fmt: skip
    """Requests of two versions; the new one fails `errors` times as often and is `latency` times as slow from minute `onset` on."""
    rng = np.random.default_rng(seed)
    n = int(minutes * per_minute)
    at, who = np.sort(rng.uniform(0, 60 * minutes, n)), rng.integers(0, people, n)
    arm = (rng.random(people) < split).astype(np.int64)[who] if sticky else (rng.random(n) < split).astype(np.int64)
    ill = (arm == 1) & (at >= 60 * onset)
    tokens = np.round(np.exp(rng.normal(4, 0.7, n)))
    ms = (150 + 10 * tokens) * np.exp(rng.normal(0, 0.25, n) + np.where(ill, math.log(latency), 0.0))
    bad = rng.random(n) < np.where(ill, failing * errors, failing)
    return Records(
        START + at, arm, np.where(bad, 0, -1), ("HTTP_500",), who, ms, np.round(np.exp(rng.normal(5, 1, n))), tokens, ms / 4,
        np.full(n, np.nan), np.zeros(n, np.int64), ("model",), rng.integers(0, pods, n) if pods else np.zeros(0, np.int64),
    )  # fmt: skip


def windows(given: Records) -> list[Counts]:
    """The same requests as the windows job counts them, one by one."""
    found: dict[tuple[str, str, datetime], list[Counts]] = {}
    for i in range(len(given.at)):
        version, start = (
            str(2 if given.arm[i] else 1),
            datetime.fromtimestamp(START, UTC) + timedelta(minutes=int((given.at[i] - START) // 60)),
        )
        ms, pace = bucket(given.latency_ms[i]), bucket(given.latency_ms[i] / (given.tokens_out[i] + START_TOKENS))
        failed = int(given.code[i] >= 0)
        who = sha256(f"u{given.who[i]}".encode()).hexdigest()[:12]
        kinds = [0] * len(FAULTS)
        kinds[0] = failed
        one = Counts(
            "chat", version, stratum("model", given.tokens_in[i]), start, 1, 1.0, {"HTTP_500": 1.0} if failed else {}, {ms: 1.0},
            {} if failed else {bucket(given.ttft_ms[i]): 1.0}, {}, float(given.tokens_in[i]), 0.0, (who,) if failed else (), {},
            {} if failed else {bucket(given.tokens_out[i]): 1.0}, {} if failed else {pace: 1.0}, {ms: 1.0} if failed else {},
            {who: (1, *kinds, 1 - failed, 0 if failed else ms, 0 if failed else ms * ms)},
        )  # fmt: skip
        found.setdefault((version, one.stratum, start), []).append(one)
    assert ZERO not in {b for group in found.values() for one in group for b in one.latency}
    return [merge(group) for group in found.values()]


def agent_windows(
    seed: int, minutes: int = 40, per_minute: float = 20, calls: float = 4, failing: tuple[float, float] = (0.03, 0.03),
    broken: tuple[float, float] = (0.01, 0.01), looping: tuple[float, float] = (0.02, 0.02), people: int = 80,
) -> list[Counts]:  # fmt: skip
    """Window counts of runs of two versions of an agent, (prior, new) each: tool calls fail one by one with `failing`, in `broken` of the runs
    all of up to fifty do (a run whose tool is down calls it again and again), and `looping` of the runs loop."""
    rng, made = np.random.default_rng(seed), list[Counts]()
    for minute in range(minutes):
        start = datetime.fromtimestamp(START, UTC) + timedelta(minutes=minute)
        for _ in range(rng.poisson(per_minute)):
            arm, who = int(rng.random() < 0.5), sha256(f"u{rng.integers(people)}".encode()).hexdigest()[:12]
            down = rng.random() < broken[arm]
            used = int(rng.integers(10, 51)) if down else int(rng.poisson(calls))
            failed = used if down else int(rng.binomial(used, failing[arm]))
            scores = {LOOPS: float(rng.random() >= looping[arm])} | ({TOOLS: 1 - failed / used} if used else {})
            sums = {name: (1.0, value, value * value) for name, value in scores.items()}
            ms = bucket(1000 * math.exp(rng.normal(0, 0.5)))
            made.append(Counts(
                "chat", str(arm + 1), "model/?", start, 1, 1.0, latency={ms: 1.0}, callers={who: (1, *[0] * len(FAULTS), 1, ms, ms * ms)},
                scores=sums, score_callers={f"{who}/{name}": each for name, each in sums.items()},
            ))  # fmt: skip
    groups: dict[tuple[str, datetime], list[Counts]] = {}
    for one in made:
        groups.setdefault((one.model_version, one.start), []).append(one)
    return [merge(group) for group in groups.values()]


def table(given: Records) -> pa.Table:
    """Inbox columns of requests, as the receiver hands them on."""
    rows = [
        {
            "endpoint": "chat", "request_id": f"r{i}-{given.at[i]}", "model_version": str(2 if given.arm[i] else 1),
            "requested_at": datetime.fromtimestamp(given.at[i], UTC), "latency_ms": given.latency_ms[i], "latency_scope": "model",
            "ttft_ms": given.ttft_ms[i], "tokens_in": int(given.tokens_in[i]), "tokens_out": int(given.tokens_out[i]),
            "error_code": "HTTP_500" if given.code[i] >= 0 else None, "requester": f"u{given.who[i]}", "source": "otlp",
        }
        for i in range(len(given.at))
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, telemetry.arrow_schema(telemetry.INBOX))
