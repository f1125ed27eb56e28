"""The canonical request record: one row per request, whatever saw it. Pure: fields, units, meaning, derived schemas.

Unknown is null, never 0. Several sources may see one request; `provenance` remembers, per field, the rank of the source
its value came from (see `RANKS`), so that merging is the same in any order and any number of times.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

SPAN, TABLE, CANONICAL, USAGE = "span", "table", "canonical", "usage"
"""Kinds of source: an OpenTelemetry span, an inference table, a user's own canonical rows, the platform's usage table."""

SOURCES = {
    "otlp": SPAN,
    "span_table": SPAN,
    "legacy": TABLE,
    "ai_gateway": TABLE,
    "unity_gateway": TABLE,
    "canonical": CANONICAL,
    "endpoint_usage": USAGE,
    "gateway_usage": USAGE,
}


def of_kind(kind: str) -> list[str]:
    """The sources of a kind."""
    return [name for name, source_kind in SOURCES.items() if source_kind == kind]


_PREFER_SPAN = {SPAN: 0, CANONICAL: 1, TABLE: 2, USAGE: 3}
_PREFER_TABLE = {TABLE: 0, CANONICAL: 1, SPAN: 2, USAGE: 3}

_ARROW = {
    "string": pa.string(),
    "double": pa.float64(),
    "bigint": pa.int64(),
    "int": pa.int32(),
    "boolean": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "binary": pa.binary(),
    "array<string>": pa.list_(pa.string()),
    "array<double>": pa.list_(pa.float64()),
    "map<string,string>": pa.map_(pa.string(), pa.string()),
    "map<string,double>": pa.map_(pa.string(), pa.float64()),
    "map<int,double>": pa.map_(pa.int32(), pa.float64()),
    "map<string,array<bigint>>": pa.map_(pa.string(), pa.list_(pa.int64())),
    "map<string,array<double>>": pa.map_(pa.string(), pa.list_(pa.float64())),
}


_SPARK = {kind: name for name, kind in _ARROW.items()}


@dataclass(frozen=True)
class Field:
    """One column: Spark SQL type, meaning with unit, and which kind of source is believed first."""

    name: str
    type: str
    doc: str
    prefer: str = SPAN

    @property
    def arrow(self) -> pa.Field:
        return pa.field(self.name, _ARROW[self.type])

    def rank(self, source: str) -> int:
        """How far down the order of belief `source` stands for this field (0 first)."""
        order = _PREFER_SPAN if self.prefer == SPAN else _PREFER_TABLE
        return order[SOURCES[source]]


KEY = (
    Field("endpoint", "string", "serving endpoint"),
    Field(
        "request_id",
        "string",
        "client_request_id when the client set one, else the platform's request id, else trace/span id",
    ),
)

VALUES = (
    Field("served_entity", "string", "served entity name or id", TABLE),
    Field("model_version", "string", "registered model version that answered", TABLE),
    Field("requested_at", "timestamp", "when the request started, UTC"),
    Field(
        "latency_ms",
        "double",
        "duration in milliseconds, of the scope in latency_scope",
    ),
    Field("latency_scope", "string", "what latency_ms covers: model, gateway or client"),
    Field("ttft_ms", "double", "time to first token in milliseconds"),
    Field("tokens_in", "bigint", "prompt tokens, cached ones included", TABLE),
    Field("tokens_out", "bigint", "generated tokens", TABLE),
    Field("status_code", "int", "HTTP status", TABLE),
    Field("error_code", "string", "null = success"),
    Field(
        "feature_age_ms",
        "double",
        "age of the oldest feature used, at request time, in milliseconds",
    ),
    Field(
        "features",
        "map<string,string>",
        "tabular inputs of the first record, as text",
        TABLE,
    ),
    Field("input", "string", "prompt or last user message", TABLE),
    Field("output", "string", "generated text or predictions", TABLE),
    Field("finish_reason", "string", "why generation stopped: stop, length, ...", TABLE),
    Field("streaming", "boolean", "whether the answer was streamed", TABLE),
    Field("requester", "string", "who called", TABLE),
    Field("team", "string", "calling team"),
    Field("env", "string", "calling environment"),
    Field("weight", "double", "requests this row stands for: 1 / sampling fraction"),
    Field("trace_id", "string", "trace id, 32 hex digits"),
    Field("attributes", "map<string,string>", "whatever else the source said"),
    Field("model", "string", "model that answered, as its provider names it"),
    Field("conversation_id", "string", "conversation that the request belongs to"),
    Field("tokens_cached", "bigint", "of tokens_in: read from a prompt cache", TABLE),
    Field("tokens_cache_write", "bigint", "of tokens_in: written to a prompt cache", TABLE),
    Field("tokens_reasoning", "bigint", "of tokens_out: reasoning that is not shown", TABLE),
    Field("tokens_audio_in", "bigint", "of tokens_in: audio", TABLE),
    Field("tokens_audio_out", "bigint", "of tokens_out: audio", TABLE),
    Field("calls", "bigint", "calls of a model that were made for it, as its spans tell"),
    Field("healed", "bigint", "calls that failed and were made again or done without: the request succeeded"),
)

TOKENS = tuple(field.name for field in VALUES if field.name.startswith("tokens_"))
"""Counts of tokens. Those after the first two are parts of these."""
KINDS = tuple(name.removeprefix("tokens_") for name in TOKENS[2:])
"""Kinds of tokens that may have a price of their own."""

STAMPS = (
    Field("sources", "array<string>", "which sources saw the request, sorted"),
    Field("received_at", "timestamp", "when the first source reached Lastgood, UTC"),
    Field(
        "provenance",
        "string",
        "one character per VALUES field: rank of the source of its value, ~ for none",
    ),
)

REQUEST = KEY + VALUES + STAMPS

PART = (
    Field("span_id", "string", "span id, 16 hex digits"),
    Field("parent_id", "string", "the parent's span id; null for the root of a trace"),
    Field(
        "part",
        "string",
        "what the span is in its trace, see trees: call, entry, named, step, link, event; null for other sources",
    ),
    Field("step", "string", "kind of step: chat, embedding, agent, workflow, tool, retrieval, chain, ..."),
    Field("step_name", "string", "name of the tool, agent or workflow"),
    Field(
        "marks",
        "string",
        "what the span says itself: e its endpoint, v its version, i the client's request id, r the provider's",
    ),
)
"""What is known of a part of a trace."""

INBOX = (
    *KEY,
    *VALUES,
    Field("received_at", "timestamp", "when it reached Lastgood, UTC"),
    Field("source", "string", "a key of SOURCES"),
    Field("reject_reason", "string", "why it cannot be a record; null for candidates"),
    Field("raw", "binary", "original bytes of a rejected item"),
    *PART,
)

MAX_LATENCY_MS = 86_400_000.0
"""A request longer than a day is a unit error, not a slow request."""
MAX_AHEAD_S, MAX_BEHIND_S = 3_600, 400 * 86_400
"""How far a request's time may be ahead of / behind the time it was received (clock skew; back-fill)."""


def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """The Arrow schema of a tuple of fields; all nullable."""
    return pa.schema([field.arrow for field in fields])


def spark_ddl(fields: tuple[Field, ...]) -> str:
    """The same schema as a Spark DDL string."""
    return ", ".join(f"`{field.name}` {field.type}" for field in fields)


def spark_columns(schema: pa.Schema) -> str:
    """The Spark DDL of an Arrow schema whose types are among the record's. Errors: KeyError."""
    return ", ".join(f"`{column.name}`: {_SPARK[column.type]}" for column in schema)


def spark_type(kind: pa.DataType) -> str:
    """How Spark names an Arrow type of the record; `void` for any other."""
    return _SPARK.get(kind, "void")


def empty(columns: Mapping[str, str]) -> pa.Table:
    """A table without rows. `columns`: name -> Spark type; one that the record does not know has no type."""
    kinds = {name: _ARROW.get(kind.lower().replace(" ", ""), pa.null()) for name, kind in columns.items()}
    return pa.schema(list(kinds.items())).empty_table()
