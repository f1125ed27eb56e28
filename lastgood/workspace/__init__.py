"""What Lastgood needs of a serving workspace: read endpoints, and (the rollback executor only) change one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from lastgood.record.contents import base


class Update(StrEnum):
    """`state.config_update` of a serving endpoint. FAILED with `ready` is normal: the old config serves."""

    NOT_UPDATING = "NOT_UPDATING"
    IN_PROGRESS = "IN_PROGRESS"
    FAILED = "UPDATE_FAILED"
    CANCELED = "UPDATE_CANCELED"


@dataclass(frozen=True)
class ServedEntity:
    """One model version behind an endpoint. `entity_name` and `entity_version`: see `identity.model_of` and `identity.version_of`.

    `settings` is the entity's whole input document (entity_name, entity_version, name, workload_size,
    environment_vars, ...) so that it can be sent back unchanged.
    """

    name: str
    entity_name: str
    entity_version: str
    deployment: str = "DEPLOYMENT_READY"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.deployment == "DEPLOYMENT_READY"


PAYLOAD, LOGS = "_payload", "_otel_logs"
"""The payload table of telemetry is named after the logs table; that ends so where Databricks named the tables."""
TELEMETRY = {
    "span_tables": ("_otel_spans", "TELEMETRY_FEATURE_TRACES"),
    "log_tables": (LOGS, "TELEMETRY_FEATURE_LOGS"),
    "annotation_tables": ("_otel_annotations", "TELEMETRY_FEATURE_TRACES"),
}
"""Key of settings.Sources -> how such a table's name ends, and the feature that fills it. MLflow's annotations are about traces."""


@dataclass(frozen=True)
class Endpoint:
    """A serving endpoint as read at one moment.

    `traffic` maps served entity name to per cent (0-100). `passthrough` holds config fields that an update
    must send back unchanged (auto_capture_config). `pending_*` describe the update under way, if any. `gateway` is the AI
    Gateway's settings (an update does not touch them). An update is checked against the rights of `creator` too.
    `payload_table`: where the endpoint logs its requests, as it says itself; empty where it logs none. `telemetry`: where its traces, logs and
    annotations are (a key of settings.Sources -> table) by the platform's own naming, for no answer of the workspace names them.
    """

    name: str
    config_version: int
    entities: tuple[ServedEntity, ...]
    traffic: Mapping[str, int]
    ready: bool = True
    update: Update = Update.NOT_UPDATING
    pending_traffic: Mapping[str, int] | None = None
    pending_entities: tuple[ServedEntity, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    passthrough: Mapping[str, Any] = field(default_factory=dict)
    gateway: Mapping[str, Any] = field(default_factory=dict)
    creator: str = ""
    payload_table: str = ""
    telemetry: Mapping[str, str] = field(default_factory=dict)

    def entity(self, version: str) -> ServedEntity | None:
        """The served entity that serves `version`, or None."""
        return next((e for e in self.entities if e.entity_version == version), None)

    def share(self, version: str) -> int:
        """Per cent of traffic that `version` is planned to take; of an effective version, the version it is one of."""
        return sum(self.traffic.get(e.name, 0) for e in self.entities if e.entity_version == base(version))


@dataclass(frozen=True)
class Reply:
    """An endpoint's answer to one request; `served_by` is the served entity's name where the endpoint says it."""

    status: int
    seconds: float
    served_by: str
    body: Any


@dataclass(frozen=True)
class SourceState:
    """A source of features as the platform sees it. `as_of`: the commit of its own source that it reflects; None: it does not say."""

    state: str
    as_of: datetime | None = None
    rows: int | None = None


@dataclass(frozen=True)
class RegistryMark:
    """What the registry is to say of a version: tags (None: taken away), and an alias that moves to it (`holds`) or leaves it where it has it
    (empty: no alias)."""

    model: str
    version: str
    tags: Mapping[str, str | None] = field(default_factory=dict)
    alias: str = ""
    holds: bool = False


class Platform(Protocol):
    """What the platform says of endpoints and of what they use. Errors: as Workspace."""

    def metrics(self, name: str) -> str:
        """The endpoint's own metrics of the last minute, in Prometheus' text format."""
        ...

    def source(self, kind: str, name: str) -> SourceState:
        """The state of a synced_table, online_table or vector_index."""
        ...


class Workspace(Protocol):
    """Read side. Errors: ConfigError (no such endpoint, no permission, bad token), TransientError (retry)."""

    def endpoint(self, name: str) -> Endpoint: ...

    def names(self) -> Sequence[str]:
        """The endpoints there are."""
        ...

    def aliases(self, model: str) -> Mapping[str, str]:
        """Registry alias -> version of a registered model."""
        ...

    def version_tags(self, model: str, version: str) -> Mapping[str, str]:
        """Tags of a registered model's version."""
        ...

    def permissions(self, name: str) -> Mapping[str, str]:
        """Principal -> its highest permission level on the endpoint."""
        ...

    def me(self) -> str:
        """Who the workspace says we are."""
        ...

    def invoke(
        self, name: str, document: Mapping[str, Any], *, token: str | None = None, entity: str | None = None
    ) -> Reply:
        """Send one request to the endpoint; any HTTP status is an answer. `token`: other credentials ('': none). `entity`: to this served
        entity, past the traffic split.

        Errors: TransientError when there is no answer.
        """
        ...


class WorkspaceControl(Workspace, Protocol):
    """Read and change. Only alerts/rollback/executor.py (and the demo, which plays the deploying person) uses it."""

    def update_config(
        self,
        name: str,
        entities: Sequence[Mapping[str, Any]],
        traffic: Mapping[str, int],
        passthrough: Mapping[str, Any],
    ) -> None:
        """Start an update to exactly these entities and routes; returns once the workspace has accepted it.

        Errors: RefusedError (an update is already in progress and it is not ours, or the request is invalid),
        ConfigError, TransientError. A response lost after the server acted is recognised by reading back.
        """
        ...

    def put_mark(self, mark: RegistryMark) -> None:
        """Write to the model registry; twice is as once. Errors: ConfigError, RefusedError, TransientError."""
        ...
