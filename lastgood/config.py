"""conf/lastgood.yaml + environment (LASTGOOD_*) -> typed settings. Nothing else reads the environment.

Secrets are given by reference: a setting that ends in `_env` names the environment variable that holds the value.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from lastgood import mistakes
from lastgood.errors import ConfigError


class Mode(StrEnum):
    """What Lastgood may do by itself: say it, ask for it, or do it."""

    OBSERVE = "observe"
    APPROVE = "approve"
    AUTO = "auto"


class Capture(StrEnum):
    """What is kept of request and response bodies: nothing, tabular features without texts, texts with patterns blotted out, or all."""

    NONE = "none"
    FEATURES = "features"
    REDACTED = "redacted"
    FULL = "full"


class Model(BaseModel):
    """Fixed once read; a key nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


WEIGHTS = {"errors": 0.55, "latency": 0.15, "pace": 0.07, "ttft": 0.05, "length": 0.03, "quality": 0.10, "scores": 0.05}


class Policy(Model):
    """When the judge speaks. E-value thresholds: 100 means at most 1 healthy version in 100 is ever rolled back."""

    watch_e: float = Field(5.0, gt=1)
    page_e: float = Field(20.0, gt=1)
    rollback_e: float = Field(100.0, gt=1)
    error_tolerance: float = Field(1.25, ge=1, description="ratio of error rates a healthy version may have")
    latency_tolerance: float = Field(0.10, ge=0, description="slower by this share is still healthy")
    quality_tolerance: float = Field(1.25, ge=1, description="ratio of bad-answer rates a healthy version may have")
    length_tolerance: float = Field(0.25, ge=0, description="answers longer or shorter by this share are still healthy")
    score_tolerance: float = Field(
        0.05, ge=0, lt=1, description="evaluation scores (0-1) lower by this are still healthy"
    )
    score_ranges: dict[str, tuple[float, float]] = Field(
        {}, description="score or label -> (worst, best) value, where it is not 0 to 1 with 1 the best: {stars: [1, 5]}"
    )
    weights: dict[str, float] = Field(
        WEIGHTS, description="share of the false-rollback budget per metric; at most 1 in sum"
    )
    tempering: float = Field(
        1.0, gt=0, le=1, description="evidence is raised to this power; see `lastgood judge calibrate`"
    )
    min_windows: int = Field(3, ge=1)
    min_bad: int = Field(5, ge=1)
    min_requesters: int = Field(
        3,
        ge=0,
        description="distinct requesters that must have seen the failure; 0: any",
    )
    rollback_without_requesters: bool = Field(
        True, description="false: page only, where nothing says who sent the requests; set it where routing is sticky"
    )
    error_slo: float = Field(0.02, gt=0, lt=1, description="share of requests that may fail")
    latency_target_s: float = Field(10.0, gt=0, description="a request slower than this counts against latency_slo")
    latency_slo: float = Field(0.05, gt=0, lt=1, description="share of requests that may be slower")
    quality_slo: float = Field(0.1, gt=0, lt=1, description="share of answers that may have a bad flag")
    feature_age_limit_ms: float = Field(3_600_000, gt=0)
    drift_limit: float = Field(0.1, gt=0, description="Jensen-Shannon distance that matters in practice")
    min_completeness: float = Field(0.5, ge=0, le=1, description="rows seen / expected below which nobody is judged")
    max_evidence_age_s: float = Field(7200, gt=0, description="newest window older than this: no verdict")
    cooldown_s: float = Field(1800, ge=0, description="after a rollback no further automatic one")
    max_rollbacks_per_day: int = Field(3, ge=0)
    ready_timeout_s: float = Field(2400, gt=0, description="how long the prior version may take to become ready")
    verify_timeout_s: float = Field(900, gt=0, description="how long traffic and metric may take to recover")
    proposal_ttl_s: float = Field(3600, gt=0, description="a proposed rollback that nobody approves expires")
    approvals: int = Field(1, ge=1, le=2, description="how many different persons must approve a rollback")
    promote_shares: tuple[int, ...] = Field((5, 25, 50, 100), description="traffic of a promotion's steps, per cent")
    promote_step_s: float = Field(600, ge=0, description="how long a step serves before the judge is believed")
    promote_timeout_s: float = Field(7200, gt=0, description="how long a step may wait for the judge")

    @field_validator("weights")
    @classmethod
    def _budget(cls, weights: dict[str, float]) -> dict[str, float]:
        if set(weights) - set(WEIGHTS) or min(weights.values(), default=0) < 0 or sum(weights.values()) > 1 + 1e-9:
            raise ValueError(f"expected shares of 0 or more that sum to at most 1, of {', '.join(WEIGHTS)}")
        return weights

    @field_validator("score_ranges")
    @classmethod
    def _ranges(cls, ranges: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        if any(worst == best for worst, best in ranges.values()):
            raise ValueError("expected two different numbers per score: its worst and its best value")
        return ranges


class Release(Model):
    """What `lastgood release check` asks of an endpoint."""

    probe: dict[str, Any] = Field({"prompt": "ping", "max_tokens": 16}, description="a request that must be answered")
    bad_probe: dict[str, Any] = Field({"prompt": 7}, description="a request that must be refused with 400")
    response_fields: tuple[str, ...] = Field((), description="fields every answer must have")
    permissions: dict[str, str] = Field({}, description="principal -> the level it must have (CAN_QUERY, ...)")
    owner_tag: str = "owner"
    probes: int = Field(100, ge=72, le=1000, description="requests of the latency probe (72: a p95 needs so many)")
    latency_p95_ms: float = Field(2000, gt=0, description="95th percentile the endpoint must keep")
    features: bool = Field(True, description="whether requests must report the age of their features")
    searchable_s: float = Field(300, gt=0, description="how long a request may take to appear in telemetry")
    drill_s: float = Field(900, gt=0, description="how long the drill may take, there and back")
    dashboard_url: str | None = Field(None, description="must answer 200")
    max_age_s: float = Field(86_400, gt=0, description="older checks do not let a version be promoted")


class FeatureSource(Model):
    """Where an endpoint's features come from: a Delta table (asked by Spark) or a store (asked by its status API)."""

    kind: str = Field("feature_table", pattern="^(feature_table|synced_table|online_table|vector_index)$")
    name: str = Field(description="catalog.schema.table, or a folder")
    event_time: str | None = Field(None, description="feature table: column with the time its rows speak of")


class CostSettings(Model):
    """How an endpoint is served, for its price (conf/prices.yaml)."""

    mode: str = Field(
        "pay_per_token", pattern="^(pay_per_token|provisioned|cpu|gpu)$", description="how it is served now"
    )
    model: str = Field("llama-3.3-70b", description="row of pay_per_token and provisioned")
    gpu: str = Field("small", description="row of gpu")
    scale_to_zero: bool = True
    latency: dict[str, float] = Field({}, description="mode -> how many times as long as now a request takes there")


class EndpointSettings(Model):
    """Per-endpoint settings; `Settings.endpoint(name)` falls back to `default`."""

    mode: Mode = Mode.APPROVE
    capture: Capture = Capture.FULL
    body_days: int = Field(400, ge=0, description="how long bodies and features of requests are kept (job maintain)")
    redact: dict[str, str] = Field(
        {}, description="name -> pattern, beside lastgood.redact.PATTERNS; capture: redacted"
    )
    redact_hook: str | None = Field(None, description="package.module:function, str -> str, after the patterns")
    policy: Policy = Policy()
    payload_table: str | None = Field(None, description="inference table (path or catalog.schema.table) to read")
    entities_table: str | None = Field(
        None,
        description="served_entities table that names the versions behind entity ids",
    )
    features: tuple[FeatureSource, ...] = Field((), description="sources of its features, watched for freshness")
    drift_reference: str = Field(
        "baseline",
        pattern="^(baseline|week|before)$",
        description="what drift is measured against where there is a choice: the newest stored baseline, the same hours of last "
        "week, the day before the candidate; the others follow in this order",
    )
    aliases: tuple[str, ...] = Field(
        ("lastgood", "champion"), description="registry aliases of good versions, best first"
    )
    staging: str | None = Field(None, description="endpoint whose release check lets a version be promoted here")
    runbook_url: str | None = None
    write_only: dict[str, Any] = Field(
        {}, description="served-entity fields the workspace takes and does not report (burst_scaling_enabled: true)"
    )
    release: Release = Release()
    cost: CostSettings = CostSettings()


class Receiver(Model):
    """OTLP receiver. Loopback unless told otherwise."""

    host: str = "127.0.0.1"
    grpc_port: int = Field(4317, ge=0, le=65535)
    http_port: int = Field(4318, ge=0, le=65535)
    spool: Path = Field(
        Path("lastgood-spool"), description="folder on a local disk; a span is acknowledged once it is here"
    )
    max_spool_bytes: int = Field(2 * 2**30, ge=2**20, description="above it senders are asked to come back")
    segment_bytes: int = Field(8 * 2**20, ge=1024, description="a segment of this size is handed on at once")
    commit_interval_s: float = Field(
        1.0, gt=0, description="a smaller one after this time: the delay of a quiet sender"
    )
    compact_every: int = Field(
        64, ge=0, description="merge small files after this many commits; 0: leave it to another receiver"
    )
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1024)
    read_timeout_s: float = Field(30.0, gt=0, description="how long a body may take to arrive")
    max_concurrent: int = Field(256, ge=1, description="exports that may wait for the disk at once")
    version_attributes: list[str] = Field([], description="span attributes asked first for the model version")
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
    workspace_id: str | None = Field(None, description="take only this workspace's rows of the usage tables")
    schema_versions: list[str] = Field(
        ["1"],
        description="major numbers of the column schema_version that are read; rows of others are set aside in quarantine. The default is a "
        "guess: Databricks documents the column, not its values",
    )
    labels: list[Labels] = Field([], description="tables and files of labels and feedback")


class Oidc(Model):
    """Login through an OpenID provider (authorization code with PKCE)."""

    issuer: str = Field(description="https://issuer; its /.well-known/openid-configuration is read")
    client_id: str
    client_secret_env: str | None = Field(None, description="variable that holds the secret of a confidential client")
    session_s: int = Field(3600, ge=60, description="how long a login lasts")


class Web(Model):
    """Evidence pages and signed links."""

    host: str = "127.0.0.1"
    port: int = Field(8484, ge=0, le=65535)
    base_url: str = Field("http://127.0.0.1:8484", description="what links start with")
    link_key_env: str = Field("LASTGOOD_LINK_KEY", description="variable that holds the signing key")
    link_ttl_s: int = Field(3600, ge=60)
    max_exported_versions: int = Field(
        1000, ge=1, description="how many versions /metrics shows at most, the busiest first"
    )
    person_token_env: str = Field(
        "LASTGOOD_PERSON_TOKEN",
        description="variable that holds the approvers' tokens: `token`, or `ann:token1,bob:token2`",
    )
    approvers: tuple[str, ...] = Field((), description="patterns of who may decide (*@example.com); none: all known")
    posts_per_minute: int = Field(30, ge=1, description="decisions one client may send")
    oidc: Oidc | None = None
    trust_forwarded_user: bool = Field(False, description="trust X-Forwarded-Email (Databricks Apps only)")


class Alertmanager(Model):
    """Alerts pushed to Alertmanager, and its webhook taken in. Without a URL nothing is pushed."""

    url: str | None = None
    hook_token_env: str = Field("LASTGOOD_HOOK_TOKEN", description="variable with the bearer token of its webhook")


class Hooks(Model):
    """Webhooks out; the variables hold their URLs (they are secrets)."""

    slack_env: str = Field("LASTGOOD_SLACK_URL", description="a Slack-compatible incoming webhook")
    url_env: str = Field("LASTGOOD_WEBHOOK_URL", description="gets every event, signed (Standard Webhooks)")
    secret_env: str = Field("LASTGOOD_WEBHOOK_SECRET", description="whsec_...: what the generic webhook is signed with")


class PagerDuty(Model):
    """Events API v2. Without a routing key nothing is sent."""

    url: str = "https://events.pagerduty.com/v2/enqueue"
    routing_key_env: str = "LASTGOOD_PAGERDUTY_KEY"
    severity_page: str = "error"
    severity_rollback: str = "critical"


class WorkspaceSettings(Model):
    """Where the serving API is; unset host and token fall back to databricks-sdk's own authentication."""

    host: str | None = None
    token_env: str | None = None
    retry_timeout_s: int = Field(20, ge=1)


class SparkSettings(Model):
    """Spark session: `local` (in process), `connect` (a local Connect server), `databricks` (the active session)."""

    mode: str = Field("local", pattern="^(local|connect|databricks)$")
    cores: int = Field(2, ge=1)
    driver_memory: str = Field("1g", pattern=r"^\d+[mg]$")
    packages_mirror: str | None = None


class Settings(BaseSettings):
    """Everything. `LASTGOOD_STORAGE=...` or `LASTGOOD_WEB__PORT=...` override the file."""

    model_config = SettingsConfigDict(env_prefix="LASTGOOD_", env_nested_delimiter="__", extra="forbid", frozen=True)

    storage: str = Field("./lastgood-data", description="folder of the Delta tables, or catalog.schema")
    state_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the operational state; default: SQLite in storage",
    )
    window_s: int = Field(60, ge=1, le=3600, description="width of a window in seconds")
    live_every_s: float = Field(10.0, ge=0, description="the service judges its newest requests this often; 0: never")
    default: EndpointSettings = EndpointSettings()
    endpoints: dict[str, EndpointSettings] = {}
    receiver: Receiver = Receiver()
    sources: Sources = Sources()
    web: Web = Web()
    pagerduty: PagerDuty = PagerDuty()
    alertmanager: Alertmanager = Alertmanager()
    hooks: Hooks = Hooks()
    traces_url: str | None = Field(None, description="OTLP/HTTP address that gets Lastgood's own spans; none: no spans")
    toxic_words: tuple[str, ...] = Field((), description="answers with one of these words are bad; none: nobody looks")
    retention_days: dict[str, int] = Field({}, description="table -> days kept, where not lastgood.tables' own")
    prices: Path = Field(Path("conf/prices.yaml"), description="what serving costs")
    dashboard_url: str | None = Field(None, description="linked from every message")
    runbook_base_url: str = Field(
        "https://lastgood.example.com/runbooks", description="what alerts' runbook links start with"
    )
    workspace: WorkspaceSettings = WorkspaceSettings()
    spark: SparkSettings = SparkSettings()

    _adopted: tuple[dict[str, EndpointSettings], EndpointSettings] | None = PrivateAttr(None)

    def endpoint(self, name: str) -> EndpointSettings:
        """Settings of one endpoint."""
        endpoints, default = self._adopted or (self.endpoints, self.default)
        return endpoints.get(name, default)

    def adopt(self, newer: "Settings") -> bool:
        """From now on `endpoint` answers as `newer`'s does, for everybody who holds these settings; False when nothing changed.

        Nothing else is taken over: addresses, tables, redaction and credentials need a restart.
        """
        policies = (newer.endpoints, newer.default)
        changed = policies != (self._adopted or (self.endpoints, self.default))
        self._adopted = policies
        return changed

    @property
    def state(self) -> str:
        """SQLAlchemy URL of the operational state (incidents, approvals, audit)."""
        return self.state_url or f"sqlite:///{Path(self.storage).absolute()}/state.db"


def secret(variable: str | None) -> str | None:
    """The value of the environment variable a `*_env` setting names, or None when unset or empty."""
    return (os.environ.get(variable) or None) if variable else None


def _with_file(document: dict[str, Any]) -> type[Settings]:
    """Settings that believe explicit values first, then the environment, then the file."""

    class FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=document)

    return FromFile


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Settings from a YAML file (default: conf/lastgood.yaml when there), the environment, then `overrides`.

    Errors: ConfigError naming the file, the line, the key and what was expected.
    """
    source = path or Path("conf/lastgood.yaml")
    if path is not None and not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        text = source.read_text() if source.is_file() else ""
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    if not isinstance(document or {}, dict):
        raise ConfigError(f"{source}: expected a mapping of settings, found {type(document).__name__}")
    try:
        return _with_file(document or {})(**overrides)
    except SettingsError as error:
        raise ConfigError(f"environment (LASTGOOD_*): {error}; expected JSON") from error
    except ValidationError as error:
        raise ConfigError(f"{source}: {mistakes.sentence(error, Settings, text)}") from error
