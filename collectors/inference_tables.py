"""Inference tables (three generations), usage tables and canonical rows -> inbox candidates.

Schemas: Databricks documentation of inference tables (legacy `auto_capture_config`, AI Gateway `<prefix>_payload`,
Unity AI Gateway) and system tables (serving.endpoint_usage, ai_gateway.usage). A column that is missing is null; types are
read as they come. `shaped` is a function from Arrow batch to Arrow batch: Spark's workers and the one-machine path call the same.
"""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.collectors import bodies, coerce
from lastgood.errors import ConfigError
from lastgood.record import telemetry
from lastgood.record.vocabulary import STREAM_BROKEN
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
FRACTION = "model_version is a number with a fraction: 1.1 and 1.10 would be one; give it as text"
BY_NAME = {generation.name: generation for generation in GENERATIONS}


def detect(columns: Sequence[str]) -> str:
    """`canonical` or the name of a generation. Errors: ConfigError saying what was expected and found."""
    have = set(columns)
    if {"endpoint", "model_version", "requested_at"} <= have:
        return "canonical"
    for generation in GENERATIONS:
        if set(generation.marks) <= have:
            return generation.name
    expected = "; ".join(f"{generation.name}: {', '.join(generation.marks)}, ..." for generation in GENERATIONS)
    raise ConfigError(
        "not a table of requests: expected canonical records (endpoint, model_version, requested_at, ...) or an inference "
        f"table ({expected}), found columns {', '.join(sorted(have)[:12]) or 'none'}"
    )


def needed(kind: str) -> tuple[str, ...]:
    """The columns of a table of this kind that are read, where it has them."""
    if kind == "canonical":
        return tuple(field.name for field in telemetry.INBOX)
    return BY_NAME[kind].columns


@dataclass(frozen=True)
class Shape:
    """How the rows of one table become candidates. `endpoint`: whose they are, where the table does not say. `versions`: major numbers of
    schema_version that are known: the documentation names the column, not its values; a row without one is taken. `alone`: no other
    source is to be merged with this table. Its rows then go by the platform's ids, and a table that names no version is told apart by served
    entity; in the record such a request has no version until it is resolved."""

    kind: str
    endpoint: str | None = None
    versions: tuple[str, ...] = ("1",)
    alone: bool = False


def unnamed(kind: str) -> bool:
    """Whether tables of this kind do not name the version that answered."""
    return kind in BY_NAME and BY_NAME[kind].version is None


class _Source:
    """A batch's columns by name; null where the table lacks one."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.rows = batch.num_rows
        self._columns = dict(zip(batch.schema.names, batch.columns, strict=True))

    def __getitem__(self, name: str | None) -> pa.Array:
        if name is None:
            return pa.nulls(self.rows)
        column, _, key = name.partition("[")
        held = self._columns.get(column)
        if held is None:
            return pa.nulls(self.rows)
        if pa.types.is_dictionary(held.type):
            held = held.dictionary_decode()
        if not key:
            return held
        values = [pairs.get(key[:-1]) if pairs else None for pairs in coerce.mapping(held)]
        # A number with a fraction is no name: 1.1 and 1.10 are one number.
        return pa.array([None if v is None or isinstance(v, float) else str(v) for v in values], pa.string())


def shaped(batch: pa.RecordBatch, shape: Shape, now: datetime) -> pa.RecordBatch:
    """Rows of a table (see `needed`) -> candidates in the inbox's columns; `now` is when they were received.

    Where the table does not name a version, model_version is null: `served_entity` holds the entity, and its history the version.
    """
    source = _Source(batch)
    canonical = shape.kind == "canonical"
    made = _canonical(batch.schema.names, source, now) if canonical else _logged(source, shape, now)
    columns = [made[name] if name in made else pa.nulls(source.rows, SCHEMA.field(name).type) for name in SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _logged(source: _Source, shape: Shape, now: datetime) -> dict[str, pa.Array]:
    generation = BY_NAME[shape.kind]
    body = bodies.columns(
        *(coerce.text(source[name]).cast(pa.string()).to_pylist() for name in ("request", "response"))
    )
    status = coerce.whole(source["status_code"], pa.int32())
    failed = pc.fill_null(pc.greater_equal(status, 400), False)
    http = pc.binary_join_element_wise("HTTP_", status.cast(pa.string()), "")
    broken = pc.equal(body["error_code"], STREAM_BROKEN)
    code = pc.if_else(failed, pc.coalesce(body["error_code"], http), pc.if_else(broken, body["error_code"], None))
    fraction = coerce.number(source["sampling_fraction"])
    known = pc.fill_null(pc.and_(pc.greater(fraction, 0.0), pc.less_equal(fraction, 1.0)), False)
    used_in, used_out = coerce.whole(source[generation.tokens_in]), coerce.whole(source[generation.tokens_out])
    if generation.name == "endpoint_usage":  # custom models are counted with 0
        zero = pc.equal(used_in, 0)
        used_out = pc.if_else(pc.and_(pc.fill_null(zero, False), pc.equal(used_out, 0)), None, used_out)
        used_in = pc.if_else(zero, None, used_in)
    entity = coerce.text(source[generation.served_entity])
    ids = (
        coerce.filled(source["client_request_id"]),
        body["client_request_id"],
        _joined(source, generation.request_id),
    )
    named_endpoint = coerce.text(source[generation.endpoint])
    return {
        "endpoint": pc.coalesce(named_endpoint, pa.scalar(shape.endpoint, pa.string())),
        "request_id": pc.coalesce(*(reversed(ids) if shape.alone else ids)),
        "served_entity": entity,
        "model_version": pc.coalesce(coerce.filled(source[generation.version]), entity if shape.alone else pa.scalar(None, pa.string())),
        "requested_at": coerce.time(source[generation.requested_at], generation.unit),
        "latency_ms": coerce.number(source[generation.latency_ms]),
        "latency_scope": pa.repeat(pa.scalar(generation.latency_scope, pa.string()), source.rows),
        "ttft_ms": coerce.number(source[generation.ttft_ms]),
        "tokens_in": pc.coalesce(body["tokens_in"], used_in),
        "tokens_out": pc.coalesce(body["tokens_out"], used_out),
        "status_code": status,
        "error_code": code,
        "requester": coerce.text(source["requester"]),
        "team": pc.coalesce(body["team"], coerce.text(source[generation.team])),
        "weight": pc.if_else(known, pc.divide(1.0, pc.if_else(known, fraction, 1.0)), 1.0),
        "attributes": _notes(source, generation, body),
        "received_at": pa.repeat(pa.scalar(now, coerce.TIME), source.rows),
        "source": pa.repeat(generation.name, source.rows),
        "reject_reason": _unknown_schema(coerce.text(source["schema_version"]), shape.versions),
        **{name: body[name] for name in ("input", "output", "finish_reason", "streaming", "env", "features")},
    }  # fmt: skip


def _joined(source: _Source, names: Sequence[str]) -> pa.Array:
    """Texts of the columns joined by a slash; null where all are."""
    columns = [coerce.text(source[name]) for name in names]
    if len(columns) == 1:
        return columns[0]
    together = pc.binary_join_element_wise(*columns, "/", null_handling="skip")
    return pc.if_else(pc.equal(together, ""), None, together)


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
    codes = source["logging_error_codes"]
    if pa.types.is_list(codes.type) and not pc.sum(pc.list_value_length(codes)).as_py():
        codes = pa.nulls(source.rows)  # none of the lists holds anything, as nearly always
    if codes.null_count < source.rows:
        columns["unlogged"] = [",".join(words) if words else None for words in coerce.words(codes)]
    if body["records"].null_count < source.rows:
        columns["records"] = [str(n) if n and n > 1 else None for n in body["records"].to_pylist()]
    if (routing := source[generation.routing]).null_count < source.rows:
        attempts = [len((pairs or {}).get("attempts") or ()) for pairs in coerce.mapping(routing)]
        columns["routing.attempts"] = [str(n) if n > 1 else None for n in attempts]
    if not any(value is not None for values in columns.values() for value in values):
        return pa.nulls(source.rows, coerce.TEXTS)
    names = list(columns)
    rows = [
        [(name, value) for name, value in zip(names, values, strict=True) if value is not None] or None
        for values in zip(*columns.values(), strict=True)
    ]
    return pa.array(rows, coerce.TEXTS)


def _canonical(names: Sequence[str], source: _Source, now: datetime) -> dict[str, pa.Array]:
    made = {
        field.name: coerce.BY_TYPE[field.type](source[field.name]).cast(field.arrow.type)
        for field in telemetry.INBOX
        if field.name in names
    }
    odd = coerce.fractional(source["model_version"])
    if odd is not None:
        given = made.get("reject_reason", pa.nulls(source.rows, pa.string()))
        made["reject_reason"] = pc.coalesce(given, pc.if_else(odd, FRACTION, None))
    made["source"] = pa.repeat("canonical", source.rows)
    if "received_at" not in names:
        made["received_at"] = pa.repeat(pa.scalar(now, coerce.TIME), source.rows)
    if "request_id" not in names:
        made["request_id"] = pa.array([f"row-{uuid.uuid4()}" for _ in range(source.rows)], pa.string())
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
        _batches(Shape(kind, endpoint, tuple(versions), alone)), telemetry.spark_ddl(telemetry.INBOX)
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
