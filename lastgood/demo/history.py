"""Six weeks that never were, straight into the tables: what the pages of the weeks between are looked at and measured with. No Spark, no workspace.

Everything is made of one seed. Endpoints: `support-chat` (its newest version fails more and has an open incident), `fraud-score` (a feature drifts
from week to week; labels come days later), `travel-agent` (an agent with tools), `search-rank` (healthy), `translate` (worse answers), `summarize`
(silent since three days), and as many plain ones as are asked for.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from lastgood import tables
from lastgood.jobs.estimating import rows_of
from lastgood.judge.days import Counted, days
from lastgood.judge.performance import CLASSIFICATION
from lastgood.judge.reference import calibrate, tally
from lastgood.record import telemetry
from lastgood.record.windows import bucket

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
STRATA = ("model/64", "model/256")
QUANTILES = tuple((i + 0.5) / 24 for i in range(24))
Rows = Iterator[dict[str, Any]]
ALL = {table.name: table for table in tables.ALL}
BATCH = 100
"""Plain endpoints whose rows are committed together."""


@dataclass(frozen=True)
class Version:
    """From `first` to `last` days ago it took `share` of the traffic. `ms`: median latency; `errors`, `bad`: shares 0-1."""

    name: str
    first: float
    last: float
    share: float = 1.0
    ms: float = 240.0
    errors: float = 0.004
    bad: float = 0.01


@dataclass(frozen=True)
class Made:
    """An endpoint; `rate`: requests a minute in the middle of the day. `price`: of a thousand tokens."""

    name: str
    versions: tuple[Version, ...]
    rate: float = 30.0
    tokens: tuple[float, float] = (420.0, 160.0)
    price: float | None = 0.0009
    teams: tuple[str, ...] = ("support",)


STORY = (
    Made("support-chat", (Version("5", 42, 30), Version("6", 30, 28.6, 1.0, 520), Version("5", 28.6, 20), Version("7", 20, 0.1),
                          Version("7", 0.1, 0, 0.75), Version("8", 0.1, 0, 0.25, 250, 0.06)), 60, teams=("support", "web")),
    Made("fraud-score", (Version("11", 42, 9, ms=38), Version("12", 9, 0, ms=36)), 90, (0.0, 0.0), None, ("payments",)),
    Made("travel-agent", (Version("3", 42, 13, ms=4200, errors=0.012), Version("4", 13, 0, ms=3600, errors=0.009)), 6, (5200, 640), 0.0021, ("travel",)),
    Made("search-rank", (Version("21", 42, 24, ms=64), Version("22", 24, 4, ms=60), Version("23", 4, 0, ms=59)), 120, (60, 0), 0.0001, ("web",)),
    Made("translate", (Version("2", 42, 2, 1.0, 700), Version("2", 2, 0, 0.5, 700), Version("3", 2, 0, 0.5, 690, 0.004, 0.055)),
         12, (300, 320), 0.0012, ("web", "mobile")),
    Made("summarize", (Version("1", 42, 3, ms=1500),), 4, (2600, 210), 0.0009, ("research",)),
)  # fmt: skip


def put(store: tables.Store, table: tables.Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows; a column that a row does not name is null."""
    made = pa.Table.from_pylist(list(rows), telemetry.arrow_schema(table.fields))
    if made.num_rows:
        store.home(table).append(made)


@dataclass(frozen=True)
class History:
    """`days` until `now` of STORY and `plain` other endpoints, into `store`."""

    store: tables.Store
    now: datetime
    days: int = 42
    seed: int = 7
    plain: int = 0

    def write(self) -> None:
        """All tables. Errors: as their homes."""
        rng = np.random.default_rng(self.seed)
        for endpoint in STORY:
            for table, rows in self._counted(rng, endpoint, rich=True).items():
                put(self.store, ALL[table], rows)
        others = list(self._plain(rng))
        for first in range(0, len(others), BATCH):
            made: dict[str, list[dict[str, Any]]] = {}
            for endpoint in others[first : first + BATCH]:
                for table, rows in self._counted(rng, endpoint, rich=False).items():
                    made.setdefault(table, []).extend(rows)
            for table, rows in made.items():
                put(self.store, ALL[table], rows)
        put(self.store, tables.DEPLOYMENTS, self._deployments())
        compared, asked = list(self._drift(rng)), list(self._asked(rng))
        samples = [row["sample"] for row in asked if row["sample"]]
        put(self.store, tables.DRIFT, self._numbered(compared, samples))
        put(self.store, tables.SAMPLES, samples)
        put(self.store, tables.REQUESTS, (row["request"] for row in asked if row["request"]))
        put(self.store, tables.SCORES, (score for row in asked for score in row["scores"]))
        judged, labels = self._judged(rng, [row["request"] for row in asked if row["request"]])
        put(self.store, tables.JUDGED, judged)
        put(self.store, tables.SCORES, labels)
        put(self.store, tables.AGENT_WINDOWS, self._agents(rng))
        put(self.store, tables.TOOL_WINDOWS, self._tools(rng))
        put(self.store, tables.CONVERSATION_WINDOWS, self._conversations(rng))
        put(self.store, tables.FRESHNESS, self._freshness())
        put(self.store, tables.COMPLETENESS, self._completeness(rng))
        put(self.store, tables.RUNS, self._runs(rng))
        put(self.store, tables.ESTIMATES, self._estimates(np.random.default_rng(self.seed)))

    def _plain(self, rng: np.random.Generator) -> Iterator[Made]:
        for n in range(self.plain):
            version = Version(str(plain_version(n)), 8, 0, 1.0, float(rng.lognormal(5, 0.7)))
            yield Made(f"endpoint-{n:04}", (version,), float(rng.integers(1, 40)))

    # counts

    def _counted(self, rng: np.random.Generator, endpoint: Made, rich: bool) -> dict[str, list[dict[str, Any]]]:
        """Windows of minutes (a day), hours and days, with output quality and cost: by name of the table. Not rich: what the fleet shows of a week."""
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        minutes = [self.now.replace(second=0, microsecond=0) - n * MINUTE for n in range(1, 24 * 60 if rich else 6)]
        hours = [hour - n * HOUR for n in range(0, self.days * 24 if rich else 7 * 24, 1 if rich else 6)]
        days = sorted({start.replace(hour=0) for start in hours})
        made = {
            table.name: [row for start in starts for row in self._windows(rng, endpoint, start, width)]
            for table, starts, width in (
                (tables.WINDOWS, minutes, MINUTE),
                (tables.WINDOWS_HOUR, hours, HOUR),
                (tables.WINDOWS_DAY, days, DAY),
            )
        }
        made[tables.COST.name] = [bill for row in made[tables.WINDOWS_DAY.name] for bill in _bill(endpoint, row)]
        if rich:
            older = [row for row in made[tables.WINDOWS_HOUR.name] if row["window_start"] < minutes[-1]]
            looked = [*made[tables.WINDOWS.name], *older]
            made[tables.QUALITY.name] = [self._quality(rng, endpoint, row) for row in looked]
        return made

    def _serving(self, endpoint: Made, start: datetime) -> list[tuple[Version, float]]:
        """The versions with traffic at a time, and the share of it that each has."""
        age = (self.now - start) / DAY
        return [(v, v.share) for v in endpoint.versions if v.last <= age < v.first]

    def _windows(self, rng: np.random.Generator, endpoint: Made, start: datetime, width: timedelta) -> Rows:
        daily = 0.55 + 0.45 * math.sin((start.hour + start.minute / 60 - 8) / 24 * 2 * math.pi)
        busy = endpoint.rate * (daily if width < DAY else 0.55) * (0.6 if start.weekday() > 4 else 1.0)
        for version, share in self._serving(endpoint, start):
            for stratum, part in zip(STRATA, (0.7, 0.3), strict=True):
                requests = float(rng.poisson(busy * share * part * (width / MINUTE)))
                if not requests:
                    continue
                failed = float(min(requests, rng.poisson(requests * version.errors)))
                middle = version.ms * (1.4 if stratum.endswith("256") else 1.0) * float(rng.lognormal(0, 0.04))
                latency: dict[int, float] = {}
                for q in QUANTILES:
                    index = bucket(middle * math.exp(0.45 * _normal(q)))
                    latency[index] = latency.get(index, 0.0) + requests / len(QUANTILES)
                codes = {"HTTP_500": failed - failed // 4, "HTTP_429": failed // 4}
                into, out = (
                    requests * tokens * (1.6 if stratum.endswith("256") else 0.8) for tokens in endpoint.tokens
                )
                yield {
                    "endpoint": endpoint.name, "model_version": version.name, "stratum": stratum, "window_start": start,
                    "rows": int(requests), "requests": requests, "errors": [(code, n) for code, n in codes.items() if n],
                    "latency": list(latency.items()), "tokens_in": into, "tokens_out": out, "told_in": requests if into else 0.0,
                    "told_out": requests if out else 0.0, "tokens_cached": into * 0.3,
                    "ttft": [(bucket(middle * 0.3), requests - failed)] if endpoint.tokens[1] else [],
                    "feature_age": [(bucket(9 * 60_000.0), requests)] if endpoint.name == "fraud-score" else [],
                }  # fmt: skip

    def _quality(self, rng: np.random.Generator, endpoint: Made, row: Mapping[str, Any]) -> dict[str, Any]:
        version = next(v for v in endpoint.versions if v.name == row["model_version"])
        answers = row["requests"] - sum(n for _, n in row["errors"])
        flags = {"answers": answers}
        if endpoint.name == "fraud-score":
            age = (self.now - row["window_start"]) / DAY
            told = float(rng.binomial(int(answers), min(0.6, max(0.0, age / 6))))
            flags |= {
                "labelled": told,
                "correct_n": told,
                "correct": float(rng.binomial(int(told), 0.94 if version.name == "11" else 0.925)),
            }
        else:
            bad = float(rng.binomial(int(answers), version.bad))
            flags |= {"bad": bad, "refusal": bad // 2, "truncated": bad - bad // 2}
        key = {name: row[name] for name in ("endpoint", "model_version", "stratum", "window_start")}
        return key | {"quality": list(flags.items())}

    # requests, samples, labels

    def _asked(self, rng: np.random.Generator) -> Rows:
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        for endpoint in STORY:
            hours = min(self.days, 35) * 24 if endpoint.name in ("fraud-score", "support-chat") else 24
            for n in range(1, hours):
                start = hour - n * HOUR
                for version, share in self._serving(endpoint, start):
                    for k in range(max(1, round(8 * share))):
                        yield self._one(
                            rng,
                            endpoint,
                            version,
                            start + float(rng.uniform(0, 3600)) * timedelta(seconds=1),
                            f"{version.name}-{n:04}{k}",
                        )

    def _judged(
        self, rng: np.random.Generator, requests: list[Mapping[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Pairs of translate's two versions that a model judged, every third put before people; and what people said, of all but the newest."""
        sides = [
            [r for r in requests if (r["endpoint"], r["model_version"]) == ("translate", v) and not r["error_code"]]
            for v in ("2", "3")
        ]
        judged: list[dict[str, Any]] = []
        labels: list[dict[str, Any]] = []
        for i, (prior, new) in enumerate(zip(*sides, strict=False)):
            at, asked = max(prior["requested_at"], new["requested_at"]) + HOUR / 4, i % 3 == 0
            good = rng.random(2) < (0.86, 0.84)
            scores = np.clip(np.where(good, 0.9, 0.3) + rng.normal(0, 0.1, 2), 0, 1)
            judged.append({
                "endpoint": "translate", "candidate": "3", "prior": "2", "scorer": "faithful", "scorer_version": "model judge-1 5f0c2a77",
                "pair_id": f"pair-{i:04}", "again": False, "request_ids": [prior["request_id"], new["request_id"]], "alike": "similar",
                "scores": [round(float(score), 1) for score in scores], "reasons": [None, None], "errors": [None, "HTTP 503"] if i == 7 else [None, None],
                "asked": asked, "chance": 1 / 3, "label_wait_s": 3 * 86_400.0, "tokens_in": 900, "tokens_out": 60, "money": 0.0011, "seconds": 1.4,
                "judged_at": min(at, self.now),
            })  # fmt: skip
            if asked and at < self.now - 6 * HOUR:
                labels += [
                    {"endpoint": "translate", "request_id": request["request_id"], "name": "faithful", "value": float(yes), "source": "ann@example.com",
                     "at": at + HOUR, "received_at": at + HOUR}
                    for request, yes in zip((prior, new), good, strict=True)
                ]  # fmt: skip
        return judged, labels

    def _one(
        self, rng: np.random.Generator, endpoint: Made, version: Version, at: datetime, number: str
    ) -> dict[str, Any]:
        failed = bool(rng.random() < version.errors * 3)
        age, ms = (self.now - at) / DAY, version.ms * float(rng.lognormal(0, 0.45))
        features = None
        if endpoint.name == "fraud-score":
            amount = float(rng.lognormal(3.4 + max(0.0, (24 - age) / 24) * 0.9, 0.8))
            country = str(
                rng.choice(["DE", "FR", "PL", "ES"], p=[0.5, 0.25, 0.15, 0.1] if age > 10 else [0.3, 0.2, 0.4, 0.1])
            )
            features = [
                ("amount", f"{amount:.2f}"),
                ("country", country),
                ("hour", str(at.hour)),
                ("visits", str(int(rng.poisson(4)))),
            ]
        question, answer = TALKS[int(rng.integers(len(TALKS)))]
        if endpoint.name == "fraud-score":
            question, answer = "", str(int(rng.random() < 0.04))
        refused = not failed and answer and rng.random() < version.bad
        answer = "I'm sorry, but I can't help with that request." if refused else answer
        name = f"{endpoint.name}-{number}"
        tokens = {
            f"tokens_{side}": int(much * rng.lognormal(0, 0.5)) or None
            for side, much in zip(("in", "out"), endpoint.tokens, strict=True)
        }
        told = {
            "endpoint": endpoint.name,
            "model_version": version.name,
            "request_id": name,
            "requested_at": at,
            "features": features,
        } | tokens
        texts = {
            "input": question or None,
            "output": None if failed else answer,
            "finish_reason": None if failed else "stop",
        }
        request = told | texts | {
            "latency_ms": ms, "latency_scope": "model", "status_code": 500 if failed else 200, "error_code": "HTTP_500" if failed else None,
            "requester": f"user-{int(rng.integers(40))}", "team": endpoint.teams[0], "weight": 1.0, "trace_id": rng.bytes(16).hex(),
            "sources": ["otlp"], "received_at": at + timedelta(seconds=3), "streaming": False,
        }  # fmt: skip
        sample = told | texts | {
            "window_start": at.replace(minute=0, second=0, microsecond=0), "hash": int(rng.integers(-(2**62), 2**62)),
            "input_chars": len(question), "output_chars": len(answer),
        }  # fmt: skip
        late = at + timedelta(hours=float(rng.lognormal(3.6, 0.5)))
        score = {"endpoint": endpoint.name, "request_id": name, "name": "label", "value": float(rng.random() < 0.05), "source": "chargebacks",
                 "at": late, "received_at": late}  # fmt: skip
        labelled = endpoint.name == "fraud-score" and late < self.now and not failed
        return {
            "request": request if age < 7 else None,
            "sample": None if failed else sample,
            "scores": [score] if labelled else [],
        }

    # what the jobs would have said

    def _deployments(self) -> Rows:
        for endpoint in STORY:
            for number, version in enumerate(endpoint.versions, 1):
                at = max(self.now - version.first * DAY, self.now - self.days * DAY)
                split = endpoint.name == "support-chat" and version.name == "8"
                for name, traffic in (("7", 75), ("8", 25)) if split else ((version.name, 100),):
                    yield {"endpoint": endpoint.name, "config_version": number, "served_entity": f"{endpoint.name}-{name}",
                           "model_version": name, "traffic": traffic, "observed_at": at}  # fmt: skip

    def _drift(self, rng: np.random.Generator) -> Rows:
        columns: dict[str, tuple[tuple[str, str, float], ...]] = {
            "fraud-score": (("feature.amount", "input", 0.22), ("feature.country", "input", 0.16), ("feature.hour", "input", 0.0),
                            ("feature.visits", "input", 0.0), ("output", "output", 0.02)),
            "support-chat": (("tokens_in", "input", 0.03), ("tokens_out", "output", 0.0), ("output_chars", "output", 0.0), ("finish_reason", "output", 0.0)),
            "search-rank": (("tokens_in", "input", 0.0), ("input_chars", "input", 0.0)),
        }  # fmt: skip
        for endpoint in STORY:
            for column, kind, moved in columns.get(endpoint.name, ()):
                for n in range(self.days):
                    at = self.now - n * DAY - HOUR
                    version = self._serving(endpoint, at)[0][0].name
                    distance = abs(0.02 + moved * max(0.0, (24 - n) / 24) + float(rng.normal(0, 0.008)))
                    low = max(0.0, distance - 0.03)
                    yield {"endpoint": endpoint.name, "model_version": version, "against": "reference", "kind": kind, "column": column, "computed_at": at,
                           "distance": distance, "low": low, "drifted": low > 0.1, "reference": "last week",
                           "method": "jensen-shannon", "p": 0.001 if low > 0.1 else 0.6,
                           "evidently_method": "Wasserstein distance (normed)", "evidently_score": distance, "evidently_drifted": distance > 0.1}  # fmt: skip

    def _numbered(self, compared: Sequence[dict[str, Any]], samples: Sequence[Mapping[str, Any]]) -> Rows:
        """Comparisons with the numbers of values behind them: a day's of the version, and of all versions a week before."""
        moments: dict[tuple[str, str | None], list[datetime]] = {}
        for sample in sorted(samples, key=lambda sample: sample["requested_at"]):
            for version in (sample["model_version"], None):
                moments.setdefault((sample["endpoint"], version), []).append(sample["requested_at"])
        first = {version.name: self.now - version.first * DAY for made in STORY for version in made.versions}
        for row in compared:
            end, begin = row["computed_at"], max(row["computed_at"] - DAY, first[row["model_version"]])

            def within(version: str | None, back: timedelta, row: Any = row, begin: Any = begin, end: Any = end) -> int:
                at = moments.get((row["endpoint"], version), [])
                return bisect_right(at, end - back) - bisect_left(at, begin - back)

            yield {**row, "n_current": within(row["model_version"], timedelta()), "n_reference": within(None, 7 * DAY)}

    def _agents(self, rng: np.random.Generator) -> Rows:
        for start, version, runs in self._runs_of_agent(rng):
            tools_failed = float(rng.binomial(int(runs), 0.05 if version == "3" else 0.02))
            calls = runs * 3
            yield {"endpoint": "travel-agent", "model_version": version, "agent": "planner", "window_start": start, "rows": int(runs), "runs": runs,
                   "failed": float(rng.binomial(int(runs), 0.01)), "looped": float(rng.binomial(int(runs), 0.012)), "loops_known": runs,
                   "step_limited": float(rng.binomial(int(runs), 0.006)), "tools_failed": tools_failed, "handoffs": runs * 0.4, "model_calls": runs * 4,
                   "tool_calls": calls, "tool_failures": tools_failed, "tokens_in": runs * 5200, "tokens_out": runs * 640, "money": runs * 0.012,
                   "priced": runs, "busy_ms": runs * 3800, "tool_ms": runs * 1300, "latency": [(bucket(3800.0), runs)]}  # fmt: skip

    def _runs_of_agent(self, rng: np.random.Generator) -> Iterator[tuple[datetime, str, float]]:
        hour = self.now.replace(minute=0, second=0, microsecond=0)
        for n in range(self.days * 24):
            runs = float(rng.poisson(200))
            yield hour - n * HOUR, "4" if n < 13 * 24 else "3", runs

    def _tools(self, rng: np.random.Generator) -> Rows:
        for start, version, runs in self._runs_of_agent(rng):
            for tool, share, fails in (
                ("search_flights", 1.4, 0.01),
                ("book_hotel", 0.5, 0.03 if version == "4" else 0.09),
                ("currency", 1.1, 0.0),
            ):
                calls = float(round(runs * share))
                errors = float(rng.binomial(int(calls), fails))
                yield {"endpoint": "travel-agent", "model_version": version, "tool": tool, "window_start": start, "calls": calls, "errors": errors,
                       "runs": min(runs, calls), "runs_failed": errors, "codes": [("timeout", errors)] if errors else [],
                       "latency": [(bucket(420.0 * share), calls)]}  # fmt: skip

    def _conversations(self, rng: np.random.Generator) -> Rows:
        for start, version, runs in self._runs_of_agent(rng):
            talks = float(round(runs / 4))
            yield {"endpoint": "travel-agent", "model_version": version, "window_start": start, "conversations": talks, "closed": talks,
                   "abandoned": float(rng.binomial(int(talks), 0.03)), "repeated": float(rng.binomial(int(talks), 0.05)), "repeated_known": talks,
                   "escalated": float(rng.binomial(int(talks), 0.02)), "requests": runs}  # fmt: skip

    def _freshness(self) -> Rows:
        for name, hours in (("shop.features.customers", 2), ("shop.features.merchants", 31)):
            yield {
                "endpoint": "fraud-score",
                "kind": "feature_table",
                "name": name,
                "as_of": self.now - hours * HOUR,
                "checked_at": self.now,
            }

    def _completeness(self, rng: np.random.Generator) -> Rows:
        for endpoint in STORY:
            for n in range(1, 48):
                at = self.now.replace(minute=0, second=0, microsecond=0) - n * HOUR
                for version, share in self._serving(endpoint, at):
                    expected = endpoint.rate * 30 * share
                    seen = int(expected * float(rng.uniform(0.97, 1.0)))
                    yield {"endpoint": endpoint.name, "model_version": version.name, "window_start": at, "seen": seen, "expected": expected,
                           "expected_from": "endpoint", "share": min(1.0, seen / expected),
                           "delivery_lag_p50_ms": 2100.0, "delivery_lag_p95_ms": 9000.0}  # fmt: skip

    def _estimates(self, rng: np.random.Generator) -> Rows:
        """What the scores of fraud-score say of it by day: of older days most labels are there; since a week its score means less to the newest version."""
        today = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        for version in next(endpoint for endpoint in STORY if endpoint.name == "fraud-score").versions:
            drawn: dict[date, tuple[Any, ...]] = {}
            for ago in range(math.ceil(version.last), min(int(version.first), self.days) + 1):
                scores = rng.beta(1, 3, 900)
                labels = (rng.random(900) < (0.02 + 0.9 * scores if version.name == "11" or ago > 3 else 0.45)).astype(
                    float
                )
                labels[rng.random(900) >= min(0.8, ago / 12)] = np.nan
                drawn[(today - ago * DAY).date()] = (scores, scores > 0.5, labels)
            if not drawn:  # it served before these days
                continue
            until = min(drawn) + timedelta(days=4)
            known = [
                np.concatenate(parts)
                for parts in zip(*(rows for day, rows in drawn.items() if day < until), strict=True)
            ]
            told = np.isfinite(known[2])
            calibration = calibrate(known[0][told], known[1][told], known[2][told])
            counted = {day: Counted([[tally(calibration.grid, *rows)]], 0, 90 * 1440) for day, rows in drawn.items()}
            yield from rows_of(
                "fraud-score", days(version.name, [(CLASSIFICATION, [calibration])], counted, until, min(drawn))
            ).to_pylist()

    def _runs(self, rng: np.random.Generator) -> Rows:
        jobs = (("conform", "inbox"), ("windows", "requests"), ("hours", "windows"), ("quality", "requests"), ("drift", "samples"), ("judge", "windows"),
                ("cost", "requests"))  # fmt: skip
        for number, (job, source) in enumerate(jobs):
            newest = self.store.home(ALL[source]).version() or 0
            for n in range(3):
                yield {"job": job, "source": source, "version": newest - n, "rows_in": int(rng.integers(2000)), "rows_out": int(rng.integers(900)),
                       "seconds": round(float(rng.uniform(2, 30)), 2), "finished_at": self.now - timedelta(minutes=4 + number + 15 * n),
                       "after": newest - n - 1, "quarantined": 0, "windows": 12}  # fmt: skip


TALKS: Sequence[tuple[str, str]] = (
    ("Where is my parcel?", "Your parcel left our depot this morning. It arrives tomorrow before noon."),
    (
        "How do I change my address?",
        "Open Settings, choose Address, and save the new one. Orders on their way keep the old address.",
    ),
    ("Can I return shoes that I have worn?", "Shoes can be returned within 30 days when they were worn indoors only."),
    ("Which card do you take?", "We take Visa, Mastercard and SEPA direct debit."),
    ("The app shows error 4102.", "Error 4102 means that the session has ended. Sign in again; your cart is kept."),
)


def plain_version(number: int) -> int:
    """What a plain endpoint serves."""
    return 2 + number % 38


def _normal(q: float) -> float:
    """The q-quantile of the standard normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(q)


def _bill(endpoint: Made, row: Mapping[str, Any]) -> Rows:
    """The day's row of `cost` that a row of windows gives: its teams share it evenly."""
    if row["stratum"] != STRATA[0]:
        return
    tokens = row["tokens_in"] + row["tokens_out"]
    for team in endpoint.teams:
        share = 1 / len(endpoint.teams)
        money = None if endpoint.price is None else tokens / 1000 * endpoint.price * share
        yield {"endpoint": row["endpoint"], "model_version": row["model_version"], "team": team, "window_start": row["window_start"],
               "requests": row["requests"] * share, "requests_with_tokens": row["told_in"] * share, "tokens_in": row["tokens_in"] * share,
               "tokens_out": row["tokens_out"] * share, "busy_s": row["requests"] * 0.3 * share, "mode": "pay_per_token", "money": money,
               "dbu": money}  # fmt: skip
