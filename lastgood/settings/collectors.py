"""Settings of the collectors: the OTLP receiver, tables of requests, labels."""

from pathlib import Path

from pydantic import Field

from lastgood.record.vocabulary import ENDPOINT_ATTRIBUTES
from lastgood.settings.base import Model


class Receiver(Model):
    """OTLP receiver. Loopback unless told otherwise."""

    host: str = "127.0.0.1"
    grpc_port: int = Field(4317, ge=0, le=65535)
    http_port: int = Field(4318, ge=0, le=65535)
    spool: Path = Field(
        Path("lastgood-spool"), description="folder on a local disk; a span is acknowledged once it is here"
    )
    max_spool_bytes: int = Field(
        2 * 2**30,
        ge=2**20,
        description="above it senders are asked to come back; one sender may hold four times what is free",
    )
    segment_bytes: int = Field(8 * 2**20, ge=1024, description="a segment of this size is handed on at once")
    commit_interval_s: float = Field(
        1.0, gt=0, description="a smaller one after this time: the delay of a quiet sender"
    )
    compact_every: int = Field(
        64, ge=0, description="merge small files after this many commits; 0: leave it to another receiver"
    )
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    read_timeout_s: float = Field(30.0, gt=0, description="how long a body may take to arrive")
    max_concurrent: int = Field(
        256, ge=1, description="exports under way at once; one sender may have four times as many as are free"
    )
    version_attributes: list[str] = Field([], description="span attributes asked first for the model version")
    endpoint_attributes: list[str] = Field(
        list(ENDPOINT_ATTRIBUTES),
        min_length=1,
        description="span and resource attributes that name the endpoint, in the order in which they are asked. What comes before service.name "
        "names it; what comes after stands in where nothing else is known",
    )
    hold_s: float = Field(
        10.0,
        gt=0,
        description="so long the live judge waits for the root of a trace before it takes what there is for the request",
    )
    senders: dict[str, str] = Field(
        {}, description="sender -> variable that holds its bearer token; empty: nobody is asked"
    )
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = Field(None, description="senders must show a certificate of this authority")


class Labels(Model):
    """A table or file of labels or feedback: what is known of a request later. Each column is named; a value or a label is needed."""

    table: str
    name: str = Field(description="what is said: correct, resolved, thumbs, ...")
    endpoint: str | None = Field(None, description="the endpoint whose requests are labelled")
    request_id: str = Field("request_id", description="column with the request's id")
    value: str | None = Field(None, description="column with a number or a boolean")
    label: str | None = Field(None, description="column with a word")
    at: str | None = Field(None, description="column with the time the label was given; else when it is first seen")


class Sources(Model):
    """Tables that hold requests of many endpoints."""

    entities_table: str | None = Field(
        None, description="history of served entities, where an endpoint names none: system.serving.served_entities"
    )
    usage_tables: list[str] = Field(
        [], description="requests as the platform counted them: system.serving.endpoint_usage, system.ai_gateway.usage"
    )
    span_tables: list[str] = Field(
        [], description="OpenTelemetry spans in Unity Catalog: catalog.schema.prefix_otel_spans"
    )
    log_tables: list[str] = Field(
        [],
        description="OpenTelemetry logs in Unity Catalog (catalog.schema.prefix_otel_logs): messages of calls, evaluations, MLflow's assessments",
    )
    annotation_tables: list[str] = Field(
        [],
        description="MLflow's annotations in Unity Catalog (catalog.schema.prefix_otel_annotations): feedback on traces, by people and judges",
    )
    workspace_id: str | None = Field(None, description="take only this workspace's rows of the usage tables")
    schema_versions: list[str] = Field(
        ["1"],
        description="major numbers of the column schema_version that are read; rows of others are set aside in quarantine. The default is a "
        "guess: Databricks documents the column, not its values",
    )
    labels: list[Labels] = Field([], description="tables and files of labels and feedback")
