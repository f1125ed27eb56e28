"""Window counts, verdicts, drift, runs, operations and the receiver's own tally -> Prometheus metrics of `lastgood.record.exported`.

Counters follow the `windows` table through its change data feed, from the version remembered in a small ledger file: late rows and
re-runs change a window, and the counter by the difference. Histograms are kept in the buckets of `windows`: the classic ones and the
native ones are made of them. A total that shrinks (a request moved to another version) is held, so
counters never go backwards, over restarts included. Where the ledger is lost, counting starts anew at zero, which Prometheus takes as a restart.
"""

import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.samples import BucketSpan, Exemplar, NativeHistogram, Sample

from lastgood import __version__, tables
from lastgood.dashboards import protobuf
from lastgood.dashboards.exemplars import Exemplars
from lastgood.errors import TransientError
from lastgood.judge.days import Day, unknown, worse
from lastgood.record.exported import AGE_BUCKETS_S, BUCKETS_S, BY_NAME, VERDICTS
from lastgood.record.windows import middle
from lastgood.settings import Settings
from lastgood.tables import edits, estimated, judging, measures
from lastgood.tables.health import completeness
from lastgood.tables.history import whole
from lastgood.tables.homes import TableHome

log = logging.getLogger(__name__)

Totals = dict[str, float]
Version = tuple[str, str]
HISTOGRAMS = {
    "latency": ("lastgood_request_duration_seconds", BUCKETS_S),
    "ttft": ("lastgood_first_token_seconds", BUCKETS_S),
    "feature_age": ("lastgood_feature_age_seconds", AGE_BUCKETS_S),
}
COUNTERS = {
    "requests": "lastgood_requests",
    "tokens_in": "lastgood_tokens_in",
    "tokens_out": "lastgood_tokens_out",
    "told_in": "lastgood_requests_with_tokens_in",
    "told_out": "lastgood_requests_with_tokens_out",
    "answers": "lastgood_answers",
    "bad": "lastgood_bad_answers",
    "labelled": "lastgood_answers_labelled",
    "correct_n": "lastgood_outcomes",
    "correct": "lastgood_outcomes_correct",
}
ANSWERS = ("answers", "bad", "labelled", "correct_n", "correct")
"""What is counted of output quality."""
AGENT_COUNTERS = {
    "runs": "lastgood_agent_runs", "looped": "lastgood_agent_runs_looped", "step_limited": "lastgood_agent_runs_step_limited",
}  # fmt: skip
TALLY = {
    "accepted": "lastgood_spans_accepted", "rows": "lastgood_spans_stored",
    "set_aside": "lastgood_spans_set_aside", "others": "lastgood_spans_ignored", "commits": "lastgood_commits",
    "commit_seconds": "lastgood_commit_seconds", "drain_restarts": "lastgood_drain_restarts", "spool_errors": "lastgood_spool_errors",
    "task_errors": "lastgood_task_errors", "live_left_out": "lastgood_trace_parts_left_out",
}  # fmt: skip
REFUSED = "refused_"
"""What the names of the tally's counts of refused exports begin with; the reason follows."""


SCORERS: Mapping[str, Callable[[judging.Summary], float | None]] = {
    "lastgood_scorer_answers": lambda row: row.calls_today, "lastgood_scorer_failed": lambda row: row.failed_today,
    "lastgood_scorer_agreement": lambda row: row.agrees, "lastgood_scorer_moved": lambda row: row.moved,
    "lastgood_scorer_unlabelled": lambda row: row.unlabelled,
}  # fmt: skip


@dataclass(frozen=True)
class Operations:
    """What the alerting layer says of itself. Times in seconds, by endpoint; rollbacks by (endpoint, state); `cannot_protect`: reason ->
    whether it holds now."""

    incidents: Mapping[str, int] = field(default_factory=dict)
    rollbacks: Mapping[tuple[str, str], int] = field(default_factory=dict)
    detect_s: Mapping[str, float] = field(default_factory=dict)
    restore_s: Mapping[str, float] = field(default_factory=dict)
    kill_switch: bool = False
    waiting: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    cannot_protect: Mapping[str, bool] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    pauses: Mapping[str, int] = field(default_factory=dict)


def amounts(row: Mapping[str, Any]) -> Totals:
    """One row of `windows`, `quality`, `agent_windows` or `tool_windows` as additive amounts: `requests`, `error/CODE`, `latency/BUCKET`, ..."""
    if "agent" in row:
        return {name: row[name] for name in AGENT_COUNTERS}
    if "tool" in row:
        return {f"{TOOL}{row['tool']}": row["calls"], f"{TOOL_ERROR}{row['tool']}": row["errors"]}
    totals: Totals = {
        name: row[name] for name in ("requests", "tokens_in", "tokens_out", "told_in", "told_out") if row.get(name)
    }
    totals |= {f"{ERROR}{code}": number for code, number in row.get("errors") or ()}
    for name in HISTOGRAMS:
        totals |= {f"{name}/{index}": number for index, number in row.get(name) or ()}
    answers = dict(row.get("quality") or ())
    return totals | {name: answers[name] for name in ANSWERS if name in answers}


COUNTED = (tables.WINDOWS, tables.QUALITY, tables.AGENT_WINDOWS, tables.TOOL_WINDOWS)
"""Tables whose changes the counters follow."""
RECENT, FIRST = timedelta(days=30), timedelta(days=1)
WEEK, NEWEST, ESTIMATED = timedelta(days=7), timedelta(hours=2), timedelta(days=14)
"""How far back rollbacks are counted, and windows when counting begins."""
SCHEMA = 4
"""Resolution of native histograms: bounds are powers of 2 ** (2 ** -SCHEMA), 4.4% apart. Prometheus takes -4 to 8."""
ZERO_THRESHOLD = 2.0**-128


@lru_cache(maxsize=10_000)
def place(index: int, edges: tuple[float, ...]) -> tuple[float, float, int | None]:
    """Of a bucket of windows in milliseconds: (its middle in seconds, the classic bucket's edge, the native bucket; None: zero)."""
    seconds = middle(index) / 1000
    edge = next((edge_s for edge_s in edges if seconds <= edge_s), math.inf)
    return seconds, edge, math.ceil(math.log2(seconds) * 2**SCHEMA) if seconds > 0 else None


def native(total: float, sum_s: float, zero: float, buckets: Mapping[int, float]) -> NativeHistogram:
    """A native histogram of these counts by native bucket."""
    spans: list[BucketSpan] = []
    deltas, held, end = [], 0.0, 0
    for index in sorted(buckets):
        if spans and index == end:
            spans[-1] = BucketSpan(spans[-1].offset, spans[-1].length + 1)
        else:
            spans.append(BucketSpan(index - end, 1))
        deltas.append(buckets[index] - held)
        held, end = buckets[index], index + 1
    return NativeHistogram(total, sum_s, SCHEMA, ZERO_THRESHOLD, zero, spans, pos_deltas=deltas)  # type: ignore[arg-type]


ERROR, TOOL, TOOL_ERROR = "error/", "tool/", "tool error/"
BOUNDED = (ERROR, TOOL, TOOL_ERROR)
OTHER = "other"
MAX_NAMES = 20
"""Error codes, and tools, that a version has series of; what has another is counted as `other`."""


def _kind(name: str) -> str | None:
    """Of which of BOUNDED an amount is."""
    return next((kind for kind in BOUNDED if name.startswith(kind)), None)


_SIGN = {"insert": 1, "update_postimage": 1, "delete": -1, "update_preimage": -1}


PARTS = (ERROR, *(f"{name}/" for name in HISTOGRAMS))
"""Kinds of amounts whose sum must never exceed the requests that they are parts of."""


def hold(now: Totals, held: Totals) -> None:
    """Raise what is exported to what is counted; nothing that is exported ever falls. Of PARTS the sum rises to the largest that was ever counted and
    no further: a request whose code (or latency) is corrected would else be exported under both, and a version show more errors than requests."""
    parts: dict[str, Totals] = {}
    for name, number in now.items():
        kind = next((kind for kind in PARTS if name.startswith(kind)), None)
        if kind is None:
            held[name] = max(held.get(name, 0.0), number)
        else:
            parts.setdefault(kind, {})[name] = number
    for kind, counted in parts.items():
        for name in counted:
            held.setdefault(name, 0.0)
        room = math.fsum(counted.values()) - math.fsum(number for name, number in held.items() if name.startswith(kind))
        due = {name: number - held[name] for name, number in counted.items() if number > held[name]}
        if math.fsum(due.values()) <= room + 1e-9 * abs(room):
            held.update({name: counted[name] for name in due})
            continue
        for name in sorted(due, key=lambda each: (-due[each], each)):
            rise = min(due[name], room)
            if rise <= 0:
                break
            held[name] += rise
            room -= rise


@dataclass
class Ledger:
    """Totals per version since counting began, and up to which table versions; `exported` never shrinks."""

    path: Path | None = None
    versions: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    now: dict[Version, Totals] = field(default_factory=lambda: defaultdict(dict))
    exported: dict[Version, Totals] = field(default_factory=lambda: defaultdict(dict))

    def __post_init__(self) -> None:
        if self.path is None or not self.path.exists():
            return
        try:
            kept = json.loads(self.path.read_text())
            self.versions = {str(name): int(version) for name, version in kept["versions"].items()}
            self.ids = {str(name): str(table_id) for name, table_id in kept.get("ids", {}).items()}
            for endpoint, version, now, exported in kept["totals"]:
                self.now[endpoint, version], self.exported[endpoint, version] = now, exported
        except (ValueError, KeyError, TypeError):
            self.restart()

    def restart(self) -> None:
        """Count anew: the tables are others than those that were counted."""
        self.versions, self.ids, self.now, self.exported = {}, {}, defaultdict(dict), defaultdict(dict)

    def save(self) -> None:
        if self.path is None:
            return
        totals = [[*key, self.now[key], self.exported[key]] for key in sorted(self.now)]
        draft = self.path.with_suffix(".new")
        draft.write_text(json.dumps({"versions": self.versions, "ids": self.ids, "totals": totals}))
        draft.replace(self.path)

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Changes of windows: what came is added, what it replaces taken away."""
        counted = [((row["endpoint"], row["model_version"]), _SIGN[row["_change_type"]], amounts(row)) for row in rows]
        self._admit((key, name, number) for key, _, figures in counted for name, number in figures.items())
        for key, sign, figures in counted:
            totals = self.now[key]
            for name, number in figures.items():
                kind = _kind(name)
                label = name if kind is None or name in totals else f"{kind}{OTHER}"
                totals[label] = totals.get(label, 0.0) + sign * number
        for key in {key for key, _, _ in counted}:
            hold(self.now[key], self.exported[key])

    def _admit(self, figures: Iterable[tuple[Version, str, float]]) -> None:
        """Give the names that are new a series of their own, the more frequent first, up to MAX_NAMES of a version and kind: what is beyond is
        counted as `other`, now and later, so that no counter moves from one to another. A tool that fails has a series of its own where its calls
        have."""
        new: dict[tuple[Version, str], Totals] = {}
        for key, name, number in figures:
            kind = _kind(name)
            if kind and name not in self.now[key]:
                names = new.setdefault((key, kind), {})
                names[name] = names.get(name, 0.0) + number
        for (key, kind), names in sorted(new.items(), key=lambda item: BOUNDED.index(item[0][1])):
            totals = self.now[key]
            if kind == TOOL_ERROR:
                calls = {name.removeprefix(kind) for name in names if f"{TOOL}{name.removeprefix(kind)}" in totals}
                totals |= {f"{kind}{tool}": 0.0 for tool in calls}
                continue
            room = MAX_NAMES - sum(name.startswith(kind) and name != f"{kind}{OTHER}" for name in totals)
            for name in sorted(names, key=lambda each: (-names[each], each))[: max(room, 0)]:
                totals[name] = 0.0


Encode = Callable[[Any], bytes]


@dataclass(frozen=True)
class _Part:
    """Some of the metrics, where prometheus-client wants a registry."""

    collect: Callable[[], Iterator[Metric]]


class Exporter:
    """What `/metrics` shows of the tables in `store`: `refresh` reads what is new, `text` is what a scraper gets.

    Figures of versions change only with a refresh, and are encoded then: with hundreds of versions that is most of a scrape.
    """

    def __init__(
        self,
        store: tables.Store,
        ledger: Path | None = None,
        operations: Callable[[], Operations] = Operations,
        tally: Callable[[], Mapping[str, float]] = dict,
        max_versions: int = 1000,
        exemplars: Exemplars | None = None,
        currency: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        settings: Settings | None = None,
    ) -> None:
        self._settings, self._scorers = settings or Settings(), list[judging.Summary]()
        self._rare: dict[str, int] = {}
        self._store, self._operations, self._tally, self._max = store, operations, tally, max_versions
        self._exemplars, self._currency, self._clock = exemplars or Exemplars(), currency, clock
        self._complete: dict[str, float] = {}
        self._cost: dict[Version, float] = {}
        self._days: dict[str, list[Day]] = {}
        self.ledger = Ledger(ledger)
        self._said: dict[str, Any] = {}
        self._judged: datetime | None = None
        self._newest: dict[str, datetime] = {}
        self._drift: list[dict[str, Any]] = []
        self._runs: dict[str, dict[str, Any]] = {}
        self._sources_read: dict[tuple[str, str], tuple[int, int]] = {}
        self._sources: dict[tuple[str, str, str], float] = {}
        self._seen: dict[str, int | None] = {}
        self._took = 0.0
        self._read: dict[str, datetime] = {}
        self._encoded: dict[str, tuple[Encode, bytes]] = {}

    def text(self, encode: Encode, kind: str) -> bytes:
        """Everything, in the format `kind` that `encode` writes."""
        if kind not in self._encoded:
            self._encode(encode, kind)
        return self._encoded[kind][1] + encode(_Part(self._standing))

    def _encode(self, encode: Encode, kind: str) -> None:
        self._encoded[kind] = (encode, encode(_Part(lambda: self._versions(kind))).removesuffix(b"# EOF\n"))

    # what is new

    def _changed(self, table: tables.Table) -> bool:
        version = self._store.home(table).version()
        changed = version is not None and version != self._seen.get(table.name)
        self._seen[table.name] = version
        return changed

    def ran_at(self, job: str) -> datetime | None:
        """When the job's newest run ended, as far as was read."""
        run = self._runs.get(job)
        return run["finished_at"].astimezone(UTC) if run else None

    def refresh(self) -> None:
        """Read what has changed since the last time."""
        started = time.perf_counter()
        counted = [self._count(table) for table in COUNTED]
        if any(counted):
            self.ledger.save()
        if self._changed(tables.VERDICTS):
            for verdict in measures.verdicts(self._store, self._judged):
                self._said[verdict.endpoint], self._judged = verdict, verdict.judged_at
        if self._changed(tables.DRIFT):
            self._drift = _newest([*self._drift, *self._since(tables.DRIFT, "computed_at")])
        if self._changed(tables.RUNS):
            for run in self._since(tables.RUNS, "finished_at"):
                key = (str(run["job"]), str(run["source"]))
                whole, over = self._sources_read.get(key, (0, 0))
                self._sources_read[key] = whole + (run.get("note") is not None), over + (run.get("passed_over") or 0)
                kept = self._runs.get(run["job"])
                if kept is None or run["finished_at"] >= kept["finished_at"]:
                    self._runs[run["job"]] = run
        if self._changed(tables.COMPLETENESS):
            rows = completeness(self._store, self._clock() - NEWEST)
            self._complete = {row["endpoint"]: row["share"] for row in rows if row["share"] is not None}
        if self._changed(tables.ESTIMATES):
            self._days = estimated.by_day(self._store, self._clock() - ESTIMATED)
        if self._changed(tables.COST):
            self._cost = self._costs()
        if self._changed(tables.JUDGED) | self._changed(tables.SCORES) and self._seen.get(tables.JUDGED.name):
            self._scorers = judging.read(self._store, self._settings, self._clock()).summaries()
        if self._changed(tables.CONTENTS) or self._rare:  # what is a day old ends without a commit
            self._rare = edits.rare(self._store, self._clock())
        if self._changed(tables.FRESHNESS):
            self._note_sources(self._since(tables.FRESHNESS, "checked_at"))
        for kind, (encode, _) in list(self._encoded.items()):
            self._encode(encode, kind)
        self._took = time.perf_counter() - started

    def _costs(self) -> dict[Version, float]:
        """Money by version of the days that began in the last week; without those that have a part without a price."""
        names = ["endpoint", "model_version", "money", "window_start"]
        filters: Any = [("window_start", ">=", self._clock() - WEEK)]
        money: dict[Version, list[float | None]] = {}
        for row in self._store.home(tables.COST).read(names, filters).to_pylist():
            money.setdefault((row["endpoint"], row["model_version"]), []).append(row["money"])
        sums = {version: whole(amounts) for version, amounts in money.items()}
        return {version: amount for version, amount in sums.items() if amount is not None}

    def _count(self, table: tables.Table) -> bool:
        """Take what changed in a table of counts into the ledger; whether anything did."""
        home = self._store.home(table)
        newest, done = home.version(), self.ledger.versions.get(table.name)
        if newest is None or newest == done:
            return False
        table_id = home.identity() or ""
        if self.ledger.ids.get(table.name, table_id) != table_id or (done is not None and done > newest):
            log.warning("%s is another table than the one that was counted: counters start anew", table.name)
            self.ledger.restart()
            done = None
        rows = self._first(home, newest) if done is None else self._changes(home, done + 1, newest)
        self.ledger.take(rows)
        self.ledger.versions[table.name], self.ledger.ids[table.name] = newest, table_id
        if table is tables.WINDOWS:
            self._note_newest(rows)
        return True

    def _note_sources(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The newest that each source has said of its data; one that cannot be asked keeps what it last said, and so grows old."""
        for row in sorted(rows, key=lambda check: check["checked_at"]):
            if row["as_of"]:
                self._sources[row["endpoint"], row["kind"], row["name"]] = row["as_of"].astimezone(UTC).timestamp()

    def _since(self, table: tables.Table, clock: str) -> list[dict[str, Any]]:
        """Rows of a table that only grows which were not read yet, by their own time."""
        last = self._read.get(table.name)
        filters: Any = [(clock, ">", last)] if last else None
        rows: list[dict[str, Any]] = self._store.home(table).read(filters=filters).to_pylist()
        if rows:
            self._read[table.name] = max(row[clock] for row in rows)
        return rows

    @staticmethod
    def _first(home: TableHome, version: int) -> list[dict[str, Any]]:
        """Where nothing is counted yet, the newest day: a table may hold a year."""
        newest = home.newest("window_start")
        filters: Any = [("window_start", ">=", newest - FIRST)] if newest else None
        return [row | {"_change_type": "insert"} for row in home.read(filters=filters, version=version).to_pylist()]

    @staticmethod
    def _changes(home: TableHome, first: int, last: int) -> list[dict[str, Any]]:
        try:
            return home.changes(first, last)
        except TransientError as error:  # vacuumed while nobody counted: what lies between stays uncounted
            log.warning("%s", error)
            return []

    def _note_newest(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if row["rows"]:
                start = row["window_start"].astimezone(UTC)
                self._newest[row["endpoint"]] = max(start, self._newest.get(row["endpoint"], start))

    # what is shown

    def _versions(self, kind: str) -> Iterator[Metric]:
        versions = sorted(self.ledger.exported, key=lambda key: -self.ledger.exported[key].get("requests", 0.0))
        shown = sorted(versions[: self._max])
        yield from self._counters(shown)
        yield from self._histograms(shown, kind)
        yield from self._verdicts()
        yield from self._estimates()
        yield _gauge("lastgood_series_dropped", [((), float(max(0, len(versions) - self._max)))])

    def _standing(self) -> Iterator[Metric]:
        yield from self._states()
        tally = self._tally()
        for name, metric in TALLY.items():
            yield _counter(metric, [((), tally.get(name, 0.0))])
        refused = [((name.removeprefix(REFUSED),), value) for name, value in tally.items() if name.startswith(REFUSED)]
        yield _counter("lastgood_exports_refused", refused)
        yield _gauge("lastgood_settings_refused", [((), tally.get("bad_settings", 0.0))])
        yield _gauge("lastgood_trace_parts_held", [((), tally.get("live_held", 0.0))])
        yield _gauge("lastgood_spool_bytes", [((), tally.get("spool_bytes", 0.0))])
        yield _gauge("lastgood_scrape_seconds", [((), self._took)])
        yield _gauge("lastgood_build_info", [((__version__,), 1.0)])

    def _counters(self, shown: Sequence[Version]) -> Iterator[Metric]:
        for name, metric in COUNTERS.items():
            yield _counter(metric, [(key, self.ledger.exported[key].get(name, 0.0)) for key in shown])
        yield self._named("lastgood_errors", ERROR, shown)
        of_agents = [key for key in shown if "runs" in self.ledger.exported[key]]
        for name, metric in AGENT_COUNTERS.items():
            yield _counter(metric, [(key, self.ledger.exported[key].get(name, 0.0)) for key in of_agents])
        for kind, metric in {TOOL: "lastgood_tool_calls", TOOL_ERROR: "lastgood_tool_errors"}.items():
            yield self._named(metric, kind, of_agents)

    def _named(self, metric: str, kind: str, shown: Sequence[Version]) -> Metric:
        """A counter with a series for each name of a kind, `other` always among them."""
        values = [
            ((*key, name.removeprefix(kind)), number)
            for key in shown
            for name, number in self.ledger.exported[key].items()
            if name.startswith(kind)
        ]
        values += [((*key, OTHER), 0.0) for key in shown if f"{kind}{OTHER}" not in self.ledger.exported[key]]
        return _counter(metric, values)

    def _histograms(self, shown: Sequence[Version], kind: str) -> Iterator[Metric]:
        for name, (metric, edges) in HISTOGRAMS.items():
            family = HistogramMetricFamily(metric, BY_NAME[metric].doc, labels=BY_NAME[metric].labels)
            for key in shown:
                traces = self._exemplars.of(key) if name == "latency" else {}
                self._histogram(family, key, name, edges, traces, native_too=kind == protobuf.KIND)
            yield family

    def _histogram(
        self,
        family: HistogramMetricFamily,
        key: Version,
        name: str,
        edges: tuple[float, ...],
        traces: Mapping[float, Exemplar],
        native_too: bool,
    ) -> None:
        """Add one version's histogram, where it has one."""
        prefix, sum_s, total = f"{name}/", 0.0, 0.0
        classic, fine = dict.fromkeys((*edges, math.inf), 0.0), dict[int | None, float]()
        for full, number in self.ledger.exported[key].items():
            if full.startswith(prefix) and number:
                seconds, edge, index = place(int(full[len(prefix) :]), edges)
                classic[edge] += number
                fine[index] = fine.get(index, 0.0) + number
                sum_s += number * seconds
        buckets: list[Any] = []
        for edge, number in classic.items():
            total += number
            buckets.append(("+Inf" if edge == math.inf else str(edge), total, traces.get(edge) if number else None))
        if not total:
            return
        family.add_metric(key, buckets, sum_s)
        if native_too:
            labels = dict(zip(BY_NAME[family.name].labels, key, strict=True))
            made = native(total, sum_s, fine.pop(None, 0.0), fine)  # type: ignore[arg-type]
            family.samples.append(Sample(family.name, labels, 0.0, None, None, made))

    def _verdicts(self) -> Iterator[Metric]:
        verdicts = [(verdict.endpoint, verdict) for verdict in self._said.values()]
        yield _gauge(
            "lastgood_verdict",
            [((name, verdict.candidate), float(VERDICTS[verdict.state])) for name, verdict in verdicts],
        )
        yield _gauge(
            "lastgood_verdict_e_value",
            [((name, verdict.candidate), min(verdict.e_value, 1e12)) for name, verdict in verdicts],
        )
        yield _gauge(
            "lastgood_verdict_timestamp_seconds",
            [((name,), verdict.judged_at.timestamp()) for name, verdict in verdicts],
        )
        key = ("endpoint", "model_version", "against", "column")
        drift = [(tuple(str(row[name]) for name in key), row) for row in self._drift]
        yield _gauge(
            "lastgood_drift_distance",
            [(labels, row["distance"]) for labels, row in drift if row["distance"] is not None],
        )
        yield _gauge("lastgood_drifted", [(labels, float(bool(row["drifted"]))) for labels, row in drift])
        newest = [((name,), at.timestamp()) for name, at in self._newest.items()]
        yield _gauge("lastgood_newest_window_timestamp_seconds", newest)
        yield _gauge("lastgood_feature_source_timestamp_seconds", list(self._sources.items()))
        yield _gauge("lastgood_completeness", [((name,), share) for name, share in self._complete.items()])
        yield _gauge("lastgood_contents_rare", [((name,), float(n)) for name, n in self._rare.items()])
        yield _gauge(
            "lastgood_cost_7_days", [((*version, self._currency), money) for version, money in self._cost.items()]
        )

    def _estimates(self) -> Iterator[Metric]:
        """Of the versions that serve; at most MOST_VERSIONS of an endpoint."""
        today = self._clock().date()
        serving = {
            (name, of): made for name, days in self._days.items() for of, made in estimated.present(days, today).items()
        }
        newest = [((*key, metric.metric), metric, made) for key, made in serving.items() for metric in made[-1].metrics]
        prefix = "lastgood_estimated_performance"
        for name, of in {"": "value", "_low": "low", "_high": "high", "_reference": "usual"}.items():
            values = [(labels, getattr(metric, of)) for labels, metric, _ in newest]
            yield _gauge(prefix + name, [(labels, value) for labels, value in values if value is not None])
        yield _gauge(
            f"{prefix}_fell_days", [(labels, float(worse(made, metric.metric))) for labels, metric, made in newest]
        )
        yield _gauge(f"{prefix}_unknown_days", [(key, float(unknown(made))) for key, made in serving.items()])

    def _states(self) -> Iterator[Metric]:
        now = self._operations()
        yield _gauge("lastgood_incidents_open", [((name,), float(n)) for name, n in now.incidents.items()])
        yield _gauge("lastgood_rollbacks", [(key, float(n)) for key, n in now.rollbacks.items()])
        yield _gauge("lastgood_last_detect_seconds", [((name,), value) for name, value in now.detect_s.items()])
        yield _gauge("lastgood_last_restore_seconds", [((name,), value) for name, value in now.restore_s.items()])
        yield _gauge("lastgood_kill_switch", [((), float(now.kill_switch))])
        yield _gauge("lastgood_messages_waiting", [((), float(now.waiting))])
        yield _gauge("lastgood_messages_refused", [((name,), float(n)) for name, n in now.refused.items()])
        yield _gauge("lastgood_cannot_protect", [((name,), float(on)) for name, on in now.cannot_protect.items()])
        yield _counter("lastgood_decision_faults", [((kind,), float(n)) for kind, n in now.faults.items()])
        yield _gauge("lastgood_pauses", [((kind,), float(n)) for kind, n in now.pauses.items()])
        yield from self._judging()
        runs = self._runs.items()
        ended = [((name,), run["finished_at"].astimezone(UTC).timestamp()) for name, run in runs]
        yield _gauge("lastgood_job_run_timestamp_seconds", ended)
        yield _gauge("lastgood_job_run_seconds", [((name,), float(run["seconds"])) for name, run in runs])
        for place, metric in enumerate(("lastgood_source_reads_whole", "lastgood_source_rows_passed_over")):
            known = [(key, float(figures[place])) for key, figures in self._sources_read.items() if figures[place]]
            yield _gauge(metric, known)

    def _judging(self) -> Iterator[Metric]:
        """The newest pair of versions that each scorer judged."""
        newest = {(row.endpoint, row.scorer): row for row in reversed(self._scorers)}
        for name, of in SCORERS.items():
            values = [(key, of(row)) for key, row in newest.items()]
            yield _gauge(name, [(key, float(value)) for key, value in values if value is not None])


def _newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each endpoint, the rows of its newest measurement."""
    last: dict[str, datetime] = {}
    for row in rows:
        last[row["endpoint"]] = max(row["computed_at"], last.get(row["endpoint"], row["computed_at"]))
    return [row for row in rows if row["computed_at"] == last[row["endpoint"]]]


def _counter(name: str, values: Sequence[tuple[Sequence[str], float]]) -> Metric:
    family = CounterMetricFamily(name, BY_NAME[name].doc, labels=BY_NAME[name].labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _gauge(name: str, values: Sequence[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, BY_NAME[name].doc, labels=BY_NAME[name].labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family
