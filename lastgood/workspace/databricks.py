"""The real workspace, through databricks-sdk (this room is its only user): endpoints read, and changed by the rollback executor.

Serving API shapes and traps: Databricks REST reference, `serving-endpoints`; an update always sends entities and routes.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
from databricks.sdk import WorkspaceClient
from databricks.sdk.config import Config
from databricks.sdk.data_plane import DataPlaneTokenSource
from databricks.sdk.errors import (
    BadRequest,
    InternalError,
    NotFound,
    PermissionDenied,
    ResourceConflict,
    TemporarilyUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from databricks.sdk.errors.base import DatabricksError

from lastgood.errors import ConfigError, GoneError, LastgoodError, RefusedError, TransientError
from lastgood.settings import WorkspaceSettings, secret
from lastgood.workspace import (
    LOGS,
    PAYLOAD,
    TELEMETRY,
    Endpoint,
    RegistryMark,
    Reply,
    ServedEntity,
    SourceState,
    Update,
)
from lastgood.workspace.identity import model_of, modern, name_of, version_of
from lastgood.workspace.registry import Registry

_LEVELS = ("NONE", "CAN_VIEW", "CAN_QUERY", "CAN_MANAGE")
_OUTPUT_ONLY = ("state", "creator", "creation_timestamp")
_CONFIG_OUTPUT_ONLY = ("served_entities", "served_models", "config_version")
_ROUTE = {"served_entity_name", "served_model_name", "traffic_percentage"}


def client(settings: WorkspaceSettings) -> WorkspaceClient:
    """databricks-sdk's client by settings, else by its own authentication. Errors: ConfigError (no credentials)."""
    try:
        config = Config(
            host=settings.host,
            token=secret(settings.token_env),
            auth_type="pat" if secret(settings.token_env) else None,
            retry_timeout_seconds=settings.retry_timeout_s,
            http_timeout_seconds=min(30, settings.retry_timeout_s),
        )
        return WorkspaceClient(config=config)
    except ValueError as error:
        raise ConfigError(f"workspace: {error}; set workspace.host and workspace.token_env") from error


def connect(settings: WorkspaceSettings) -> "DatabricksWorkspace":
    """A workspace by settings. Errors: as `client`."""
    return DatabricksWorkspace(client(settings))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """databricks-sdk errors by what the reader must do."""
    try:
        yield
    except LastgoodError:
        raise
    except NotFound as error:
        hint = "if it was deleted, take it out of `endpoints` in the configuration; what was measured of it stays"
        raise GoneError(f"{what}: there is no such endpoint or source ({wording(error)}); {hint}") from error
    except Unauthenticated as error:
        raise ConfigError(f"{what}: the workspace does not accept the token: renew it ({wording(error)})") from error
    except PermissionDenied as error:
        hint = "grant CAN_MANAGE, and check that the endpoint's creator exists"
        raise ConfigError(f"{what}: permission denied; {hint} ({wording(error)})") from error
    except (TooManyRequests, TemporarilyUnavailable, InternalError) as error:
        raise TransientError(f"{what}: {wording(error)}", 5.0) from error
    except ResourceConflict as error:
        raise RefusedError(f"{what}: an update by someone else is in progress ({wording(error)})") from error
    except BadRequest as error:
        raise ConfigError(f"{what}: the workspace refuses the request: {wording(error)}") from error
    except (DatabricksError, OSError, TimeoutError) as error:
        cause = error.__cause__
        why = wording(cause) if isinstance(cause, DatabricksError) else type(cause).__name__ if cause else ""
        raise TransientError(f"{what}: {wording(error)} {why}".rstrip(), 5.0) from error


def wording(error: BaseException) -> str:
    """The error without the configuration, or the request, that the SDK puts behind it."""
    return re.split(r" Config: | This is likely a bug in the Databricks SDK", str(error), maxsplit=1)[0]


def _entity(document: Mapping[str, Any]) -> ServedEntity:
    settings = modern({key: value for key, value in document.items() if key not in _OUTPUT_ONLY})
    if hosted := settings.get("foundation_model"):  # the rest of it is words about the model
        settings["foundation_model"] = {"name": hosted.get("name")}
    elif "external_model" not in settings:
        settings.setdefault("scale_to_zero_enabled", False)
    deployment = (document.get("state") or {}).get("deployment", "DEPLOYMENT_READY")
    return ServedEntity(
        name_of(settings),
        model_of(settings),
        version_of(settings),
        str(deployment),
        settings,
    )


def _route_name(route: Mapping[str, Any]) -> str:
    return str(route.get("served_entity_name") or route.get("served_model_name"))


def _served(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The configuration's served entities; endpoints of old have `served_models` only."""
    return config.get("served_entities") or config.get("served_models") or ()


def _traffic(config: Mapping[str, Any]) -> dict[str, int]:
    """Served entity -> per cent. A single entity without routes takes all."""
    routes = (config.get("traffic_config") or {}).get("routes") or []
    entities = _served(config)
    if not routes and len(entities) == 1:
        return {name_of(entities[0]): 100}
    return {_route_name(route): int(route.get("traffic_percentage") or 0) for route in routes}


def _passthrough(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an update of entities and traffic sends back as it was read: every other field of the configuration, known here or not."""
    kept = {key: value for key, value in config.items() if key not in _CONFIG_OUTPUT_ONLY and value}
    if capture := kept.get("auto_capture_config"):
        kept["auto_capture_config"] = {key: value for key, value in capture.items() if key != "state"}
    traffic = kept.pop("traffic_config", {})
    routes = [route for route in traffic.get("routes") or () if set(route) - _ROUTE]
    more = {key: value for key, value in traffic.items() if key != "routes"} | ({"routes": routes} if routes else {})
    return kept | ({"traffic_config": more} if more else {})


def update_body(
    entities: Sequence[Mapping[str, Any]], traffic: Mapping[str, int], passthrough: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of `PUT /api/2.0/serving-endpoints/{name}/config` (pure)."""
    more = passthrough.get("traffic_config") or {}
    routes = {_route_name(route): route for route in more.get("routes") or ()}
    shares = [
        {**routes.get(name, {}), "served_entity_name": name, "traffic_percentage": share}
        for name, share in traffic.items()
    ]
    return {
        **passthrough,
        "served_entities": [
            {key: value for key, value in entity.items() if key != "foundation_model"} for entity in entities
        ],
        "traffic_config": {**more, "routes": shares},
    }


def parse(document: Mapping[str, Any]) -> Endpoint:
    """The API's own document of an endpoint as ours. The SDK's classes would drop the fields they do not know."""
    config, pending = document.get("config") or {}, document.get("pending_config") or {}
    state = document.get("state") or {}
    return Endpoint(
        name=str(document.get("name")),
        config_version=int(config.get("config_version") or 0),
        entities=tuple(_entity(entity) for entity in _served(config)),
        traffic=_traffic(config),
        ready=state.get("ready", "READY") == "READY",
        update=_update(state),
        pending_traffic=_traffic(pending) if pending else None,
        pending_entities=tuple(_entity(entity) for entity in _served(pending)),
        tags={tag["key"]: tag.get("value", "") for tag in document.get("tags") or ()},
        passthrough=_passthrough(config),
        gateway=document.get("ai_gateway") or {},
        creator=str(document.get("creator") or ""),
        payload_table=_payload_table(document),
        telemetry=_telemetry(document),
    )


def _payload_table(document: Mapping[str, Any]) -> str:
    """Where requests are logged: by the endpoint's telemetry, the AI Gateway, or the inference table of old. Of telemetry the workspace shows this
    table only (`table_names` can be written and is never read back)."""
    telemetry = (document.get("telemetry_config") or {}).get("inference_table_config") or {}
    if telemetry.get("name"):
        return str(telemetry["name"])
    gateway = (document.get("ai_gateway") or {}).get("inference_table_config") or {}
    for capture in (gateway, (document.get("config") or {}).get("auto_capture_config") or {}):
        if capture.get("enabled") and capture.get("catalog_name") and capture.get("schema_name"):
            prefix = capture.get("table_name_prefix") or document.get("name")
            return f"{capture['catalog_name']}.{capture['schema_name']}.{prefix}_payload"
    return ""


def _telemetry(document: Mapping[str, Any]) -> dict[str, str]:
    """Where traces, logs and annotations are, as far as the payload table's name tells."""
    config = document.get("telemetry_config") or {}
    features, logs = config.get("enabled_telemetry_features"), _payload_table(document).removesuffix(PAYLOAD)
    if not config or not logs.endswith(LOGS):
        return {}
    prefix = logs.removesuffix(LOGS)
    return {key: prefix + end for key, (end, feature) in TELEMETRY.items() if not features or feature in features}


def _update(state: Mapping[str, Any]) -> Update:
    """A state this release does not know counts as an update under way: nothing is changed meanwhile."""
    try:
        return Update(state.get("config_update", "NOT_UPDATING"))
    except ValueError:
        return Update.IN_PROGRESS


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _synced_table(client: WorkspaceClient, name: str) -> SourceState:
    status = client.database.get_synced_database_table(name).data_synchronization_status
    if status is None:
        return SourceState("UNKNOWN")
    last = status.last_sync
    commit = last.delta_table_sync_info.delta_commit_timestamp if last and last.delta_table_sync_info else None
    as_of = _time(commit or (last.sync_end_timestamp if last else None))
    return SourceState(status.detailed_state.value if status.detailed_state else "UNKNOWN", as_of)


def _online_table(client: WorkspaceClient, name: str) -> SourceState:
    status = client.online_tables.get(name).status
    update = status and (status.triggered_update_status or status.continuous_update_status)
    state = status.detailed_state.value if status and status.detailed_state else "UNKNOWN"
    return SourceState(state, _time(update.timestamp) if update else None)


def _vector_index(client: WorkspaceClient, name: str) -> SourceState:
    status = client.vector_search_indexes.get_index(name).status
    if status is None:
        return SourceState("UNKNOWN")
    return SourceState("READY" if status.ready else status.message or "NOT_READY", None, status.indexed_row_count)


_SOURCES = {"synced_table": _synced_table, "online_table": _online_table, "vector_index": _vector_index}


class DatabricksWorkspace:
    """WorkspaceControl over databricks-sdk."""

    def __init__(self, client: WorkspaceClient) -> None:
        self._client = client
        self._own_address: dict[str, Mapping[str, Any]] = {}
        self._tokens = DataPlaneTokenSource(client.config.host, client.config.oauth_token)

    @property
    def host(self) -> str:
        """Where the workspace is."""
        return str(self._client.config.host)

    def endpoint(self, name: str) -> Endpoint:
        with translated(f"endpoint {name}"):
            document = self._call("GET", name)
        self._own_address[name] = (document.get("data_plane_info") or {}).get("query_info") or {}
        try:
            return parse(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"endpoint {name}: the workspace's answer is not understood: {error!r}") from error

    def names(self) -> Sequence[str]:
        with translated("endpoints"):
            return [str(endpoint.name) for endpoint in self._client.serving_endpoints.list()]

    def aliases(self, model: str) -> Mapping[str, str]:
        with translated(f"model {model}"):
            return Registry(self._client).aliases(model)

    def has_table(self, name: str) -> bool:
        """Whether Unity Catalog shows a table of that name. Errors: ConfigError, TransientError."""
        try:
            with translated(f"table {name}"):
                self._client.tables.get(name)
        except GoneError:
            return False
        return True

    def version_tags(self, model: str, version: str) -> Mapping[str, str]:
        with translated(f"model {model} version {version}"):
            return Registry(self._client).tags(model, version)

    def put_mark(self, mark: RegistryMark) -> None:
        with translated(f"model {mark.model} version {mark.version}"):
            Registry(self._client).put(mark)

    def permissions(self, name: str) -> Mapping[str, str]:
        with translated(f"permissions of {name}"):
            identity = self._client.serving_endpoints.get(name).id
            if not identity:  # an endpoint of the platform's own
                return {}
            entries = self._client.serving_endpoints.get_permissions(identity).access_control_list or ()
        levels: dict[str, str] = {}
        for entry in entries:
            who = str(entry.user_name or entry.group_name or entry.service_principal_name)
            held = [p.permission_level.value for p in entry.all_permissions or () if p.permission_level]
            levels[who] = max(held, key=_LEVELS.index, default=_LEVELS[0])
        return levels

    def me(self) -> str:
        with translated("current user"):
            return str(self._client.current_user.me().user_name)

    def metrics(self, name: str) -> str:
        with translated(f"metrics of {name}"):
            contents = self._client.serving_endpoints.export_metrics(name).contents
            return contents.read().decode(errors="replace") if contents else ""

    def source(self, kind: str, name: str) -> SourceState:
        with translated(f"{kind} {name}"):
            return _SOURCES[kind](self._client, name)

    def invoke(
        self, name: str, document: Mapping[str, Any], *, token: str | None = None, entity: str | None = None
    ) -> Reply:
        """See Workspace. Sent by httpx: the SDK would retry, and cannot leave the credentials out."""
        url, credentials = self._invocations(name)
        headers = credentials() if token is None else {"Authorization": f"Bearer {token}"} if token else {}
        if entity:
            url = f"{url.removesuffix('/invocations')}/served-models/{quote(entity, safe='')}/invocations"
        started, config = time.monotonic(), self._client.config
        try:
            answer = httpx.post(url, json=dict(document), headers=headers, timeout=config.http_timeout_seconds or 30)
        except httpx.TransportError as error:
            raise TransientError(f"request to {name}: {type(error).__name__}") from error
        try:
            body = answer.json()
        except ValueError:
            body = answer.text
        return Reply(answer.status_code, time.monotonic() - started, answer.headers.get("served-model-name", ""), body)

    def _invocations(self, name: str) -> tuple[str, Callable[[], dict[str, str]]]:
        """Where an endpoint is asked, and what makes the headers that let us. A route-optimised one is not asked through the workspace: it has an
        address of its own, and takes only tokens that are made for it (Databricks documentation, Query route-optimized endpoints).

        Errors: those of `endpoint`; of the headers ConfigError, where the workspace's credentials are no OAuth ones.
        """
        if name not in self._own_address:
            self.endpoint(name)
        config, own = self._client.config, self._own_address[name]
        if not own:
            return f"{config.host}/serving-endpoints/{quote(name, safe='')}/invocations", config.authenticate
        url = str(own.get("endpoint_url"))

        def lent() -> dict[str, str]:
            try:
                with translated(f"token for {name}"):
                    lent = self._tokens.token(url, own.get("authorization_details"))  # type: ignore[no-untyped-call]
            except ValueError as error:
                raise ConfigError(f"{name} is route-optimised and takes OAuth tokens only: {error}") from error
            return {"Authorization": f"Bearer {lent.access_token}"}

        return url, lent

    def update_config(
        self,
        name: str,
        entities: Sequence[Mapping[str, Any]],
        traffic: Mapping[str, int],
        passthrough: Mapping[str, Any],
    ) -> None:
        """See WorkspaceControl. A 409 whose config is the one we asked for is our own update, its answer lost."""
        body = update_body(entities, traffic, passthrough)
        with translated(f"update of {name}"):
            try:
                self._call("PUT", f"{name}/config", body)
            except ResourceConflict:
                if not self._is_ours(name, entities, traffic):
                    raise

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One call of the serving API with raw documents; `path` below /api/2.0/serving-endpoints/."""
        headers = {"Accept": "application/json"}
        if workspace_id := self._client.config.workspace_id:
            headers["X-Databricks-Workspace-Id"] = str(workspace_id)
        sent = dict(body) if body is not None else None
        url = f"/api/2.0/serving-endpoints/{quote(path, safe='/')}"
        answer = self._client.api_client.do(method, url, headers=headers, body=sent)
        return answer if isinstance(answer, dict) else {}

    def _is_ours(
        self,
        name: str,
        entities: Sequence[Mapping[str, Any]],
        traffic: Mapping[str, int],
    ) -> bool:
        now = self.endpoint(name)
        names = {str(entity["name"]) for entity in entities}
        pending = now.pending_traffic is not None and dict(now.pending_traffic) == dict(traffic)
        if pending:
            return {entity.name for entity in now.pending_entities} == names
        return dict(now.traffic) == dict(traffic) and {entity.name for entity in now.entities} == names
