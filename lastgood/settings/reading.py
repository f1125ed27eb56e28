"""conf/lastgood.yaml + environment (LASTGOOD_*) -> typed settings. Nothing else reads the environment.

Secrets are given by reference: a setting that ends in `_env` names the environment variable that holds the value.
"""

import os
import re
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from lastgood.errors import ConfigError
from lastgood.record.answer_flags import AnswerFlag, BadAnswers
from lastgood.settings import mistakes
from lastgood.settings.alerts import Alertmanager, AuditAnchor, Hooks, PagerDuty, Web
from lastgood.settings.collectors import Receiver, Sources
from lastgood.settings.endpoint import EndpointSettings
from lastgood.settings.platform import SparkSettings, TableSettings, WorkspaceSettings

CATALOG_SCHEMA = re.compile(r"(?:`[^`]+`|[^\s./\\:`]+)\.(?:`[^`]+`|[^\s./\\:`]+)")
"""Unity Catalog takes any letter in a name; no dot, space or slash."""


def is_catalog(storage: str) -> bool:
    """Whether `storage` names a Unity Catalog schema (catalog.schema)."""
    return bool(CATALOG_SCHEMA.fullmatch(storage))


class Settings(BaseSettings):
    """Everything. `LASTGOOD_STORAGE=...` or `LASTGOOD_WEB__PORT=...` override the file."""

    model_config = SettingsConfigDict(env_prefix="LASTGOOD_", env_nested_delimiter="__", extra="forbid", frozen=True)

    storage: str = Field(
        "./lastgood-data",
        description="the Delta tables: a folder, an object-store address (s3://...), or catalog.schema",
    )
    state_url: str | None = Field(
        None,
        description="SQLAlchemy URL of the operational state; default: SQLite in storage",
    )
    state_instance: str | None = Field(
        None,
        description="Databricks database instance that holds the state: its token is the password, and its address, where state_url is not set",
    )
    state_database: str = Field("databricks_postgres", description="database of that instance")
    window_s: int = Field(60, ge=1, le=3600, description="width of a window in seconds")
    conversation_idle_s: int = Field(
        1800,
        ge=60,
        le=604_800,
        description="a conversation is over once nothing came for so long after its newest request",
    )
    live_every_s: float = Field(10.0, ge=0, description="the service judges its newest requests this often; 0: never")
    default: EndpointSettings = EndpointSettings()
    endpoints: dict[str, EndpointSettings] = {}
    receiver: Receiver = Receiver()
    sources: Sources = Sources()
    web: Web = Web()
    pagerduty: PagerDuty = PagerDuty()
    alertmanager: Alertmanager = Alertmanager()
    hooks: Hooks = Hooks()
    audit_anchor: AuditAnchor = AuditAnchor()
    calendar: Path | None = Field(
        None, description="iCalendar file (.ics) of freezes and silences: change freezes, the platform's maintenance"
    )
    traces_url: str | None = Field(None, description="OTLP/HTTP address that gets Lastgood's own spans; none: no spans")
    toxic_words: tuple[str, ...] = Field((), description="answers with one of these words are bad; none: nobody looks")
    retention_days: dict[str, int] = Field({}, description="table -> days kept, where not lastgood.tables' own")
    prices: Path = Field(Path("conf/prices.yaml"), description="what serving costs")
    dashboard_url: str | None = Field(None, description="linked from every message")
    runbook_base_url: str | None = Field(
        None,
        description="what alerts' runbook links start with, where you have your own; none: the service's /runbooks",
    )
    tables: TableSettings = TableSettings()
    workspace: WorkspaceSettings = WorkspaceSettings()
    spark: SparkSettings = SparkSettings()

    _adopted: tuple[dict[str, EndpointSettings], EndpointSettings] | None = PrivateAttr(None)

    @property
    def runbooks(self) -> str:
        """Where the runbooks are, without an anchor."""
        return (self.runbook_base_url or f"{self.web.base_url.rstrip('/')}/runbooks").rstrip("/")

    def endpoint(self, name: str) -> EndpointSettings:
        """Settings of one endpoint."""
        endpoints, default = self._adopted or (self.endpoints, self.default)
        return endpoints.get(name, default)

    @property
    def tells_contents(self) -> bool:
        """Whether any endpoint has versions that differ by prompt, tools, parameters, route or package."""
        return any(own.versions_by for own in (self.default, *self.endpoints.values()))

    @property
    def bad_answers(self) -> BadAnswers:
        """Which flags make an answer bad, by endpoint."""
        endpoints, default = self._adopted or (self.endpoints, self.default)
        named: dict[str | None, tuple[AnswerFlag, ...]] = {
            name: own.flags_shown_only for name, own in endpoints.items()
        }
        return BadAnswers(self.toxic_words, named | {None: default.flags_shown_only})

    def adopt(self, newer: "Settings") -> bool:
        """From now on `endpoint` answers as `newer`'s does, for everybody who holds these settings; False when nothing changed.

        Nothing else is taken over: addresses, tables, redaction and credentials need a restart.
        """
        policies = (newer.endpoints, newer.default)
        changed = policies != (self._adopted or (self.endpoints, self.default))
        self._adopted = policies
        return changed

    @field_validator("storage")
    @classmethod
    def _a_home(cls, storage: str) -> str:
        """A name with dots that is no catalog.schema would make a folder of that name, which nobody reads."""
        if "." in storage.strip(".") and not re.search(r"[/\\]|^\.", storage) and not is_catalog(storage):
            raise ValueError("neither catalog.schema nor a folder; a folder of that name is written ./" + storage)
        return storage

    @property
    def state(self) -> str:
        """SQLAlchemy URL of the operational state (incidents, approvals, audit). Errors: ConfigError where none is set and `storage` is no
        folder."""
        if self.state_url is None and self.state_instance:
            return "postgresql+psycopg://"  # completed by whoever logs in, see alerts.store.open_state
        if self.state_url is None and ("://" in self.storage or is_catalog(self.storage)):
            raise ConfigError(
                f"storage {self.storage} is no folder, so the operational state needs a place of its own: set state_instance, or state_url to a PostgreSQL "
                "(postgresql+psycopg://...) that the jobs and the service share"
            )
        return self.state_url or f"sqlite:///{Path(self.storage).absolute()}/state.db"


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


def _on_an_app(document: Any) -> Any:
    """On a Databricks App the platform says at which port and under which address the service is to be found; the file may say otherwise."""
    port, url = os.environ.get("DATABRICKS_APP_PORT"), os.environ.get("DATABRICKS_APP_URL")
    if port is None or not isinstance(document or {}, dict):
        return document
    own = {"host": "0.0.0.0", "port": port} | ({"base_url": url} if url else {})  # noqa: S104 - the platform's proxy is in front
    web = (document or {}).get("web") or {}
    return {**(document or {}), "web": own | web if isinstance(web, dict) else web}


def load(path: Path | None = None, **overrides: Any) -> Settings:
    """Settings from a YAML file (default: conf/lastgood.yaml when there), the environment, then `overrides`.

    Errors: ConfigError naming the file, the line, the key and what was expected.
    """
    source = path or Path("conf/lastgood.yaml")
    if path is not None and not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    try:
        text = source.read_text() if source.is_file() else ""
        document = mistakes.parsed(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    document = _on_an_app(document)
    if not isinstance(document or {}, dict):
        raise ConfigError(f"{source}: expected a mapping of settings, found {type(document).__name__}")
    if odd := [key for key in document or () if not isinstance(key, str)]:
        raise ConfigError(f"{source}: {odd[0]!r} is no name of a setting")
    try:
        return _with_file(document or {})(**overrides)
    except SettingsError as error:
        raise ConfigError(f"environment (LASTGOOD_*): {error}; expected JSON") from error
    except ValidationError as error:
        raise ConfigError(f"{source}: {mistakes.sentence(error, Settings, text)}") from error
