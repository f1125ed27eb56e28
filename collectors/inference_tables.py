"""Inference tables (three generations), usage tables and canonical rows -> inbox candidates.

Schemas: Databricks documentation of inference tables (legacy `auto_capture_config`, AI Gateway `<prefix>_payload`,
Unity AI Gateway) and system tables (serving.endpoint_usage, ai_gateway.usage). A column that is missing is null; types are
read as they come. `shaped` is a function from Arrow batch to Arrow batch: Spark's workers and the one-machine path call the same.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.collectors import bodies, coerce
from lastgood.collectors.findings import Findings
from lastgood.errors import ConfigError
from lastgood.record import contents, telemetry
from lastgood.record.vocabulary import ANSWER_FAILED, ERROR_TEXT, MAX_TEXT, STREAM_BROKEN, stated_code
from lastgood.tables.entities import named

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

SCHEMA = telemetry.arrow_schema(telemetry.INBOX)


@dataclass(frozen=True)
class Generation:
    """Which column of one generation holds what (`map[key]`: an entry of a map). `marks` are columns that tell it.

    request_id: columns joined by a slash. unit: of `requested_at`, where it is a number whose unit the documentation says.
    """

    name: str
    marks: tuple[str, ...]
    request_id: tuple[str, ...]
    requested_at: str
    latency_ms: str | None
    latency_scope: str | None
    version: str | None = None
    endpoint: str | None = None
    served_entity: str | None = None
    ttft_ms: str | None = None
    tokens_in: str | None = None
    tokens_out: str | None = None
    team: str | None = None
    routing: str | None = None
    unit: str | None = None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """All columns of the table that are read."""
        own = (
            self.requested_at, self.latency_ms, self.version, self.endpoint, self.served_entity, self.ttft_ms, self.tokens_in,
            self.tokens_out, self.team, self.routing,
        )  # fmt: skip
        names = [*self.request_id, *(name.partition("[")[0] for name in own if name), *SHARED]
        return tuple(dict.fromkeys(names))

    @property
    def clock(self) -> str:
        """Spark SQL of when a row's request was made."""
        if self.unit != "ms":
            return self.requested_at
        most = 253_402_300_800_000
        return f"timestamp_millis(nullif(greatest(-1, least(try_cast({self.requested_at} as bigint), {most})), {most}))"


SHARED = (
    "client_request_id", "status_code", "sampling_fraction", "requester", "request", "response", "schema_version", "logging_error_codes",
)  # fmt: skip
"""Columns that every generation may have."""
GENERATIONS = (
    Generation(
        "endpoint_usage",
        ("databricks_request_id", "request_time", "input_token_count"),
        request_id=("databricks_request_id",),
        requested_at="request_time",
        latency_ms=None,
        latency_scope=None,
        served_entity="served_entity_id",
        tokens_in="input_token_count",
        tokens_out="output_token_count",
        team="usage_context[team]",
    ),
    Generation(
        "gateway_usage",
        ("invocation_id", "event_time", "total_tokens"),
        request_id=("request_id", "invocation_id"),
        requested_at="event_time",
        latency_ms="latency_ms",
        latency_scope="gateway",
        version="destination_model",
        endpoint="destination_name",
        served_entity="destination_name",
        ttft_ms="time_to_first_byte_ms",
        tokens_in="input_tokens",
        tokens_out="output_tokens",
        team="request_tags[team]",
        routing="routing_information",
    ),
    Generation(
        "unity_gateway",
        ("invocation_id", "event_time"),
        request_id=("request_id", "invocation_id"),
        requested_at="event_time",
        latency_ms="latency_ms",
        latency_scope="gateway",
        version="destination_model",
        endpoint="destination_name",
        served_entity="destination_name",
        ttft_ms="time_to_first_byte_ms",
    ),
    Generation(
        "ai_gateway",
        ("databricks_request_id", "request_time"),
        request_id=("databricks_request_id",),
        requested_at="request_time",
        latency_ms="execution_duration_ms",
        latency_scope="model",
        served_entity="served_entity_id",
    ),
    Generation(
        "legacy",
        ("databricks_request_id", "timestamp_ms"),
        request_id=("databricks_request_id",),
        requested_at="timestamp_ms",
        latency_ms="execution_time_ms",
        latency_scope="model",
        version="request_metadata[model_version]",
        endpoint="request_metadata[endpoint_name]",
        served_entity="request_metadata[model_name]",
        unit="ms",
    ),
)
INEXACT = "{} is a number that is no exact name: 1.1 and 1.10 would be one; give it as text"
EXACT = (
    "model_version", "destination_model", "request_id", "databricks_request_id", "invocation_id", "client_request_id", "served_entity_id",
    "destination_name", "endpoint",
)  # fmt: skip
"""Columns that hold names: a number must say exactly which."""
UNREADABLE = "unreadable"
"""Attribute of a request: columns whose values were there and could not be read."""
BY_NAME = {generation.name: generation for generation in GENERATIONS}


NEEDED = ("endpoint", "model_version", "requested_at")
"""Columns without which there is no record."""
OTHER_NAMES = {
    "requested_at": ("timestamp", "ts", "time", "datetime", "created_at", "start_time"), "model_version": ("version", "model"),
    "endpoint": ("service", "app", "deployment"), "status_code": ("status", "http_status", "code"), "error_code": ("error",),
    "latency_ms": ("latency", "duration_ms", "duration", "took_ms"),
    "input": ("prompt", "request", "question", "query"), "output": ("response", "completion", "answer", "prediction"), "request_id": ("id", "uuid"),
    "tokens_in": ("input_tokens", "prompt_tokens"), "tokens_out": ("output_tokens", "completion_tokens"), "requester": ("user", "user_id"),
}  # fmt: skip
"""A column of the record -> what logs of one's own call it."""


def _remedy(columns: Collection[str]) -> str:
    """Which columns to rename and to add, where a log of one's own is near; empty where it is not."""
    lower = {name.lower(): name for name in columns}
    near = {
        column: next((lower[name] for name in names if name in lower), None)
        for column, names in OTHER_NAMES.items()
        if column not in columns
    }
    rename = ", ".join(f"{name} to {column}" for column, name in near.items() if name)
    missing = ", ".join(column for column in NEEDED if column not in columns and not near.get(column))
    if not rename and not set(NEEDED).intersection(columns):
        return ""
    steps = [*([f"rename {rename}"] if rename else []), *([f"add {missing}"] if missing else [])]
    return f"; {', and '.join(steps)}"


def detect(columns: Sequence[str]) -> str:
    """`canonical` or the name of a generation. Errors: ConfigError saying what was expected and found."""
    have = set(columns)
    if have.issuperset(NEEDED):
        return "canonical"
    for generation in GENERATIONS:
        if set(generation.marks) <= have:
            return generation.name
    expected = "; ".join(f"{generation.name}: {', '.join(generation.marks)}, ..." for generation in GENERATIONS)
    raise ConfigError(
        "not a table of requests: expected canonical records (endpoint, model_version, requested_at, ...) or an inference "
        f"table ({expected}), found columns {', '.join(sorted(have)[:12]) or 'none'}{_remedy(have)}"
    )


def needed(kind: str) -> tuple[str, ...]:
    """The columns of a table of this kind that are read, where it has them."""
    if kind == "canonical":
        return tuple(field.name for field in telemetry.INBOX if field not in telemetry.PART)
    return BY_NAME[kind].columns


def clock_of(kind: str) -> str:
    """The column that says when a request was made."""
    return BY_NAME[kind].requested_at if kind in BY_NAME else "requested_at"


@dataclass(frozen=True)
class Shape:
    """How the rows of one table become candidates. `endpoint`: whose they are, where the table does not say. `versions`: major numbers of
    schema_version that are known: the documentation names the column, not its values; a row without one is taken. `alone`: no other
    source is to be merged with this table. Its rows then go by the platform's ids, and a table that names no version is told apart by served
    entity; in the record such a request has no version until it is resolved. `contents`: the bodies tell what else makes a version
    (record.contents)."""

    kind: str
    endpoint: str | None = None
    versions: tuple[str, ...] = ("1",)
    alone: bool = False
    contents: bool = False


def unnamed(kind: str) -> bool:
    """Whether tables of this kind do not name the version that answered."""
    return kind in BY_NAME and BY_NAME[kind].version is None


class _Source:
    """A batch's columns by name (`map[key]`: an entry of a map), null where the table lacks one; notes what cannot be read."""

    def __init__(self, batch: pa.RecordBatch, findings: Findings | None = None) -> None:
        self.rows = batch.num_rows
        self.findings = findings
        self.inexact: pa.Array = pa.nulls(batch.num_rows, pa.string())
        self._columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        self._maps: dict[str, list[Mapping[str, Any] | None]] = {}
        self._lost: dict[str, list[int]] = {}

    def raw(self, name: str | None) -> pa.Array:
        """The column as it is, but for its encoding."""
        held = self._columns.get(name or "")
        return pa.nulls(self.rows) if held is None else coerce.plain(held)

    def read(self, name: str | None, how: coerce.Coerce) -> pa.Array:
        """The column, made by `how` of what is known in it."""
        if name is None or name.partition("[")[0] not in self._columns:
            return how(pa.nulls(self.rows))
        if "[" in name:
            column, key = name[:-1].split("[")
            values = [pairs.get(key) if pairs else None for pairs in self.map(column)]
            held = pa.array([None if v is None else v if isinstance(v, str) else repr(v) for v in values], pa.string())
            held, made = coerce.known(held), pa.array([coerce.name_of(value) for value in values], pa.string())
        else:
            held = coerce.known(self.raw(name))
            made = how(held)
        self.lose(name, held, coerce.lost(held, made))
        return made

    def name(self, name: str | None) -> pa.Array:
        """A column of names. A number that is no exact name: the table is refused, or (by Spark) the row set aside."""
        return self.read(name, coerce.name)

    def map(self, column: str) -> list[Mapping[str, Any] | None]:
        """A column of maps as dictionaries."""
        if column not in self._maps:
            held = coerce.known(self.raw(column))
            made = self._maps[column] = coerce.mapping(held)
            empty = pa.array([None if pairs is None else True for pairs in made], pa.bool_())
            self.lose(column, held, coerce.lost(held, empty))
        return self._maps[column]

    def lose(self, name: str, held: pa.Array, rows: Any) -> None:
        """Values of rows that could not be read."""
        if not len(rows):
            return
        if name in EXACT or name.endswith("[model_version]"):
            if self.findings:
                self.findings.refuse(name, int(rows[0]), held[int(rows[0])].as_py())
            mask = np.zeros(self.rows, bool)
            mask[rows] = True
            self.inexact = pc.coalesce(self.inexact, pc.if_else(pa.array(mask), INEXACT.format(name), None))
        if self.findings:
            self.findings.lose(name, held, rows)
        for row in rows.tolist():
            self._lost.setdefault(name, []).append(row)

    def marked(self, attributes: pa.Array) -> pa.Array:
        """Attributes, with the columns that could not be read."""
        if not self._lost:
            return attributes
        entries = [list(pairs or ()) for pairs in attributes.to_pylist()]
        for row in {row for rows in self._lost.values() for row in rows}:
            entries[row].append(
                (UNREADABLE, ", ".join(sorted(name for name, rows in self._lost.items() if row in rows)))
            )
        return pa.array([pairs or None for pairs in entries], coerce.TEXTS)


def shaped(batch: pa.RecordBatch, shape: Shape, now: datetime, findings: Findings | None = None) -> pa.RecordBatch:
    """Rows of a table (see `needed`) -> candidates in the inbox's columns; `now` is when they were received.

    Where the table does not name a version, model_version is null: `served_entity` holds the entity, and its history the version.
    `findings` hears what cannot be read, and names rows without an id. Errors: UnfitError, with `findings`, for a number that is no exact
    name; without, its row has a reject_reason. Columns that could not be read are named in the attribute UNREADABLE either way.
    """
    source = _Source(batch, findings)
    canonical = shape.kind == "canonical"
    made = _canonical(batch.schema.names, source, now) if canonical else _logged(source, shape, now)
    made["reject_reason"] = pc.coalesce(made.get("reject_reason", pa.nulls(source.rows, pa.string())), source.inexact)
    made["attributes"] = source.marked(made.get("attributes", pa.nulls(source.rows, coerce.TEXTS)))
    if shape.contents and not canonical:
        made["attributes"] = _with_contents(source.raw("request"), made["attributes"])
    _code(made)
    if findings:
        ids = made.get("request_id", pa.nulls(source.rows, pa.string()))
        if ids.null_count:
            made["request_id"] = pc.coalesce(ids, pa.array(findings.ids(source.rows), pa.string()))
    columns = [made[name] if name in made else pa.nulls(source.rows, SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _with_contents(requests: pa.Array, attributes: pa.Array) -> pa.Array:
    """Attributes with what the bodies tell of prompt, tools and parameters; texts with the first of a batch that has them."""
    known: set[str] = set()
    entries = [
        [*(pairs or ()), *contents.attributes(contents.of_body(request), known)] or None
        for pairs, request in zip(attributes.to_pylist(), coerce.text(requests).to_pylist(), strict=True)
    ]
    return pa.array(entries, coerce.TEXTS)


def _code(made: dict[str, pa.Array]) -> None:
    """Error codes from the vocabulary that spans have too (`vocabulary.stated_code`): whatever else stood there is the attribute `error_text`."""
    given = made.get("error_code")
    if given is None or given.null_count == len(given):
        return
    codes = {value: stated_code(value) for value in pc.unique(given).to_pylist()}
    if all(value == code for value, code in codes.items()):
        return
    values = given.to_pylist()
    made["error_code"] = pa.array([codes[value] for value in values], pa.string())
    texts = [value if value and " " in value.strip() else None for value in values]
    if any(texts):
        entries = [list(pairs or ()) for pairs in made["attributes"].to_pylist()]
        for pairs, text in zip(entries, texts, strict=True):
            if text and ERROR_TEXT not in dict(pairs):
                pairs.append((ERROR_TEXT, text[:MAX_TEXT]))
        made["attributes"] = pa.array([pairs or None for pairs in entries], coerce.TEXTS)


def _time(source: _Source, name: str, unit: str | None = None) -> pa.Array:
    if source.findings and not unit:
        source.findings.times(name, coerce.known(source.raw(name)))
    return source.read(name, lambda held: coerce.time(held, unit))


def _logged(source: _Source, shape: Shape, now: datetime) -> dict[str, pa.Array]:
    generation = BY_NAME[shape.kind]
    body = bodies.columns(
        *(coerce.text(source.raw(name)).cast(pa.string()).to_pylist() for name in ("request", "response"))
    )
    if body["problem"].null_count < source.rows:
        unread = pc.and_(pc.is_valid(body["problem"]), pc.is_null(body["error_code"]))
        source.lose("request or response", body["problem"], np.flatnonzero(unread.to_numpy(zero_copy_only=False)))
    status = source.read("status_code", coerce.status)
    failed = pc.fill_null(pc.greater_equal(status, 400), False)
    http = pc.binary_join_element_wise("HTTP_", status.cast(pa.string()), "")
    broken = pc.is_in(body["error_code"], pa.array([STREAM_BROKEN, ANSWER_FAILED]))
    code = pc.if_else(failed, pc.coalesce(body["error_code"], http), pc.if_else(broken, body["error_code"], None))
    fraction = source.read("sampling_fraction", coerce.number)
    known = pc.fill_null(pc.and_(pc.greater(fraction, 0.0), pc.less_equal(fraction, 1.0)), False)
    used_in, used_out = (source.read(name, coerce.whole) for name in (generation.tokens_in, generation.tokens_out))
    if generation.name == "endpoint_usage":  # custom models are counted with 0
        zero = pc.equal(used_in, 0)
        used_out = pc.if_else(pc.and_(pc.fill_null(zero, False), pc.equal(used_out, 0)), None, used_out)
        used_in = pc.if_else(zero, None, used_in)
    entity = source.name(generation.served_entity)
    ids = (
        source.name("client_request_id"),
        body["client_request_id"],
        _joined(source, generation.request_id),
    )
    named_endpoint = source.name(generation.endpoint)
    return {
        "endpoint": pc.coalesce(named_endpoint, pa.scalar(shape.endpoint, pa.string())),
        "request_id": pc.coalesce(*(reversed(ids) if shape.alone else ids)),
        "served_entity": entity,
        "model_version": pc.coalesce(source.name(generation.version), entity if shape.alone else pa.scalar(None, pa.string())),
        "requested_at": _time(source, generation.requested_at, generation.unit),
        "latency_ms": source.read(generation.latency_ms, coerce.number),
        "latency_scope": pa.repeat(pa.scalar(generation.latency_scope, pa.string()), source.rows),
        "ttft_ms": source.read(generation.ttft_ms, coerce.number),
        "tokens_in": pc.coalesce(body["tokens_in"], used_in),
        "tokens_out": pc.coalesce(body["tokens_out"], used_out),
        "status_code": status,
        "error_code": code,
        "requester": source.name("requester"),
        "team": pc.coalesce(body["team"], source.name(generation.team)),
        "weight": pc.if_else(known, pc.divide(1.0, pc.if_else(known, fraction, 1.0)), 1.0),
        "attributes": _notes(source, generation, body),
        "received_at": pa.repeat(pa.scalar(now, coerce.TIME), source.rows),
        "source": pa.repeat(generation.name, source.rows),
        "reject_reason": _unknown_schema(source.read("schema_version", coerce.text), shape.versions),
        **{name: body[name] for name in ("input", "output", "finish_reason", "streaming", "env", "features", *APART)},
    }  # fmt: skip


def _joined(source: _Source, names: Sequence[str]) -> pa.Array:
    """Texts of the columns joined by a slash; null where all are."""
    columns = [source.name(name) for name in names]
    if len(columns) == 1:
        return columns[0]
    # Not null_handling="skip": it leaves out the rows in which all are null, and what comes after them moves up.
    return pc.coalesce(pc.binary_join_element_wise(*columns, "/"), *columns)


def _unknown_schema(version: pa.Array, versions: Sequence[str]) -> pa.Array:
    if version.null_count == len(version):
        return pa.nulls(len(version), pa.string())
    majors = pc.struct_field(pc.extract_regex(version, r"^[vV]?(?P<major>\d+)"), "major")
    known = pc.or_(pc.is_null(version), pc.fill_null(pc.is_in(majors, pa.array(list(versions), pa.string())), False))
    reason = pc.binary_join_element_wise(
        "schema_version ", version, " is not known: update Lastgood, or add it to sources.schema_versions", ""
    )
    return pc.if_else(known, None, reason)


def _notes(source: _Source, generation: Generation, body: Mapping[str, pa.Array]) -> pa.Array:
    """What has no field of its own, as a map; null where there is nothing."""
    columns: dict[str, list[str | None]] = {}
    for name, field in {
        "body_problem": "problem", "response_format": "response_format", "tool_calls": "tool_calls", "refusal": "refusal",
    }.items():  # fmt: skip
        if body[field].null_count < source.rows:
            columns[name] = body[field].to_pylist()
    codes = source.raw("logging_error_codes")
    if pa.types.is_list(codes.type) and not pc.sum(pc.list_value_length(codes)).as_py():
        codes = pa.nulls(source.rows)  # none of the lists holds anything, as nearly always
    if codes.null_count < source.rows:
        columns["unlogged"] = [",".join(words) if words else None for words in coerce.words(codes)]
    if body["records"].null_count < source.rows:
        columns["records"] = [str(n) if n and n > 1 else None for n in body["records"].to_pylist()]
    if generation.routing and source.raw(generation.routing).null_count < source.rows:
        attempts = [len((pairs or {}).get("attempts") or ()) for pairs in source.map(generation.routing)]
        columns["routing.attempts"] = [str(n) if n > 1 else None for n in attempts]
    if not any(value is not None for values in columns.values() for value in values):
        return pa.nulls(source.rows, coerce.TEXTS)
    names = list(columns)
    rows = [
        [(name, value) for name, value in zip(names, values, strict=True) if value is not None] or None
        for values in zip(*columns.values(), strict=True)
    ]
    return pa.array(rows, coerce.TEXTS)


APART = telemetry.TOKENS[2:]
"""Tokens that may have prices of their own."""
NAMES = (
    *EXACT,
    "served_entity",
    "error_code",
    "requester",
    "team",
    "env",
    "trace_id",
    "latency_scope",
    "finish_reason",
)
"""Columns of texts that are names or codes: space around them and words for "unknown" are not part of them."""


def _field(field: telemetry.Field, source: _Source) -> pa.Array:
    """A column of canonical records."""
    if field.name in NAMES:
        return source.name(field.name)
    if field.type == "timestamp":
        return _time(source, field.name)
    if field.type in ("string", "binary"):
        return coerce.BY_TYPE[field.type](source.raw(field.name))
    how = coerce.status if field.name == "status_code" else coerce.BY_TYPE[field.type]
    return source.read(field.name, how)


def _canonical(names: Sequence[str], source: _Source, now: datetime) -> dict[str, pa.Array]:
    made = {
        field.name: _field(field, source).cast(field.arrow.type) for field in telemetry.INBOX if field.name in names
    }
    made["source"] = pa.repeat("canonical", source.rows)
    if "received_at" not in names:
        made["received_at"] = pa.repeat(pa.scalar(now, coerce.TIME), source.rows)
    if "weight" not in names:
        made["weight"] = pa.array(np.ones(source.rows))
    return made


def _batches(shape: Shape) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        now = datetime.now(UTC)
        for batch in batches:
            yield shaped(batch, shape, now)

    return run


def candidates(
    frame: "DataFrame",
    endpoint: str | None = None,
    entities: "DataFrame | None" = None,
    versions: Sequence[str] = ("1",),
    alone: bool = False,
    contents: bool = False,
) -> "DataFrame":
    """Rows of an inference table or of canonical records -> inbox columns, by Spark (see Shape).

    `entities` is a system.serving.served_entities-shaped table: it names the endpoint and the version behind a served entity.
    """
    from pyspark.sql import functions as f

    kind, types = detect(frame.columns), dict(frame.dtypes)
    if kind == "canonical":
        for field in telemetry.INBOX:
            if field.type.startswith("map") and types.get(field.name, "").startswith("array"):
                raise ConfigError(
                    f"column {field.name} is {types[field.name]}, expected {field.type}; give the column the documented type, or "
                    "collect from a view that casts it"
                )
    read = [
        f.col(name).cast("string").alias(name) if types[name] == "variant" else f.col(name)
        for name in needed(kind)
        if name in types
    ]
    rows = frame.select(*read).mapInArrow(
        _batches(Shape(kind, endpoint, tuple(versions), alone, contents)), telemetry.spark_ddl(telemetry.INBOX)
    )
    if kind == "canonical" or entities is None:
        return rows
    resolved = named(rows.withColumnsRenamed({"served_entity": "entity", "requested_at": "at"}), entities)
    values: dict[str, Column] = {
        "endpoint": f.coalesce("known.endpoint_name", "endpoint"),
        "served_entity": f.coalesce("known.served_entity_name", "entity"),
        "model_version": f.coalesce("known.entity_version", "model_version"),
        "requested_at": f.col("at"),
    }
    return resolved.select(*(values.get(name, f.col(name)).alias(name) for name in SCHEMA.names))
