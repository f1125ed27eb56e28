"""Parts of traces as the receiver commits them -> requests, for the live judge: a trace is told once its root is here, or after `hold_s`.

What comes later is folded in, and the trace is told again, in the place of what was told. Bounded: at most MAX_PARTS are held, for at most
KEPT_S; of more than MAX_NEW parts in one commit only some traces are held, chosen by their ids alone, blind to version and outcome. The jobs
see everything, and put it right.
"""

import zlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.record import telemetry, trees

MAX_PARTS, MAX_NEW = 60_000, 5_000
KEPT_S = 600.0
CALM = 60
"""After so many commits with few parts, more traces are held again."""
MAX_ALONE = 250_000
"""Traces of one span that are remembered, so that what comes late of one is not taken for a request."""
RUNNING = pa.array([trees.EVENT, trees.STEP])
_SCHEMA = telemetry.arrow_schema(telemetry.INBOX)


def _empty() -> pa.Table:
    return _SCHEMA.append(pa.field("arrived", pa.float64())).empty_table()


@dataclass
class Traces:
    """`take` gives (requests that can be told, the traces they are told anew of). `left_out`: parts and trees that were not told, by why."""

    hold_s: float = 10.0
    left_out: dict[str, int] = field(default_factory=lambda: {"late": 0, "full": 0, "many": 0})
    _parts: pa.Table = field(default_factory=_empty)
    _told: set[str] = field(default_factory=set)
    _share: float = 1.0
    _calm: int = 0
    _alone: "OrderedDict[int, None]" = field(default_factory=OrderedDict)

    @property
    def held(self) -> int:
        return int(self._parts.num_rows)

    def take(self, committed: pa.Table, now: float) -> tuple[pa.Table, list[str]]:
        """committed: inbox columns, some may be missing; now: seconds."""
        rows = _whole(committed)
        parts = pc.and_(
            pc.and_(pc.is_valid(rows["part"]), pc.is_valid(rows["trace_id"])), pc.is_null(rows["reject_reason"])
        )
        single = pc.and_(parts, self._single(rows, parts))
        tangled = rows.filter(pc.and_(parts, pc.invert(single)))
        if not tangled.num_rows and not self._parts.num_rows:
            self._remember(rows.filter(single)["trace_id"].to_pylist())
            return rows, []
        tangled = self._some(self._timely(tangled))
        self._remember(rows.filter(single)["trace_id"].to_pylist())
        stamped = tangled.append_column("arrived", pa.array([now] * tangled.num_rows, pa.float64()))
        self._parts = pa.concat_tables([self._parts, stamped])
        ready = self._ready(tangled, now)
        made, again = self._folded(ready)
        self._evict(now)
        direct = rows.filter(pc.or_(pc.invert(parts), single))
        return pa.concat_tables([direct, made]), again

    def _single(self, rows: pa.Table, parts: pa.ChunkedArray) -> pa.ChunkedArray:
        """Which rows are the only span of their trace, as far as is known: calls and servers' requests, for a run has steps."""
        times = rows.filter(parts).group_by("trace_id").aggregate([("span_id", "count_distinct")])
        several = times.filter(pc.greater(times["span_id_count_distinct"], 1))["trace_id"]
        known = pc.unique(pa.chunked_array([*several.chunks, *self._parts["trace_id"].chunks], pa.string()))
        inner = pc.or_(pc.is_valid(rows["parent_id"]), pc.fill_null(pc.is_in(rows["part"], RUNNING), False))
        return pc.and_(pc.invert(inner), pc.invert(pc.is_in(rows["trace_id"], known)))

    def _timely(self, tangled: pa.Table) -> pa.Table:
        """Parts without those whose trace was told as one span."""
        late = pa.array([hash(trace) in self._alone for trace in tangled["trace_id"].to_pylist()], pa.bool_())
        self.left_out["late"] += int(pc.sum(late).as_py() or 0)
        return tangled.filter(pc.invert(late))

    def _some(self, tangled: pa.Table) -> pa.Table:
        """Parts of the share of traces that there is room for."""
        draws = np.array([zlib.crc32(trace.encode()) for trace in tangled["trace_id"].to_pylist()]) / 2**32
        self._calm = self._calm + 1 if len(draws) * self._share < MAX_NEW / 4 else 0
        if self._calm >= CALM and self._share < 1:
            self._share, self._calm = self._share * 2, 0
        while (draws < self._share).sum() > MAX_NEW:
            self._share /= 2
        kept = draws < self._share
        self.left_out["many"] += int((~kept).sum())
        return tangled if kept.all() else tangled.filter(pa.array(kept))

    def _remember(self, traces: Iterable[str]) -> None:
        for trace in traces:
            self._alone[hash(trace)] = None
        while len(self._alone) > MAX_ALONE:
            self._alone.popitem(last=False)

    def _ready(self, tangled: pa.Table, now: float) -> list[str]:
        """Traces that have something new and whose root is here, and those that were held long enough."""
        roots = self._parts.filter(
            pc.and_(pc.is_null(self._parts["parent_id"]), pc.not_equal(self._parts["part"], trees.EVENT))
        )
        whole = pc.is_in(tangled["trace_id"], pc.unique(roots["trace_id"]))
        known = set(tangled.filter(whole)["trace_id"].to_pylist())
        known |= {trace for trace in tangled["trace_id"].to_pylist() if trace in self._told}
        waited = self._parts.filter(pc.less_equal(self._parts["arrived"], now - self.hold_s))
        known |= set(waited["trace_id"].to_pylist()) - self._told
        return sorted(known)

    def _folded(self, traces: list[str]) -> tuple[pa.Table, list[str]]:
        chosen = set(traces)
        again = sorted(chosen & self._told)
        self._told |= set(traces)
        by_trace: dict[str, list[trees.Row]] = {}
        for row in self._parts.filter(
            pc.is_in(self._parts["trace_id"], pa.array(sorted(chosen), pa.string()))
        ).to_pylist():
            row.pop("arrived")
            by_trace.setdefault(row["trace_id"], []).append(row)
        made = [record for parts in by_trace.values() for record in trees.records(parts)]
        return pa.Table.from_pylist(made, _SCHEMA), again

    def _evict(self, now: float) -> None:
        kept = self._parts.filter(pc.greater(self._parts["arrived"], now - KEPT_S))
        if kept.num_rows > MAX_PARTS:
            gone = kept.slice(0, kept.num_rows - MAX_PARTS)["trace_id"].to_pylist()
            self.left_out["full"] += sum(trace not in self._told for trace in gone)
            kept = kept.slice(kept.num_rows - MAX_PARTS)
        if kept.num_rows < self._parts.num_rows or kept["trace_id"].num_chunks > 16:
            self._parts = kept.combine_chunks()
            self._told &= set(self._parts["trace_id"].to_pylist())


def _whole(table: pa.Table) -> pa.Table:
    """The table with every column of the inbox; those that are not told are null."""
    have = set(table.column_names)
    columns = [table[f.name].cast(f.type) if f.name in have else pa.nulls(table.num_rows, f.type) for f in _SCHEMA]
    return pa.Table.from_arrays(columns, schema=_SCHEMA)
