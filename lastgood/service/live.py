"""Requests as the receiver commits them -> verdicts every few seconds, by the same judge as the scheduled job's.

The fast path only raises: it hands over Page and RollBack, and leaves it to the scheduled job, which sees everything, to say that a
version is healthy. Which versions are judged, and against which, the ledger of configurations says; where there is none, the scheduled job.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.judge import Drifted, Evidence, History, Verdict, budget, judge
from lastgood.judge.ledger import SEEN_LATE, Configuration, Pair, Stints, judged, planned, version_then
from lastgood.judge.records import columns_of
from lastgood.record import telemetry
from lastgood.record.verdict import LIVE
from lastgood.service.histories import Asked
from lastgood.service.replay import records
from lastgood.service.traces import Traces
from lastgood.settings import Settings

COLUMNS = (
    "endpoint", "request_id", "model_version", "requested_at", "latency_ms", "latency_scope", "ttft_ms", "tokens_in", "tokens_out",
    "error_code", "requester", "feature_age_ms", "trace_id",
)  # fmt: skip
EMPTY = telemetry.arrow_schema(telemetry.INBOX).empty_table()
KEPT = 2 * budget.EPOCHS[LIVE]
AHEAD = timedelta(minutes=1)
"""How far a request's time may be ahead of the clock here."""
FRESH, FRESH_PER_S, PER_S = timedelta(minutes=10), 100.0, 10.0
"""Requests a second that each window keeps of an endpoint, in the first ten minutes of a version and later. Of more, those with the
smaller hashes are kept: blind to version and outcome. A window is thinned as it fills, so that what was judged stays as it was; twice as
many may come late."""
LATE_S = 2.0
"""A window is judged this long after its end; the commit interval is shorter."""
NAMES = 100
"""How many versions that no configuration names are reported."""


@dataclass
class _Endpoint:
    rows: pa.Table
    shares: dict[int, float] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()
    planned: Sequence[Configuration] = ()
    newest: datetime | None = None
    spoke: set[str] = field(default_factory=set)


def _first(asked: Iterable[Asked]) -> dict[Asked, int]:
    return dict.fromkeys(asked, 1)


class Live:
    """`take` is the receiver's sink (any thread); `learn` and `knows` say which versions are judged; `verdicts` judges what is new.
    numbered: which look history of each epoch this is (see service.histories)."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime],
        numbered: Callable[[Iterable[Asked]], dict[Asked, int]] = _first,
    ) -> None:
        self._settings, self._clock, self._numbered = settings, clock, numbered
        self._endpoints: dict[str, _Endpoint] = {}
        self._ledger: dict[str, Sequence[Configuration]] = {}
        self._stints: dict[tuple[str, str], Stints] = {}
        self._told: dict[str, dict[str, Pair]] = {}
        self._drifted: dict[tuple[str, str], Sequence[Drifted]] = {}
        self._replicas: dict[str, float] = {}
        self._scaled: dict[str, list[datetime]] = {}
        self._lock = threading.Lock()
        self._traces = Traces(settings.receiver.hold_s)

    @property
    def left_out(self) -> int:
        """Parts of traces that were not told to the judge here: it is the scheduled job that counts them."""
        return sum(self._traces.left_out.values())

    @property
    def held(self) -> int:
        """Parts of traces that are held, so that what belongs together is one request."""
        return self._traces.held

    def take(self, table: pa.Table | None = None) -> None:
        """Add a commit's requests (inbox columns), parts of a trace as the request they are; what cannot be a record is left out. Without a
        table: tell the traces that were held long enough."""
        with self._lock:
            table, again = self._traces.take(EMPTY if table is None else table, self._clock().timestamp())
            for state in self._endpoints.values() if again else ():
                state.rows = state.rows.filter(
                    pc.invert(pc.is_in(state.rows["trace_id"], pa.array(again, pa.string())))
                )
        good = table.filter(pc.is_null(table["reject_reason"]))
        now, at = self._clock(), good["requested_at"]
        first, last = (pa.scalar(bound, at.type) for bound in (now - KEPT - SEEN_LATE, now + AHEAD))
        timely = pc.and_(pc.greater_equal(at, first), pc.less_equal(at, last))
        good = self._named(good.filter(timely)).select(COLUMNS)
        good = good.filter(pc.is_valid(good["model_version"]))
        with self._lock:
            for name in pc.unique(good["endpoint"]).to_pylist():
                self._add(name, good.filter(pc.equal(good["endpoint"], name)), now)

    def _named(self, rows: pa.Table) -> pa.Table:
        """Requests that name their served entity only, with the version that it was: external models have no other name in a span."""
        versions, entities = rows["model_version"], rows["served_entity"]
        if not pc.any(pc.and_(pc.is_null(versions), pc.is_valid(entities))).as_py():
            return rows
        asked = zip(
            versions.to_pylist(),
            rows["endpoint"].to_pylist(),
            entities.to_pylist(),
            rows["requested_at"].to_pylist(),
            strict=True,
        )
        named = [
            version
            if version is not None or entity is None
            else version_then(self._stints.get((endpoint, entity), ()), at)
            for version, endpoint, entity, at in asked
        ]
        return rows.set_column(
            rows.schema.get_field_index("model_version"), "model_version", pa.array(named, pa.string())
        )

    def _add(self, name: str, rows: pa.Table, now: datetime) -> None:
        window = (rows["requested_at"].cast(pa.int64()).to_numpy() // (self._settings.live_every_s * 1e6)).astype(
            np.int64
        )
        draws = [
            int.from_bytes(blake2b(str(identifier).encode(), digest_size=4).digest())
            for identifier in rows["request_id"].to_pylist()
        ]
        rows = rows.append_column("window", pa.array(window)).append_column("draw", pa.array(np.array(draws) / 2**32))
        state = self._endpoints.setdefault(name, _Endpoint(rows.slice(0, 0)))
        state.rows = self._thinned(state, pa.concat_tables([state.rows, rows]), np.unique(window), now)

    def _thinned(self, state: _Endpoint, rows: pa.Table, touched: "np.ndarray[Any, Any]", now: datetime) -> pa.Table:
        width = self._settings.live_every_s
        settled = ((state.newest or now) + FRESH).timestamp()
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

    def learn(
        self, ledger: Mapping[str, Sequence[Configuration]], stints: Mapping[tuple[str, str], Stints] | None = None
    ) -> None:
        """Learn the configurations of all endpoints, as they were observed; and which version each served entity was."""
        with self._lock:
            self._ledger, self._stints = dict(ledger), dict(stints or {})

    def scales(self, minutes: Iterable[Mapping[str, Any]]) -> None:
        """Learn from rows of endpoint_minutes where replicas were added: they are cold."""
        with self._lock:
            for row in minutes:
                name, at, count = row["endpoint"], row["minute"], row.get("provisioned")
                if count is None:
                    continue
                if count > self._replicas.get(name, count):
                    self._scaled[name] = [*(then for then in self._scaled.get(name, ()) if then >= at - KEPT), at]
                self._replicas[name] = count

    def knows(self, verdict: Verdict) -> None:
        """Learn from a scheduled verdict what drifted, which only tables tell; and for want of a ledger against which version another one is
        judged, and since when."""
        since = verdict.figures.get("deployed")
        since = datetime.fromisoformat(since) if isinstance(since, str) else since
        with self._lock:
            told = self._told.setdefault(verdict.endpoint, {})
            if verdict.judge != LIVE:
                moved = verdict.figures.get("drifted", ())
                self._drifted[verdict.endpoint, verdict.candidate] = [Drifted(**drifted) for drifted in moved]
            if verdict.judge != LIVE and verdict.prior is not None:
                told[verdict.candidate] = Pair(verdict.candidate, verdict.prior, since or verdict.judged_at - KEPT)

    def unknown(self) -> set[tuple[str, str]]:
        """(endpoint, version) of requests whose version the ledger's newest configuration does not name: it has changed, or the name is wrong."""
        unnamed: set[tuple[str, str]] = set()
        with self._lock:
            for name, state in self._endpoints.items():
                given = self._ledger.get(name)
                if given:
                    versions = pc.unique(state.rows["model_version"]).to_pylist()[:NAMES]
                    unnamed |= {(name, version) for version in versions if not given[-1].traffic.get(version)}
        return unnamed

    def verdicts(self, history: Callable[[str], History]) -> list[Verdict]:
        """Page and RollBack verdicts on the newest requests, and the first milder one after them. `history`: what the judge must know, by endpoint."""
        self.take()
        verdicts = []
        for name in list(self._endpoints):
            for verdict in self.look(name, history(name)):
                spoke = self._endpoints[name].spoke
                if verdict.bad or verdict.candidate in spoke:
                    verdicts.append(verdict)
                    (spoke.add if verdict.bad else spoke.discard)(verdict.candidate)
            with self._lock:
                if not self._endpoints[name].rows.num_rows:  # else every name that was ever sent stays
                    del self._endpoints[name]
        return verdicts

    def look(self, name: str, history: History) -> list[Verdict]:
        """The verdicts on one endpoint's versions now, whatever they are."""
        now, width = self._clock(), self._settings.live_every_s
        with self._lock:
            state = self._endpoints[name]
            oldest = now - KEPT - SEEN_LATE
            bound = pa.scalar(oldest, state.rows.schema.field("requested_at").type)
            # Combined: else a chunk for every commit stays.
            state.rows = state.rows.filter(pc.greater_equal(state.rows["requested_at"], bound)).combine_chunks()
            kept = oldest.timestamp()
            state.shares = {window: share for window, share in state.shares.items() if window * width >= kept}
            state.planned = self._ledger.get(name, ())
            own = [pair for pair in judged(state.planned, history.rolled_back) if pair.prior]
            own = own or list(self._told.get(name, {}).values())
            away = history.rolled_back
            pairs = [replace(pair, since=max([pair.since, *away.get(pair.candidate, ())])) for pair in own]
            state.newest = max((pair.since for pair in pairs), default=None)
            rows = state.rows
        if not pairs or not rows.num_rows:
            return []
        asked = {pair: (name, pair.candidate, pair.since, budget.epoch(LIVE, pair.since, now)) for pair in pairs}
        numbers = self._numbered(asked.values())
        rows = _unique(rows)
        looks = [self._judged(name, pair, rows, state.planned, history, numbers[asked[pair]], now) for pair in pairs]
        return [verdict for verdict in looks if verdict]

    def _judged(
        self,
        name: str,
        pair: Pair,
        rows: pa.Table,
        configurations: Sequence[Configuration],
        history: History,
        nth: int,
        now: datetime,
    ) -> Verdict | None:
        """None where one of the two versions has no requests."""
        width, policy = self._settings.live_every_s, self._settings.endpoint(name).policy
        start, share = budget.segment(LIVE, pair.since, now)
        # A configuration is seen a little after it was made; a version that was rolled back begins with that moment.
        start = start if pair.candidate in history.rolled_back else start - SEEN_LATE
        closed = np.floor((now.timestamp() - LATE_S) / width) * width
        compared = rows.filter(
            pc.and_(
                pc.greater_equal(rows["requested_at"], pa.scalar(start, rows.schema.field("requested_at").type)),
                pc.is_in(rows["model_version"], pa.array([pair.candidate, pair.prior])),
            )
        )
        if pair.prior is None or len(pc.unique(compared["model_version"])) < 2:
            return None
        given = records(compared, name, pair.candidate, pair.prior)
        given = given.take(given.at < closed)
        cols = columns_of(given, width, policy.feature_age_limit_ms)
        evidence = Evidence(
            name,
            pair.candidate,
            pair.prior,
            cols,
            round(width),
            drift=self._drifted.get((name, pair.candidate), ()),
            planned=planned(configurations, pair),
            deployed=pair.since,
            scaled=tuple(self._scaled.get(name, ())),
        )
        verdict = judge(evidence, policy, replace(history, share=share * budget.of_history(nth)), now)
        return replace(verdict, judge=LIVE)


def _unique(table: pa.Table) -> pa.Table:
    """One row per request: exporters send again what was not acknowledged in time."""
    index = pa.array(np.arange(table.num_rows))
    keyed = pa.table({"id": table["request_id"], "index": index})
    return table.take(keyed.group_by("id").aggregate([("index", "min")])["index_min"])
