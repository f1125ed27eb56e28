"""OTLP trace exports -> inbox columns (pure), the fast way: wire -> Arrow -> one pass per attribute name instead of per span.

Gives what `rows.SpanDecoder` gives: a property test holds the two together. There are two because that one decodes every oddity, and
tables of spans, one span at a time, at a tenth of the speed. Exports with anything unusual in them (a span that ends
before it starts, an attribute given twice, events that carry figures) are left to that decoder, whole.
"""

from binascii import hexlify
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import ptars
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import descriptor_pb2, descriptor_pool
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import ArrayValue, KeyValueList

from lastgood.collectors.otlp import dialects
from lastgood.collectors.otlp.rows import (
    EVALUATION,
    MAX_ATTRIBUTES,
    MAX_NAME,
    MAX_VALUE,
    TELLING,
    Row,
    SpanDecoder,
    plain,
)
from lastgood.record import agents, contents, telemetry
from lastgood.record.trees import CALL, CALLS, ENTRY, LINK, NAMED, STEP
from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES, ERROR_TEXT, MAX_TEXT, failure_code

SCHEMA = telemetry.arrow_schema(telemetry.INBOX)
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
_F = descriptor_pb2.FieldDescriptorProto
_S, _B, _I, _U, _N = _F.TYPE_STRING, _F.TYPE_BYTES, _F.TYPE_INT64, _F.TYPE_FIXED64, _F.TYPE_INT32
_TRIMMED: dict[str, tuple[tuple[str, int, Any], ...]] = {
    "Value": (
        ("s", 1, _S), ("b", 2, _F.TYPE_BOOL), ("i", 3, _I), ("d", 4, _F.TYPE_DOUBLE), ("array", 5, _B), ("kvlist", 6, _B), ("bytes", 7, _B),
    ),
    "KeyValue": (("key", 1, _S), ("value", 2, "Value")),
    "Event": (("time", 1, _U), ("name", 2, _S), ("attributes", 3, ["KeyValue"])),
    "Status": (("message", 2, _S), ("code", 3, _N)),
    "Span": (
        ("trace_id", 1, _B), ("span_id", 2, _B), ("parent", 4, _B), ("name", 5, _S), ("kind", 6, _N), ("start", 7, _U), ("end", 8, _U),
        ("attributes", 9, ["KeyValue"]), ("events", 11, ["Event"]), ("status", 15, "Status"),
    ),
    "Scope": (("spans", 2, ["Span"]),),
    "Resource": (("attributes", 1, ["KeyValue"]),),
    "Group": (("resource", 1, "Resource"), ("scopes", 2, ["Scope"])),
    "Export": (("groups", 1, ["Group"]),),
}  # fmt: skip
"""opentelemetry/proto/trace/v1/trace.proto, as far as it is read: not recursive, lists and maps of values left as bytes."""


def _handler() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="lastgood/trimmed.proto", package="lastgood", syntax="proto3")
    for name, members in _TRIMMED.items():
        message = file.message_type.add(name=name)
        if name == "Value":
            message.oneof_decl.add(name="value")
        for member, number, kind in members:
            repeated, of = isinstance(kind, list), kind[0] if isinstance(kind, list) else kind
            field = message.field.add(
                name=member, number=number, label=_F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            )
            if isinstance(of, str):
                field.type, field.type_name = _F.TYPE_MESSAGE, f".lastgood.{of}"
            else:
                field.type = of
            if name == "Value":
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindFileByName(file.name)
    return ptars.HandlerPool([descriptor]).get_for_message(descriptor.message_types_by_name["Export"])


@dataclass
class Batch:
    """Inbox columns, rows of `scores`, and how many spans were neither."""

    table: pa.Table
    scores: list[Row] = field(default_factory=list)
    others: int = 0


class TraceDecoder:
    """Export bodies -> Batch. One instance a thread."""

    def __init__(
        self,
        version_attributes: Sequence[str] = (),
        endpoint_attributes: Sequence[str] = ENDPOINT_ATTRIBUTES,
        contents: bool = False,
    ) -> None:
        self.rows = SpanDecoder(version_attributes, endpoint_attributes=endpoint_attributes, contents=contents)
        self._handler = _handler()

    def decode(self, bodies: Sequence[tuple[bytes, datetime]]) -> Batch:
        """(protobuf body, received_at) each."""
        try:
            batch = self._handler.list_to_record_batch([body for body, _ in bodies])
        except ValueError:
            return self._slow(bodies)
        spans = _Spans(batch, self.rows)
        odd = spans.odd_exports()
        if odd:
            clean = self.decode([body for i, body in enumerate(bodies) if i not in odd])
            rest = self._slow([bodies[i] for i in sorted(odd)])
            both = pa.concat_tables([clean.table, rest.table])
            return Batch(both, clean.scores + rest.scores, clean.others + rest.others)
        return Batch(spans.table([at for _, at in bodies]), [], spans.others)

    def _slow(self, bodies: Iterable[tuple[bytes, datetime]]) -> Batch:
        decoded = [self.rows.traces(ExportTraceServiceRequest.FromString(body), at) for body, at in bodies]
        table = pa.Table.from_pylist([row for export in decoded for row in export.rows], SCHEMA)
        return Batch(
            table, [score for export in decoded for score in export.scores], sum(export.others for export in decoded)
        )


def _flat(lists: Any) -> tuple[Any, Ints]:
    """(all elements, how many each list has)."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.values.slice(offsets[0], offsets[-1] - offsets[0]), np.diff(offsets)


class _Attributes:
    """Attributes of all holders in one long table: `owner` is the holder's index, `rows(name)` those of one name."""

    def __init__(self, lists: Any) -> None:
        pairs, sizes = _flat(lists)
        self.owner: Ints = np.repeat(np.arange(len(sizes)), sizes)
        keys = pc.dictionary_encode(pairs.field("key"))
        self.names: list[str] = keys.dictionary.to_pylist()
        self.codes: Ints = keys.indices.to_numpy().astype(np.int64)
        self.values = pairs.field("value")
        self._order: Ints = np.argsort(self.codes, kind="stable")
        counts = np.bincount(self.codes, minlength=len(self.names))
        ends = np.cumsum(counts)
        self._spots = dict(zip(self.names, zip(ends - counts, ends, strict=True), strict=True))

    def rows(self, name: str) -> Ints:
        first, last = self._spots.get(name, (0, 0))
        return self._order[first:last]

    def doubled(self) -> Ints:
        """Holders that have a name more than once."""
        both = self.owner * max(1, len(self.names)) + self.codes
        kept, times = np.unique(both, return_counts=True)
        repeated: Ints = kept[times > 1] // max(1, len(self.names))
        return repeated

    def python(self, rows: Ints) -> list[Any]:
        """Values as `rows.plain` gives them."""
        out = []
        for pair in self.values.take(pa.array(rows)).to_pylist():
            kind = next((name for name in _KINDS if pair and pair[name] is not None), None)
            out.append(None if kind is None else _plain(kind, pair[kind]))
        return out

    def texts(self, rows: Ints, most: int = MAX_VALUE) -> Any:
        """`text(value) or ""`, cut to so many characters."""
        strings = self.values.field("s").take(pa.array(rows))
        if strings.null_count:
            numbers = self.values.field("i").take(pa.array(rows)).cast(pa.string())
            strings = pc.coalesce(strings, numbers)
        if strings.null_count:
            left = np.flatnonzero(strings.is_null())
            texts = [dialects.text(value) or "" for value in self.python(rows[left])]
            strings = pc.replace_with_mask(strings, strings.is_null(), pa.array(texts, pa.string()))
        return pc.utf8_slice_codeunits(strings, 0, most)

    def read(self, rows: Ints, reader: dialects.Reader, kind: pa.DataType) -> Any:
        """`reader` of each value, as an Arrow array; whole columns at once where all values are of the type it wants."""
        fast = _FAST.get(reader)
        if fast:
            column = self.values.field(fast[0]).take(pa.array(rows))
            if not column.null_count:
                return fast[1](column).cast(kind)
        for name in _KINDS:
            column = self.values.field(name).take(pa.array(rows))
            if not column.null_count:
                each = column.dictionary_encode()
                readings = [reader(_plain(name, value)) for value in each.dictionary.to_pylist()]
                return pa.array(readings, kind).take(each.indices)
        return pa.array([reader(value) for value in self.python(rows)], kind)


_KINDS = tuple(name for name, _, _ in _TRIMMED["Value"])


def _plain(kind: str, value: Any) -> Any:
    if kind == "array":
        return [plain(item) for item in ArrayValue.FromString(value).values]
    if kind == "kvlist":
        return {pair.key: plain(pair.value) for pair in KeyValueList.FromString(value).values}
    return value.hex() if kind == "bytes" else value


_KINDS_OF = dict.fromkeys(dialects.PARTS, pa.string()) | {"probe": pa.bool_()}


def _within(values: Any, low: float, high: float) -> Any:
    return pc.if_else(pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)), values, None)


def _known_id(column: Any) -> Any:
    unknown = pa.array(sorted(dialects.UNKNOWN_IDS))
    longest = max(map(len, dialects.UNKNOWN_IDS))
    short = pc.less_equal(pc.utf8_length(column), longest)
    if not pc.any(short).as_py() and not pc.any(pc.match_substring_regex(column, r"^\s|\s$")).as_py():
        return column
    words = pc.utf8_lower(pc.utf8_trim_whitespace(column))
    return pc.if_else(pc.is_in(words, unknown), None, column)


_FAST: Mapping[dialects.Reader, tuple[str, Callable[[Any], Any]]] = {
    dialects.text: ("s", lambda column: pc.if_else(pc.equal(column, ""), None, column)),
    dialects.KNOWN[dialects.text]: ("s", _known_id),
    dialects.whole: ("i", lambda column: _within(column, -(2**53) + 1, 2**53 - 1)),
    dialects.count: ("i", lambda column: _within(column, 0, 2**53 - 1)),
    dialects.status: ("i", lambda column: _within(column, 100, 599)),
    dialects.number: ("d", lambda column: pc.if_else(pc.is_finite(column), column, None)),
    dialects.flag: ("b", lambda column: column),
}


def _hex(ids: Any) -> Any:
    """Hexadecimal text of binary values; null for empty ones."""
    sizes = pc.binary_length(ids).to_numpy()
    width = int(sizes[0]) if len(sizes) else 0
    if not width or (sizes != width).any():
        return pa.array([identifier.hex() or None for identifier in ids.to_pylist()], pa.string())
    start = ids.buffers()[1]
    offsets = np.frombuffer(start, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    raw = ids.buffers()[2][int(offsets[0]) : int(offsets[-1])]
    ends = pa.py_buffer(np.arange(0, 2 * width * len(ids) + 1, 2 * width, dtype=np.int32))
    return pa.StringArray.from_buffers(len(ids), ends, pa.py_buffer(hexlify(raw)))


class _Spans:
    """All spans of a record batch of exports, side by side."""

    def __init__(self, batch: pa.RecordBatch, decoder: SpanDecoder) -> None:
        self.decoder = decoder
        groups, per_export = _flat(batch.column(0))
        scopes, per_group = _flat(groups.field("scopes"))
        spans, per_scope = _flat(scopes.field("spans"))
        self.n = len(spans)
        self.group = np.repeat(np.repeat(np.arange(len(groups)), per_group), per_scope)
        self.export = np.repeat(np.arange(len(per_export)), per_export)[self.group]
        self.resources = _Attributes(groups.field("resource").field("attributes")) if len(groups) else None
        self.own = _Attributes(spans.field("attributes"))
        self.of = spans.field
        self.kind = self.of("kind").to_numpy()
        self.start, self.end = self.of("start").to_numpy(), self.of("end").to_numpy()
        self.root = pc.equal(pc.binary_length(self.of("parent")), 0).to_numpy(zero_copy_only=False)

    def odd_exports(self) -> set[int]:
        """Exports that `rows` must decode."""
        odd = self.end < self.start
        odd[self.own.doubled()] = True
        if self.resources is not None:
            odd |= np.isin(self.group, self.resources.doubled())
        for name in self.own.names:
            if name.startswith("eval."):
                odd[self.own.owner[self.own.rows(name)]] = True
        events, sizes = self.events
        if len(events):
            figures = pc.equal(events.field("name"), EVALUATION).to_numpy(zero_copy_only=False)
            odd[np.repeat(np.arange(self.n), sizes)[figures]] = True
        return set(self.export[odd].tolist())

    @cached_property
    def events(self) -> tuple[Any, Ints]:
        """(all events, how many each span has)."""
        return _flat(self.of("events"))

    def _has(self, names: Iterable[str]) -> Mask:
        is_request = np.zeros(self.n, bool)
        for name in names:
            is_request[self.own.owner[self.own.rows(name)]] = True
        return is_request

    @cached_property
    def parts(self) -> npt.NDArray[np.object_]:
        """`dialects.part_of` every span."""
        everything = np.arange(self.n)
        steps = pc.fill_null(self.field("step", everything), "")

        def is_(*kinds: str) -> Mask:
            return np.asarray(pc.is_in(steps, pa.array(kinds, pa.string())).to_numpy(zero_copy_only=False))

        marked = self._has(name for name in self.own.names if name.startswith(dialects.MARKS))
        http = self._has(dialects.HTTP_MARKS)
        probe = pc.fill_null(self.field("probe", everything), False).to_numpy(zero_copy_only=False)
        model = self._has(dialects.MODEL_MARKS) & ~self._has(dialects.AGENT_MARKS)
        client, server = self.kind == dialects.CLIENT, self.kind == dialects.SERVER
        cases = [
            (is_(*CALLS) & server, ENTRY),
            (is_(*CALLS), CALL),
            (self._has(dialects.OWN_NAMES), NAMED),
            (is_("admin"), LINK),
            (~is_(""), STEP),
            (server & (marked | (http & ~probe)), ENTRY),
            (server | ~marked, LINK),
            (model | (client & ~http), CALL),
            (client, LINK),
        ]
        return np.select(
            [mask for mask, _ in cases], [np.array(part, object) for _, part in cases], np.array(STEP, object)
        )

    @cached_property
    def chosen(self) -> Ints:
        """Indices of the spans that may be part of a request."""
        linking = ~self.root & ~self._has(dialects.LEAVES)
        return np.flatnonzero((self.parts != LINK) | linking)

    @property
    def others(self) -> int:
        """How many spans are no requests themselves."""
        return int(((self.parts == LINK) | ((self.parts == STEP) & ~self.root)).sum())

    def field(self, name: str, spans: Ints) -> Any:
        """A record field of the given spans from the first attribute that reads as a value."""
        kind = _KINDS_OF.get(name) or SCHEMA.field(name).type
        result = None
        for key, reader in self.decoder.fields.get(name, ()):
            column = self._attribute(key, reader, kind, spans)
            if column is not None:
                result = column if result is None else pc.coalesce(result, column)
                if not result.null_count:
                    break
        return pa.nulls(len(spans), kind) if result is None else result

    def _attribute(self, key: str, reader: dialects.Reader, kind: pa.DataType, spans: Ints) -> Any:
        """One attribute of the given spans, their resource's where they have none of their own; None where nobody has it."""
        place = np.full(self.n, -1)
        rows = self.own.rows(key)
        place[self.own.owner[rows]] = np.arange(len(rows))
        own_places = place[spans]
        has = own_places >= 0
        parts = []
        if has.any():
            values = self.own.read(rows[own_places[has]], reader, kind)
            parts.append(values.take(pa.array(np.cumsum(has) - 1, mask=~has)))
        if self.resources is not None and len(shared := self.resources.rows(key)):
            spot = np.full(int(self.group.max(initial=-1)) + 2, -1)
            owners = self.resources.owner[shared]
            inside = owners < len(spot)
            spot[owners[inside]] = np.arange(len(shared))[inside]
            theirs = np.where(has, -1, spot[self.group[spans]])
            parts.append(self.resources.read(shared, reader, kind).take(pa.array(theirs, mask=theirs < 0)))
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else pc.if_else(pa.array(has), parts[0], parts[1])

    def _rest(self, spans: Ints, texts: Any) -> Any:
        """Attributes that no field knows, as a map; before them the text of a failure."""
        place = np.full(self.n, -1)
        place[spans] = np.arange(len(spans))
        strange = np.array([name not in self.decoder.known for name in self.own.names], dtype=bool)
        kept = (
            np.flatnonzero(strange[self.own.codes] & (place[self.own.owner] >= 0))
            if len(self.own.codes)
            else np.array([], np.int64)
        )
        owner = place[self.own.owner[kept]]
        sizes = np.bincount(owner, minlength=len(spans))
        rank = np.arange(len(kept)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        kept = kept[rank < MAX_ATTRIBUTES]
        sizes, owner = np.minimum(sizes, MAX_ATTRIBUTES), owner[rank < MAX_ATTRIBUTES]
        keys, values = (
            pa.array(self.own.names, pa.string()).take(pa.array(self.own.codes[kept])),
            self.own.texts(kept),
        )
        if self.decoder.contents and contents.TEXTS in self.own.names:
            whole = self.own.codes[kept] == self.own.names.index(contents.TEXTS)
            values = pc.replace_with_mask(values, pa.array(whole), self.own.texts(kept[whole], contents.MAX_TEXTS))
        failed = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        if len(failed):
            order = pa.array(np.argsort(np.concatenate([failed, owner]), kind="stable"))
            marks = pa.array([ERROR_TEXT] * len(failed), pa.string())
            keys = pa.concat_arrays([marks, keys]).take(order)
            values = pa.concat_arrays([pa.array(texts.take(pa.array(failed))), values]).take(order)
            sizes[failed] += 1
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, values)

    def _with_contents(self, spans: Ints, attributes: Any) -> Any:
        """Attributes with what else makes a version, as `rows` gives it."""
        own = self._telling(self.own)
        shared = self._telling(self.resources) if self.resources is not None else {}
        entries, known = attributes.to_pylist(), dict[int, set[str]]()
        for i, span in enumerate(spans.tolist()):
            if (
                self.parts[span] in TELLING
                and not contents.told(dict(entries[i] or ()))
                and (told := {**shared.get(int(self.group[span]), {}), **own.get(span, {})})
            ):
                texts = known.setdefault(int(self.export[span]), set())
                entries[i] = [*(entries[i] or ()), *contents.attributes(contents.of_span(told), texts)]
        return pa.array(entries, attributes.type)

    @staticmethod
    def _telling(given: _Attributes) -> dict[int, dict[str, Any]]:
        """Holder -> its attributes that may tell a part."""
        held: dict[int, dict[str, Any]] = {}
        for name in filter(contents.tells, given.names):
            rows = given.rows(name)
            for owner, value in zip(given.owner[rows].tolist(), given.python(rows), strict=True):
                held.setdefault(owner, {})[name] = value
        return held

    def table(self, received: Sequence[datetime]) -> pa.Table:
        """Inbox columns of the requests."""
        spans = self.chosen
        at = pa.array(spans)
        given = {name: self.field(name, spans) for name in self.decoder.fields}
        fields = {name: column for name, column in given.items() if name not in dialects.PARTS}
        fields |= self._names(given, at)
        fields["part"] = pa.array(self.parts[spans], pa.string())
        names = pc.replace_substring_regex(pc.fill_null(self.of("name").take(at), ""), agents.NAME_PREFIX, "")
        names = pc.if_else(pc.and_(pc.equal(fields["part"], STEP), pc.not_equal(names, "")), names, None)
        names = pc.replace_substring_regex(pc.coalesce(fields["step_name"], names), agents.SERIAL, "*")
        fields["step_name"] = pc.utf8_slice_codeunits(names, 0, MAX_NAME)
        start, end = self.start[spans], self.end[spans]
        fields["requested_at"] = pa.array((start // 1000).astype(np.int64)).cast(SCHEMA.field("requested_at").type)
        first = self._first_tokens()[spans]
        latency = (end - start).astype(np.float64) / 1e6
        fields["latency_ms"] = pa.array(latency, mask=latency < first)
        fields["ttft_ms"] = pc.coalesce(fields["ttft_ms"], pa.array(first, mask=np.isnan(first)))
        fields["latency_scope"] = pa.array(np.where(self.kind[spans] == dialects.CLIENT, "client", "model"))
        fields["error_code"], texts = self._failures(spans, fields["error_code"], fields["status_code"])
        fields["attributes"] = self._rest(spans, texts)
        if self.decoder.contents:
            fields["attributes"] = self._with_contents(spans, fields["attributes"])
        fields["weight"] = pa.array(np.ones(len(spans)))
        fields["source"] = pa.array(["otlp"] * len(spans), pa.string())
        stamps = pa.array(list(received), SCHEMA.field("received_at").type)
        fields["received_at"] = stamps.take(pa.array(self.export[spans]))
        columns = [fields[f.name].cast(f.type) if f.name in fields else pa.nulls(len(spans), f.type) for f in SCHEMA]
        return pa.Table.from_arrays(columns, schema=SCHEMA)

    def _names(self, given: Mapping[str, Any], at: Any) -> dict[str, Any]:
        """`rows._names` of every span."""
        trace, own = _hex(self.of("trace_id").take(at)), _hex(self.of("span_id").take(at))
        both = pc.binary_join_element_wise(pc.fill_null(trace, ""), own, "/")
        stated, provider = given["client_id"], given["provider_id"]
        says = {
            "e": pc.is_valid(given["named"]), "v": pc.is_valid(given["version"]), "i": pc.is_valid(stated),
            "r": pc.and_(pc.is_null(stated), pc.is_valid(provider)),
        }  # fmt: skip
        marks = pc.binary_join_element_wise(*(pc.if_else(mask, mark, "") for mark, mask in says.items()), "")
        return {
            "trace_id": trace, "span_id": own, "parent_id": _hex(self.of("parent").take(at)),
            "request_id": pc.coalesce(stated, provider, both),
            "model_version": pc.coalesce(given["version"], given["release"]),
            "marks": pc.if_else(pc.equal(marks, ""), None, marks),
        }  # fmt: skip

    def _first_tokens(self) -> npt.NDArray[np.float64]:
        """Milliseconds from the start of each span to the first event that tells of a token; NaN for none."""
        first = np.full(self.n, np.nan)
        events, sizes = self.events
        if len(events):
            told = pc.is_in(events.field("name"), pa.array(sorted(dialects.FIRST_TOKENS)))
            told = told.to_numpy(zero_copy_only=False)
            owner = np.repeat(np.arange(self.n), sizes)[told]
            at = events.field("time").to_numpy()[told]
            passed = (at.astype(np.int64) - self.start[owner].astype(np.int64)) / 1e6
            np.fmin.at(first, owner, passed)
        return first

    def _failures(self, spans: Ints, codes: Any, statuses: Any) -> tuple[Any, Any]:
        """(error codes, texts of failures) of the spans, as `rows._failure` gives them."""
        http = pc.binary_join_element_wise("HTTP_", statuses.cast(pa.string()), "")
        codes = pc.coalesce(codes, pc.if_else(pc.fill_null(pc.greater_equal(statuses, 400), False), http, None))
        status = self.of("status").take(pa.array(spans))
        failed = pc.fill_null(pc.equal(status.field("code"), dialects.ERROR), False)
        if not pc.any(failed).as_py():
            return codes, pa.nulls(len(spans), pa.string())
        messages = pc.fill_null(status.field("message"), "")
        unnamed = np.flatnonzero(pc.and_(failed, pc.is_null(codes)).to_numpy(zero_copy_only=False))
        if len(unnamed):
            thrown, messages_of = self._thrown(), messages.take(pa.array(unnamed)).to_pylist()
            named = [
                failure_code(dialects.text(thrown.get(int(spans[i]))), text)
                for i, text in zip(unnamed, messages_of, strict=True)
            ]
            mask = np.zeros(len(spans), bool)
            mask[unnamed] = True
            codes = pc.replace_with_mask(codes, pa.array(mask), pa.array(named, pa.string()))
        texts = pc.utf8_slice_codeunits(messages, 0, MAX_TEXT)
        return codes, pc.if_else(pc.and_(failed, pc.not_equal(texts, "")), texts, None)

    def _thrown(self) -> dict[int, Any]:
        """Span -> `exception.type` of its first event that has one."""
        events, sizes = self.events
        if not len(events):
            return {}
        attributes = _Attributes(events.field("attributes"))
        rows = attributes.rows("exception.type")
        owner = np.repeat(np.arange(self.n), sizes)[attributes.owner[rows]]
        thrown: dict[int, Any] = {}
        for span, value in zip(owner.tolist(), attributes.python(rows), strict=True):
            if value is not None:
                thrown.setdefault(span, value)
        return thrown
