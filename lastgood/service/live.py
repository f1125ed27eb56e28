"""Requests as the receiver commits them -> verdicts every few seconds, by the same judge as the scheduled job's.

The fast path only raises: it hands over Page and RollBack, and leaves it to the scheduled job, which sees everything, to say that a
version is healthy. Both name the same endpoint and candidate, so one incident comes of both.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.judge import Evidence, History, Verdict, budget, judge
from lastgood.judge.records import columns_of
from lastgood.record.verdict import LIVE
from lastgood.service.replay import records, since_new
from lastgood.settings import Settings

COLUMNS = (
    "endpoint", "request_id", "model_version", "requested_at", "latency_ms", "latency_scope", "ttft_ms", "tokens_in", "tokens_out",
    "error_code", "requester", "feature_age_ms",
)  # fmt: skip
EPOCH = timedelta(hours=1)
AHEAD = timedelta(minutes=1)
"""How far a request's time may be ahead of the clock here."""
FRESH, FRESH_PER_S, PER_S = timedelta(minutes=10), 100.0, 10.0
"""Requests a second that each window keeps of an endpoint, in the first ten minutes of a version and later. Of more, those with the
smaller hashes are kept: blind to version and outcome. A window is thinned as it fills, so that what was judged stays as it was; twice as
many may come late."""
VERSIONS = 100
"""Of more names of versions than this, those without a request in what is kept are forgotten: a name is whatever a sender wrote."""
LATE_S = 2.0
"""A window is judged this long after its end; the commit interval is shorter."""


@dataclass
class _Endpoint:
    since: datetime
    rows: pa.Table
    shares: dict[int, float] = field(default_factory=dict)
    candidate: str = ""
    prior: str | None = None
    seen: dict[str, datetime] = field(default_factory=dict)
    spoke: bool = False


class Live:
    """`take` is the receiver's sink (any thread); `verdicts` judges what is new."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._settings, self._clock = settings, clock
        self._endpoints: dict[str, _Endpoint] = {}
        self._lock = threading.Lock()

    def take(self, table: pa.Table) -> None:
        """Add a commit's requests (inbox columns); what cannot be a record is left out."""
        good = table.filter(pc.is_null(table["reject_reason"])) if "reject_reason" in table.column_names else table
        now, at = self._clock(), good["requested_at"]
        first, last = (pa.scalar(bound, at.type) for bound in (now - 2 * EPOCH, now + AHEAD))
        timely = pc.and_(pc.greater_equal(at, first), pc.less_equal(at, last))
        good = good.select(COLUMNS).filter(pc.and_(timely, pc.is_valid(good["model_version"])))
        with self._lock:
            for name in pc.unique(good["endpoint"]).to_pylist():
                self._add(name, good.filter(pc.equal(good["endpoint"], name)), now)

    def _add(self, name: str, rows: pa.Table, now: datetime) -> None:
        window = (rows["requested_at"].cast(pa.int64()).to_numpy() // (self._settings.live_every_s * 1e6)).astype(
            np.int64
        )
        draws = [
            int.from_bytes(blake2b(str(identifier).encode(), digest_size=4).digest())
            for identifier in rows["request_id"].to_pylist()
        ]
        rows = rows.append_column("window", pa.array(window)).append_column("draw", pa.array(np.array(draws) / 2**32))
        state = self._endpoints.setdefault(name, _Endpoint(now, rows.slice(0, 0)))
        for version in pc.unique(rows["model_version"]).to_pylist():
            state.seen.setdefault(version, now)
        state.rows = self._thinned(state, pa.concat_tables([state.rows, rows]), np.unique(window), now)

    def _thinned(self, state: _Endpoint, rows: pa.Table, touched: "np.ndarray[Any, Any]", now: datetime) -> pa.Table:
        width = self._settings.live_every_s
        settled = (max(state.seen.values()) + FRESH).timestamp()
        window, draw = rows["window"].to_numpy(), rows["draw"].to_numpy()
        gone = np.zeros(len(rows), bool)
        for start in touched.tolist():
            here, share = window == start, state.shares.get(start, 1.0)
            most = width * (FRESH_PER_S if start * width < settled else PER_S)
            room = most if (start + 1) * width > now.timestamp() - LATE_S else 2 * most
            while (here & (draw < share)).sum() > room:
                share /= 2
            state.shares[start] = share
            gone |= here & (draw >= share)
        return rows.filter(pa.array(~gone)) if gone.any() else rows

    def knows(self, verdict: Verdict) -> None:
        """Learn from a scheduled verdict which version is new and which was before it."""
        with self._lock:
            if state := self._endpoints.get(verdict.endpoint):
                state.candidate, state.prior = verdict.candidate, verdict.prior

    def verdicts(self, history: Callable[[str], History]) -> list[Verdict]:
        """Page and RollBack verdicts on the newest requests, and the first milder one after them. `history`: what the judge must know, by endpoint."""
        verdicts = []
        for name in list(self._endpoints):
            verdict = self.look(name, history(name))
            if verdict and (verdict.bad or self._endpoints[name].spoke):
                verdicts.append(replace(verdict, judge=LIVE))
                self._endpoints[name].spoke = verdict.bad
            with self._lock:
                if not self._endpoints[name].rows.num_rows:  # else every name that was ever sent stays
                    del self._endpoints[name]
        return verdicts

    def look(self, name: str, history: History) -> Verdict | None:
        """The verdict on one endpoint now, whatever it is; None without two versions."""
        now, width = self._clock(), self._settings.live_every_s
        with self._lock:
            state = self._endpoints[name]
            epoch = int((now - state.since) / EPOCH)
            start = state.since + max(0, epoch - 1) * EPOCH
            oldest = pa.scalar(start - EPOCH, state.rows.schema.field("requested_at").type)
            # Combined: else a chunk for every commit stays.
            state.rows = state.rows.filter(pc.greater_equal(state.rows["requested_at"], oldest)).combine_chunks()
            state.shares = {
                minute: share for minute, share in state.shares.items() if minute * width >= (start - EPOCH).timestamp()
            }
            if len(state.seen) > VERSIONS:
                kept = {state.candidate, state.prior, *pc.unique(state.rows["model_version"]).to_pylist()}
                state.seen = {version: first for version, first in state.seen.items() if version in kept}
            rows, pair = state.rows, self._pair(state)
        if pair is None:
            return None
        # What a version did before it was rolled back is spent: tried again, it begins anew.
        start = max(start, *history.rolled_back.get(pair[0], (start,)))
        closed = np.floor((now.timestamp() - LATE_S) / width) * width
        table = rows.filter(
            pc.greater_equal(rows["requested_at"], pa.scalar(start, rows.schema.field("requested_at").type))
        )
        table = _unique(table)
        policy = self._settings.endpoint(name).policy
        if not {pair[0], pair[1]} <= set(pc.unique(table["model_version"]).to_pylist()):
            return None
        given = records(table, name, *pair)
        given = given.take(given.at < closed)
        cols = since_new(columns_of(given, width, policy.feature_age_limit_ms))
        share = budget.segment(LIVE, state.since, now)[1]
        return judge(Evidence(name, pair[0], pair[1], cols, round(width)), policy, replace(history, share=share), now)

    def _pair(self, state: _Endpoint) -> tuple[str, str] | None:
        """Candidate and prior: as the scheduled job has them, or the version that came last and the one before it."""
        order = sorted(state.seen, key=lambda version: (state.seen[version], version))
        newest = order[-1] if order else ""
        if state.candidate and (
            newest in (state.candidate, state.prior) or state.seen.get(newest) == state.seen.get(state.candidate)
        ):
            return (state.candidate, state.prior) if state.prior else None
        # Versions that were all there in the first commit have no order: nobody is accused until the job has said which is new.
        before = [a for a, b in pairwise(order) if b == newest and state.seen[a] < state.seen[b]]
        return (newest, state.candidate or before[-1]) if before or state.candidate else None


def _unique(table: pa.Table) -> pa.Table:
    """One row per request: exporters send again what was not acknowledged in time."""
    index = pa.array(np.arange(table.num_rows))
    keyed = pa.table({"id": table["request_id"], "index": index})
    return table.take(keyed.group_by("id").aggregate([("index", "min")])["index_min"])
