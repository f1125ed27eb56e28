"""Endpoints and their updates over time: what the local workspace knows, without HTTP. One lock, injected clock."""

import copy
import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lastgood.workspace.identity import modern, name_of, version_of
from lastgood.workspace.local.models import CHAT, TABULAR


class ApiError(Exception):
    """An error as the API words it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class LocalConfig:
    """`payload`: folder for the inference and system tables (None: not written). `catalog`: a LocalCatalog, what Unity Catalog holds. Times
    in seconds."""

    payload: str | None = None
    seed: int = 0
    update_s: float = 0.5
    payload_delay_s: float = 2.0
    payload_batch_s: float = 2.0
    duplicate_share: float = 0.01
    rate_limit_per_s: int | None = None
    latency_scale: float = 1.0
    token: str = "local-token"
    host: str = "127.0.0.1"
    port: int = 0
    catalog: Any = None


@dataclass
class Fault:
    """What is wrong with a version: shares 0-1; `latency_factor` multiplies its service time.

    `never_ready`: an update that deploys it fails. `not_ready`: it is deployed and shown as being created.
    """

    latency_factor: float = 1.0
    error_share: float = 0.0
    worse_answers: float = 0.0
    stale_features: bool = False
    crash: bool = False
    never_ready: bool = False
    not_ready: bool = False


@dataclass
class _Endpoint:
    config: dict[str, Any]
    pending: dict[str, Any] | None = None
    done_at: float = 0.0
    update: str = "NOT_UPDATING"
    tags: dict[str, str] = field(default_factory=dict)
    permissions: list[dict[str, Any]] = field(default_factory=list)
    created: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


def entity(model: str, version: str, **settings: Any) -> dict[str, Any]:
    """A served entity document."""
    name = f"{model.rsplit('.', 1)[-1]}-{version}"
    base = {
        "name": name,
        "entity_name": model,
        "entity_version": version,
        "workload_size": "Small",
        "scale_to_zero_enabled": False,
    }
    return base | settings


KEPT = ("ai_gateway", "budget_policy_id", "description", "email_notifications", "route_optimized", "telemetry_config")
"""What an endpoint has besides its config; an update of the config does not touch it."""
MODELS = {CHAT: "main.default.support_chat", TABULAR: "main.default.tumour_risk"}


FEATURE_SPEC = "feature_spec"
"""In the name of a feature spec here; the platform asks the catalog what an entity is."""


def _whole(served: dict[str, Any]) -> bool:
    """Whether an entity names what it serves: a model with its version, an external model, a feature spec, or a model that the platform hosts."""
    if served.get("foundation_model"):
        return True
    if external := served.get("external_model"):
        return isinstance(external, dict) and all(external.get(key) for key in ("provider", "name", "task"))
    name = str(served.get("entity_name") or "")
    return bool(name) and (str(served.get("entity_version", "")).isdigit() or FEATURE_SPEC in name)


TELEMETRY = {
    "table_names": {"logs_table", "traces_table", "metrics_table", "annotations_table"},
    "inference_table_config": {"name", "sampling_fraction"},
}


def telemetry(wanted: dict[str, Any], entities: list[dict[str, Any]]) -> dict[str, Any]:
    """A telemetry config as it is kept and shown: the tables' names make a profile and are not read back; the payload table has its name from
    the logs table."""
    known = {*TELEMETRY, "telemetry_profile_id", "enabled_telemetry_features"}
    odd = set(wanted) - known | {key for room, keys in TELEMETRY.items() for key in set(wanted.get(room) or {}) - keys}
    if odd:
        raise ApiError(400, "INVALID_PARAMETER_VALUE", f"telemetry_config: unknown {', '.join(sorted(odd))}")
    if all(served.get("external_model") and not served.get("entity_version") for served in entities):
        raise ApiError(400, "INVALID_PARAMETER_VALUE", "telemetry is not supported for endpoints of external models")
    shown = {key: copy.deepcopy(value) for key, value in wanted.items() if key != "table_names"}
    if names := wanted.get("table_names"):
        shown["telemetry_profile_id"] = hashlib.sha256(repr(sorted(names.items())).encode()).hexdigest()[:32]
        if "inference_table_config" in shown and names.get("logs_table"):
            shown["inference_table_config"]["name"] = f"{names['logs_table']}_payload"
    return shown


def entity_type(served: dict[str, Any]) -> str:
    """As system.serving.served_entities words it."""
    if served.get("external_model"):
        return "EXTERNAL_MODEL"
    if served.get("foundation_model"):
        return "FOUNDATION_MODEL"
    name = str(served.get("entity_name") or "")
    return (
        "FEATURE_SPEC"
        if FEATURE_SPEC in name
        else "FOUNDATION_MODEL"
        if name.startswith("system.ai.")
        else "CUSTOM_MODEL"
    )


class State:
    """All endpoints. Every method takes and gives API documents. Errors: ApiError."""

    def __init__(self, config: LocalConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._clock, self.lock = config, clock, threading.RLock()
        self.faults: dict[tuple[str, str], Fault] = {}
        self.aliases: dict[str, dict[str, int]] = {}
        self.history: list[dict[str, Any]] = []
        self._endpoints: dict[str, _Endpoint] = {}
        chat, tabular = MODELS[CHAT], MODELS[TABULAR]
        self.create(
            {
                "name": CHAT,
                "config": self._body([entity(chat, "2"), entity(chat, "1")], [100, 0]),
            }
        )
        self.create({"name": TABULAR, "config": self._body([entity(tabular, "1")], [100])})

    def use(self, clock: Callable[[], float]) -> None:
        """Updates take their time by this clock from now on (seconds)."""
        self._clock = clock

    @staticmethod
    def _body(entities: list[dict[str, Any]], shares: list[int]) -> dict[str, Any]:
        routes = [
            {"served_entity_name": e["name"], "traffic_percentage": s} for e, s in zip(entities, shares, strict=True)
        ]
        return {"served_entities": entities, "traffic_config": {"routes": routes}}

    def fault(self, endpoint: str, version: str) -> Fault:
        """The fault in force, `*` standing for all versions."""
        return self.faults.get((endpoint, version)) or self.faults.get((endpoint, "*")) or Fault()

    def _find(self, name: str) -> _Endpoint:
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise ApiError(
                404,
                "RESOURCE_DOES_NOT_EXIST",
                f"Endpoint with name '{name}' does not exist.",
            )
        self._settle(name, endpoint)
        return endpoint

    def _settle(self, name: str, endpoint: _Endpoint) -> None:
        if endpoint.pending is None or self._clock() < endpoint.done_at:
            return
        versions = [version_of(e) for e in endpoint.pending["served_entities"]]
        if any(self.fault(name, version).never_ready for version in versions):
            endpoint.update = "UPDATE_FAILED"
        else:
            endpoint.config, endpoint.update = endpoint.pending, "NOT_UPDATING"
            self._remember(name, endpoint)
        endpoint.pending = None

    def _remember(self, name: str, endpoint: _Endpoint) -> None:
        for served in endpoint.config["served_entities"]:
            self.history.append({
                "endpoint_name": name, "served_entity_id": served_entity_id(name, served), "served_entity_name": served["name"],
                "entity_type": entity_type(served), "entity_name": served.get("entity_name"), "entity_version": served.get("entity_version"),
                "endpoint_config_version": endpoint.config["config_version"],
            })  # fmt: skip

    @staticmethod
    def validate(body: dict[str, Any]) -> dict[str, Any]:
        """A config body with routes, checked as the service checks it."""
        entities = body.get("served_entities") or [modern(e) for e in body.get("served_models") or ()]
        if not isinstance(entities, list) or not 1 <= len(entities) <= 15:
            raise ApiError(
                400,
                "INVALID_PARAMETER_VALUE",
                "served_entities: expected 1 to 15 entities",
            )
        for served in entities:
            if not isinstance(served, dict) or not _whole(served):
                raise ApiError(
                    400,
                    "INVALID_PARAMETER_VALUE",
                    "served_entities: entity_name and entity_version are required",
                )
            served.setdefault("name", name_of(served))
            if not {"external_model", "foundation_model", "scale_to_zero_enabled"} & set(served):
                raise ApiError(
                    400,
                    "INVALID_PARAMETER_VALUE",
                    "served_entities: scale_to_zero_enabled is required",
                )
        names = [served["name"] for served in entities]
        routes = (body.get("traffic_config") or {}).get("routes") or [
            {"served_entity_name": names[0], "traffic_percentage": 100}
        ]
        unknown = [r.get("served_entity_name") for r in routes if r.get("served_entity_name") not in names]
        shares = [r.get("traffic_percentage") for r in routes]
        if unknown or len(set(names)) != len(names):
            raise ApiError(
                400,
                "INVALID_PARAMETER_VALUE",
                f"routes name entities that are not served: {unknown}" if unknown else f"entity names repeat: {names}",
            )
        if not all(isinstance(s, int) and 0 <= s <= 100 for s in shares) or sum(shares) != 100:
            raise ApiError(
                400,
                "INVALID_PARAMETER_VALUE",
                f"traffic percentages must be whole and sum to 100, found {shares}",
            )
        return {
            **copy.deepcopy(body),
            "served_entities": copy.deepcopy(entities),
            "traffic_config": {**copy.deepcopy(body.get("traffic_config") or {}), "routes": copy.deepcopy(routes)},
        }

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            name = body.get("name")
            if not isinstance(name, str) or not name:
                raise ApiError(400, "INVALID_PARAMETER_VALUE", "name is required")
            if name in self._endpoints:
                raise ApiError(
                    409,
                    "RESOURCE_ALREADY_EXISTS",
                    f"Endpoint with name '{name}' already exists.",
                )
            config = self.validate(body.get("config") or {}) | {"config_version": 1}
            tags = {t["key"]: t.get("value", "") for t in body.get("tags") or ()}
            extra = {key: copy.deepcopy(body[key]) for key in KEPT if key in body}
            if "telemetry_config" in extra:
                extra["telemetry_config"] = telemetry(extra["telemetry_config"], config["served_entities"])
            self._endpoints[name] = _Endpoint(config, tags=tags, created=len(self._endpoints) + 1, extra=extra)
            self._remember(name, self._endpoints[name])
            return self.get(name)

    def delete(self, name: str) -> dict[str, Any]:
        with self.lock:
            self._find(name)
            del self._endpoints[name]
            return {}

    def update(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            endpoint = self._find(name)
            if endpoint.pending is not None:
                raise ApiError(
                    409,
                    "RESOURCE_CONFLICT",
                    f"Endpoint '{name}' is currently being updated.",
                )
            if any(served.get("foundation_model") for served in endpoint.config["served_entities"]):
                raise ApiError(403, "PERMISSION_DENIED", f"Endpoint '{name}' is the platform's own.")
            config = self.validate(body) | {"config_version": endpoint.config["config_version"] + 1}
            endpoint.pending, endpoint.update, endpoint.done_at = (
                config,
                "IN_PROGRESS",
                self._clock() + self.config.update_s,
            )
            return self.get(name)

    def get(self, name: str) -> dict[str, Any]:
        with self.lock:
            endpoint = self._find(name)
            document = {
                "name": name,
                "id": f"{endpoint.created:032x}",
                "creator": "person@example.com",
                "config": self._shown(name, endpoint.config, "DEPLOYMENT_READY"),
                "state": {"ready": "READY", "config_update": endpoint.update},
                "tags": [{"key": key, "value": value} for key, value in endpoint.tags.items()],
                "permission_level": "CAN_MANAGE",
            }
            if endpoint.pending:
                document["pending_config"] = self._shown(name, endpoint.pending, "DEPLOYMENT_CREATING")
            return document | copy.deepcopy(endpoint.extra)

    def _shown(self, name: str, config: dict[str, Any], deployment: str) -> dict[str, Any]:
        """As the API shows it: `burst_scaling_enabled` can be written and is never read back."""
        shown = copy.deepcopy(config)
        for served in shown["served_entities"]:
            served.pop("burst_scaling_enabled", None)
            waiting = self.fault(name, version_of(served)).not_ready
            served |= {
                "creator": "person@example.com",
                "state": {"deployment": "DEPLOYMENT_CREATING" if waiting else deployment},
            }
        return shown

    def put_gateway(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self._find(name).extra["ai_gateway"] = copy.deepcopy(body)
            return body

    def patch_telemetry(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            endpoint = self._find(name)
            endpoint.extra["telemetry_config"] = telemetry(
                body.get("telemetry_config") or {}, endpoint.config["served_entities"]
            )
            return self.get(name)

    def optimised(self, name: str) -> bool:
        """Whether the endpoint is asked at an address of its own."""
        with self.lock:
            return bool(self._find(name).extra.get("route_optimized"))

    def names(self) -> list[str]:
        with self.lock:
            return list(self._endpoints)

    def serving(self, name: str) -> tuple[list[dict[str, Any]], list[int]]:
        """(served entities, their shares) in force now."""
        with self.lock:
            config = self._find(name).config
            shares = {r["served_entity_name"]: r["traffic_percentage"] for r in config["traffic_config"]["routes"]}
            return config["served_entities"], [shares.get(e["name"], 0) for e in config["served_entities"]]

    def patch_tags(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            tags = self._find(name).tags
            for key in body.get("delete_tags") or ():
                tags.pop(key, None)
            tags |= {t["key"]: t.get("value", "") for t in body.get("add_tags") or ()}
            return {"tags": [{"key": key, "value": value} for key, value in tags.items()]}

    def permissions(self, endpoint_id: str, body: dict[str, Any] | None) -> dict[str, Any]:
        with self.lock:
            entry = next(
                (e for e in self._endpoints.values() if f"{e.created:032x}" == endpoint_id),
                None,
            )
            if entry is None:
                raise ApiError(
                    404,
                    "RESOURCE_DOES_NOT_EXIST",
                    f"no serving endpoint with id {endpoint_id}",
                )
            if body is not None:
                entry.permissions = list(body.get("access_control_list") or ())
            shown = [
                {
                    **permission,
                    "all_permissions": [{"permission_level": permission.get("permission_level")}],
                }
                for permission in entry.permissions
            ]
            return {
                "object_id": f"/serving-endpoints/{endpoint_id}",
                "access_control_list": shown,
            }


def served_entity_id(endpoint: str, served: dict[str, Any]) -> str:
    """A stable id, as system.serving.served_entities has one per served entity."""
    return hashlib.md5(
        f"{endpoint}/{served['name']}/{version_of(served)}".encode(),
        usedforsecurity=False,
    ).hexdigest()
