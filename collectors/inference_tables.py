"""Inference tables (three generations), usage tables and canonical rows -> inbox candidates. Spark only.

Schemas: Databricks documentation of inference tables (legacy `auto_capture_config`, AI Gateway `<prefix>_payload`,
Unity AI Gateway) and system tables (serving.endpoint_usage, ai_gateway.usage). A column that is missing is null; types are
read as they come.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from lastgood.collectors import bodies
from lastgood.collectors.entities import named
from lastgood.errors import ConfigError
from lastgood.record import telemetry

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Generation:
    """How one generation names things: Spark SQL expressions over its columns. `marks` are columns that tell it."""

    name: str
    marks: tuple[str, ...]
    request_id: str
    requested_at: str
    latency_ms: str
    latency_scope: str
    version: str = "cast(null as string)"
    endpoint: str = "cast(null as string)"
    served_entity: str = "cast(null as string)"
    ttft_ms: str = "cast(null as double)"
    tokens_in: str = "cast(null as bigint)"
    tokens_out: str = "cast(null as bigint)"
    team: str = "cast(null as string)"
    attempts: str = "cast(null as int)"


GENERATIONS = (
    Generation(
        "endpoint_usage",
        ("databricks_request_id", "request_time", "input_token_count"),
        request_id="databricks_request_id",
        requested_at="request_time",
        latency_ms="null",
        latency_scope="null",
        served_entity="served_entity_id",
        tokens_in="nullif(input_token_count, 0)",  # custom models are counted with 0
        tokens_out="if(input_token_count = 0, nullif(output_token_count, 0), output_token_count)",
        team="usage_context['team']",
    ),
    Generation(
        "gateway_usage",
        ("invocation_id", "event_time", "total_tokens"),
        request_id="concat_ws('/', request_id, invocation_id)",
        requested_at="event_time",
        latency_ms="latency_ms",
        latency_scope="'gateway'",
        version="destination_model",
        endpoint="destination_name",
        served_entity="destination_name",
        ttft_ms="time_to_first_byte_ms",
        tokens_in="input_tokens",
        tokens_out="output_tokens",
        team="request_tags['team']",
        attempts="size(routing_information.attempts)",
    ),
    Generation(
        "unity_gateway",
        ("invocation_id", "event_time"),
        request_id="concat_ws('/', request_id, invocation_id)",
        requested_at="event_time",
        latency_ms="latency_ms",
        latency_scope="'gateway'",
        version="destination_model",
        endpoint="destination_name",
        served_entity="destination_name",
        ttft_ms="time_to_first_byte_ms",
    ),
    Generation(
        "ai_gateway",
        ("databricks_request_id", "request_time"),
        request_id="databricks_request_id",
        requested_at="request_time",
        latency_ms="execution_duration_ms",
        latency_scope="'model'",
        served_entity="served_entity_id",
    ),
    Generation(
        "legacy",
        ("databricks_request_id", "timestamp_ms"),
        request_id="databricks_request_id",
        requested_at="timestamp_millis(nullif(greatest(-1, least(try_cast(timestamp_ms as bigint), 253402300800000)), 253402300800000))",
        latency_ms="execution_time_ms",
        latency_scope="'model'",
        version="request_metadata['model_version']",
        endpoint="request_metadata['endpoint_name']",
        served_entity="request_metadata['model_name']",
    ),
)

_OPTIONAL = dict.fromkeys(
    (
        "client_request_id", "status_code", "sampling_fraction", "requester", "request", "response", "served_entity_id",
        "destination_model", "destination_name", "latency_ms", "execution_time_ms", "execution_duration_ms",
        "time_to_first_byte_ms", "schema_version", "input_tokens", "output_tokens", "output_token_count",
    ),
    "string",
) | {
    "request_metadata": "map<string,string>", "usage_context": "map<string,string>", "request_tags": "map<string,string>",
    "logging_error_codes": "array<string>", "routing_information": "struct<attempts:array<string>>",
}  # fmt: skip
"""Columns that a table may lack -> their type."""
_BODY = (
    ("input", pa.string()),
    ("output", pa.string()),
    ("tokens_in", pa.int64()),
    ("tokens_out", pa.int64()),
    ("finish_reason", pa.string()),
    ("error_code", pa.string()),
    ("streaming", pa.bool_()),
    ("client_request_id", pa.string()),
    ("team", pa.string()),
    ("env", pa.string()),
    ("features", pa.map_(pa.string(), pa.string())),
    ("records", pa.int64()),
    ("problem", pa.string()),
    ("response_format", pa.string()),
)
_BODY_DDL = (
    "struct<input:string,output:string,tokens_in:bigint,tokens_out:bigint,finish_reason:string,error_code:string,"
    "streaming:boolean,client_request_id:string,team:string,env:string,features:map<string,string>,records:bigint,problem:string,response_format:string>"
)


def detect(columns: list[str]) -> str:
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


def _extract(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """In each batch `body` takes the place of `request` and `response`: sending the texts back would cost most of the pass."""
    kind = pa.struct([pa.field(name, arrow) for name, arrow in _BODY])
    for batch in batches:
        pairs = zip(
            batch.column("request").to_pylist(),
            batch.column("response").to_pylist(),
            strict=True,
        )
        extracts = [bodies.extract(request, response) for request, response in pairs]
        children = [
            pa.array(
                [
                    list(extract.features.items()) if name == "features" else getattr(extract, name)
                    for extract in extracts
                ],
                arrow,
            )
            for name, arrow in _BODY
        ]
        body = pa.StructArray.from_arrays(children, fields=list(kind))
        rest = batch.drop_columns(["request", "response"])
        yield pa.RecordBatch.from_arrays([*rest.columns, body], [*rest.schema.names, "body"])


def candidates(
    frame: "DataFrame",
    endpoint: str | None = None,
    entities: "DataFrame | None" = None,
    versions: Sequence[str] = ("1",),
) -> "DataFrame":
    """Rows of an inference table or of canonical records -> inbox columns.

    `endpoint` names the endpoint where the table does not; `entities` is a system.serving.served_entities-shaped table. Rows whose
    schema_version has another major number than one of `versions` are marked for the quarantine; rows without one are taken. That today's
    tables say 1 is a guess: the documentation names the column, not its values. If yours say something else, every row is in the
    quarantine with that value in its reason, and `sources.schema_versions` takes it.
    """
    from pyspark.sql import functions as f

    name = detect(frame.columns)
    if name == "canonical":
        return _canonical(frame)
    generation = next(candidate for candidate in GENERATIONS if candidate.name == name)
    bodies_there = "request" in frame.columns or "response" in frame.columns
    types = dict(frame.dtypes)
    for column, kind in _OPTIONAL.items():
        if column not in types:
            frame = frame.withColumn(column, f.lit(None).cast(kind))
        elif types[column] == "variant" and kind.startswith("map"):
            frame = frame.withColumn(column, f.expr(f"try_cast(`{column}` as {kind})"))
    if generation.latency_ms.isidentifier() and generation.latency_ms not in types:
        frame = frame.withColumn(generation.latency_ms, f.lit(None).cast("double"))
    flat = frame.select(
        f.expr(generation.request_id).cast("string").alias("platform_id"),
        f.expr(f"try_cast({generation.requested_at} as timestamp)").alias("at"),
        f.expr(f"try_cast({generation.latency_ms} as double)").alias("ms"),
        f.expr(f"try_cast({generation.ttft_ms} as double)").alias("first"),
        f.expr(generation.version).cast("string").alias("version"),
        f.expr(generation.endpoint).cast("string").alias("named"),
        f.expr(generation.served_entity).cast("string").alias("entity"),
        f.expr("nullif(client_request_id, '')").alias("client_id"),
        f.expr("try_cast(status_code as int)").alias("status"),
        f.expr("try_cast(sampling_fraction as double)").alias("fraction"),
        f.col("requester").cast("string").alias("who"),
        f.expr(f"try_cast({generation.tokens_in} as bigint)").alias("used_in"),
        f.expr(f"try_cast({generation.tokens_out} as bigint)").alias("used_out"),
        f.expr(generation.team).cast("string").alias("team"),
        f.expr(generation.latency_scope).cast("string").alias("scope"),
        f.expr(generation.attempts).alias("attempts"),
        _text(types, "request"),
        _text(types, "response"),
        f.col("schema_version").cast("string").alias("schema_version"),
        f.expr("array_join(cast(logging_error_codes as array<string>), ',')").alias("unlogged"),
    )
    kept = [field for field in flat.schema.fields if field.name not in ("request", "response")]
    schema = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in kept)
    if bodies_there:
        rows = flat.mapInArrow(_extract, f"{schema}, body {_BODY_DDL}")
    else:
        rows = flat.drop("request", "response").withColumn("body", f.lit(None).cast(_BODY_DDL))
    rows = named(rows, entities)
    return _shape(rows, generation, f.lit(endpoint).cast("string"), versions)


def _text(types: Mapping[str, str], body: str) -> "Column":
    """A body as text, also where the table has it taken apart."""
    from pyspark.sql import functions as f

    apart = types.get(body, "").startswith(("map", "struct", "array"))
    return (f.to_json(body) if apart else f.col(body).cast("string")).alias(body)


def _shape(rows: "DataFrame", generation: Generation, endpoint: "Column", versions: Sequence[str]) -> "DataFrame":
    from pyspark.sql import functions as f

    version = f.col("schema_version")
    unknown = f.concat(
        f.lit("schema_version "), version, f.lit(" is not known: update Lastgood, or add it to sources.schema_versions")
    )
    code = f.coalesce("body.error_code", f.concat(f.lit("HTTP_"), f.col("status").cast("string")))
    notes = f.map_filter(
        f.create_map(
            f.lit("body_problem"),
            f.col("body.problem"),
            f.lit("response_format"),
            f.col("body.response_format"),
            f.lit("unlogged"),
            f.when(f.length("unlogged") > 0, f.col("unlogged")),
            f.lit("records"),
            f.when(f.col("body.records") > 1, f.col("body.records").cast("string")),
            f.lit("routing.attempts"),
            f.when(f.col("attempts") > 1, f.col("attempts").cast("string")),
        ),
        lambda _, value: value.isNotNull(),
    )
    values = {
        "endpoint": f.coalesce("known.endpoint_name", "named", endpoint),
        "request_id": f.coalesce("client_id", "body.client_request_id", "platform_id"),
        "served_entity": f.coalesce("known.served_entity_name", "entity"),
        "model_version": f.coalesce("known.entity_version", "version", "entity"),
        "requested_at": f.col("at"),
        "latency_ms": f.col("ms"),
        "latency_scope": f.col("scope"),
        "ttft_ms": f.col("first"),
        "tokens_in": f.coalesce("body.tokens_in", "used_in"),
        "tokens_out": f.coalesce("body.tokens_out", "used_out"),
        "status_code": f.col("status"),
        "error_code": f.when(f.col("status") >= 400, code),
        "features": f.when(f.size("body.features") > 0, f.col("body.features")),
        "input": f.col("body.input"),
        "output": f.col("body.output"),
        "finish_reason": f.col("body.finish_reason"),
        "streaming": f.col("body.streaming"),
        "requester": f.col("who"),
        "team": f.coalesce("body.team", "team"),
        "env": f.col("body.env"),
        "weight": f.when((f.col("fraction") > 0) & (f.col("fraction") <= 1), 1 / f.col("fraction")).otherwise(
            f.lit(1.0)
        ),
        "attributes": f.when(f.size(notes) > 0, notes),
        "received_at": f.current_timestamp(),
        "source": f.lit(generation.name),
        "reject_reason": f.when(~f.regexp_extract(version, r"^[vV]?(\d+)", 1).isin(list(versions)), unknown),
    }
    return rows.select(*(_typed(field, values.get(field.name)) for field in telemetry.INBOX))


def _typed(field: telemetry.Field, value: "Column | None") -> "Column":
    from pyspark.sql import functions as f

    return (f.lit(None) if value is None else value).cast(field.type).alias(field.name)


def _canonical(frame: "DataFrame") -> "DataFrame":
    from pyspark.sql import functions as f

    have = dict(frame.dtypes)
    columns = []
    for field in telemetry.INBOX:
        if field.name == "source":
            value: Column = f.lit("canonical")
        elif field.name == "received_at" and field.name not in have:
            value = f.current_timestamp()
        elif field.name in have:
            plain = field.type.startswith(("map", "array", "binary"))
            value = f.col(field.name) if plain else f.expr(f"try_cast(`{field.name}` as {field.type})")
        elif field.name == "request_id":
            value = f.expr("concat('row-', uuid())")
        elif field.name == "weight":
            value = f.lit(1.0)
        else:
            value = f.lit(None)
        columns.append(value.cast(field.type).alias(field.name))
    return frame.select(*columns)
