"""The serving API over HTTP (Starlette): what databricks-sdk and clients call. Loopback, for demo and tests."""

import asyncio
import base64
import hmac
import json
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lastgood.errors import ConfigError
from lastgood.record.words import counted
from lastgood.workspace.identity import version_of
from lastgood.workspace.local import models
from lastgood.workspace.local.catalog import LocalCatalog
from lastgood.workspace.local.chaos import Chaos
from lastgood.workspace.local.payload import PayloadWriter, as_json
from lastgood.workspace.local.registry import ModelRegistry
from lastgood.workspace.local.state import MODELS, ApiError, Fault, LocalConfig, State, served_entity_id
from lastgood.workspace.local.statements import WAREHOUSE, Statements

Handler = Callable[[Request], Awaitable[Response]]
Entry = tuple[str, str, Callable[..., Any]]
API = "/api/2.0/serving-endpoints"
DATA_PLANE = "/data-plane/serving-endpoints"
HOUR_MS = 3_600_000.0
SOURCES = {
    "synced_table": "database/synced_tables",
    "online_table": "online-tables",
    "vector_index": "vector-search/indexes",
}
"""Sources of features -> where the API has their state; `PUT /local/sources/KIND/NAME` sets the document."""


class Service:
    """Routes, models and faults around one State."""

    def __init__(self, config: LocalConfig) -> None:
        self.config, self.state = config, State(config)
        self.payload = PayloadWriter(config, self.state.history)
        self._rng = np.random.default_rng(config.seed)
        self._recent: dict[str, deque[tuple[float, int, float]]] = {}
        self.chaos = Chaos()
        self.catalog = config.catalog or LocalCatalog()
        self.statements = Statements(self.catalog)
        self.registry = ModelRegistry(self.state.aliases)
        self.on_token: Callable[[str], None] = lambda token: None
        self.sources: dict[tuple[str, str], dict[str, Any]] = {}

    def app(self) -> Starlette:
        table = [*self._serving(), *self._platform(), *self._tables(), *self._local()]
        routes = [Route(path, self._json(act), methods=[method]) for method, path, act in table]
        invoke, own = self._guarded(self._by_workspace), self._guarded(self._invoke, own=True)
        routes += [
            Route("/.well-known/databricks-config", self._discovery),
            Route("/local/results/{id}/{chunk:int}", self._result),
            Route("/oidc/.well-known/oauth-authorization-server", self._oidc),
            Route("/oidc/v1/token", self._token, methods=["POST"]),
            Route(f"{API}/{{name}}/metrics", self._guarded(self._metrics)),
            Route("/serving-endpoints/{name}/invocations", invoke, methods=["POST"]),
            Route("/serving-endpoints/{name}/served-models/{entity}/invocations", invoke, methods=["POST"]),
            Route(f"{DATA_PLANE}/{{name}}/invocations", own, methods=["POST"]),
            Route(f"{DATA_PLANE}/{{name}}/served-models/{{entity}}/invocations", own, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    def _serving(self) -> list[Entry]:
        """The serving API: method, path, what answers."""
        state, permissions = self.state, "/api/2.0/permissions/serving-endpoints/{id}"
        return [
            ("GET", API, lambda r, b: {"endpoints": [state.get(name) for name in state.names()]}),
            ("POST", API, lambda r, b: state.create(b)),
            ("GET", API + "/{name}", lambda r, b: self._shown(r["name"], r["url"])),
            ("DELETE", API + "/{name}", lambda r, b: state.delete(r["name"])),
            ("PUT", API + "/{name}/config", lambda r, b: state.update(r["name"], b)),
            ("PATCH", API + "/{name}/tags", lambda r, b: state.patch_tags(r["name"], b)),
            ("PATCH", API + "/{name}/telemetry-config", lambda r, b: state.patch_telemetry(r["name"], b)),
            ("PUT", API + "/{name}/ai-gateway", lambda r, b: state.put_gateway(r["name"], b)),
            ("GET", permissions, lambda r, b: state.permissions(r["id"], None)),
            ("PUT", permissions, lambda r, b: state.permissions(r["id"], b)),
        ]

    def _shown(self, name: str, url: str) -> dict[str, Any]:
        """An endpoint; a route-optimised one with the address and the rights that a token for it must name."""
        document = self.state.get(name)
        if self.state.optimised(name):
            address, details = f"{url}{DATA_PLANE}/{name}/invocations", _details(name)
            document["endpoint_url"] = address
            document["data_plane_info"] = {"query_info": {"endpoint_url": address, "authorization_details": details}}
        return document

    def _platform(self) -> list[Entry]:
        """The registry, the user, and the sources of features."""
        uc = "/api/2.1/unity-catalog/models/{model}"
        return [
            ("GET", uc + "/versions", lambda r, b: {"model_versions": [_version(r["model"], v) for v in (1, 2, 3)]}),
            ("GET", uc + "/versions/{version:int}", lambda r, b: _version(r["model"], r["version"])),
            ("GET", uc, self._model),
            ("GET", uc + "/aliases/{alias}", self._alias),
            ("PUT", uc + "/aliases/{alias}", self._set_alias),
            ("DELETE", uc + "/aliases/{alias}", self._drop_alias),
            *self._mlflow("/api/2.0/mlflow/unity-catalog"),
            *self._mlflow("/api/2.0/mlflow"),
            ("GET", "/api/2.0/preview/scim/v2/Me", lambda r, b: {"userName": "person@example.com"}),
            *(
                ("GET", f"/api/2.0/{path}/{{name}}", lambda r, b, kind=kind: self._source(kind, r["name"]))
                for kind, path in SOURCES.items()
            ),
        ]

    def _tables(self) -> list[Entry]:
        """Unity Catalog's tables and the SQL warehouse."""
        catalog, statements = self.catalog, self.statements
        uc, sql = "/api/2.1/unity-catalog", "/api/2.0/sql/statements"
        warehouse = {
            "id": WAREHOUSE,
            "name": "local",
            "cluster_size": "2X-Small",
            "auto_stop_mins": 10,
            "state": "RUNNING",
        }
        return [
            ("GET", uc + "/tables/{name}", lambda r, b: catalog.table(r["name"])),
            ("POST", "/api/2.0/unity-catalog/temporary-table-credentials", lambda r, b: catalog.lend(b)),
            ("POST", uc + "/temporary-table-credentials", lambda r, b: catalog.lend(b)),
            ("GET", uc + "/metastore_summary", lambda r, b: catalog.metastore()),
            ("GET", uc + "/effective-permissions/{kind}/{name}", lambda r, b: catalog.effective("person@example.com")),
            ("POST", sql + "/", lambda r, b: statements.execute(b, r["url"])),
            ("GET", sql + "/{id}", lambda r, b: statements.get(r["id"], r["url"])),
            (
                "GET",
                sql + "/{id}/result/chunks/{chunk:int}",
                lambda r, b: statements.chunk(r["id"], r["chunk"], r["url"]),
            ),
            ("GET", f"/api/2.0/sql/warehouses/{WAREHOUSE}", lambda r, b: warehouse),
            (
                "GET",
                "/api/2.0/database/instances/{name}",
                lambda r, b: {"name": r["name"], "read_write_dns": "127.0.0.1"},
            ),
            ("POST", "/api/2.0/database/credentials", lambda r, b: self._database_credential()),
            ("PUT", "/local/catalog", lambda r, b: catalog.put(b)),
        ]

    def _database_credential(self) -> dict[str, Any]:
        """A token as a database's password; `on_token` hears of it, so that a server can be told."""
        token, end = uuid.uuid4().hex, datetime.now(UTC) + timedelta(seconds=self.catalog.lease_s)
        self.on_token(token)
        return {"token": token, "expiration_time": end.isoformat().replace("+00:00", "Z")}

    async def _discovery(self, request: Request) -> Response:
        """Where a client learns where tokens are had."""
        return JSONResponse({"oidc_endpoint": f"{_base(request)}/oidc"})

    async def _oidc(self, request: Request) -> Response:
        """Where a service principal gets its token."""
        base = _base(request)
        return JSONResponse(
            {"authorization_endpoint": f"{base}/oidc/v1/authorize", "token_endpoint": f"{base}/oidc/v1/token"}
        )

    async def _token(self, request: Request) -> Response:
        """A token for the principal whose secret is the workspace's token; or one for a route-optimised endpoint, in exchange for that token."""
        form = await request.form()
        if form.get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            if form.get("assertion") != self.config.token:
                return JSONResponse({"error": "invalid_grant"}, 401)
            token = self._own_token(str(form.get("authorization_details")))
            return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 3600})
        expected = base64.b64encode(f"app:{self.config.token}".encode()).decode()
        if not hmac.compare_digest(request.headers.get("authorization", ""), f"Basic {expected}"):
            return JSONResponse({"error": "invalid_client"}, 401)
        return JSONResponse({"access_token": self.config.token, "token_type": "Bearer", "expires_in": 3600})

    def _own_token(self, details: str) -> str:
        """A token that is good for what the details name and for nothing else."""
        return hmac.new(self.config.token.encode(), details.encode(), "sha256").hexdigest()

    async def _result(self, request: Request) -> Response:
        """A chunk of a statement's result. As behind a signed address, a token is refused, not needed."""
        if "authorization" in request.headers:
            return _error(400, "INVALID_ARGUMENT", "Only one auth mechanism allowed.")
        chunk = self.statements.result(request.path_params["id"], request.path_params["chunk"])
        return Response(chunk, media_type="application/vnd.apache.arrow.stream")

    def _local(self) -> list[Entry]:
        """What only the local workspace has: faults, chaos, sources, a flush."""
        faults = "/local/faults/{endpoint}/{version}"
        return [
            ("GET", "/local/chaos", lambda r, b: self.chaos.state()),
            ("PUT", "/local/chaos", lambda r, b: self.chaos.put(b)),
            ("GET", faults, lambda r, b: asdict(self.state.fault(r["endpoint"], r["version"]))),
            ("PUT", faults, self._set_fault),
            ("PUT", "/local/sources/{kind}/{name}", self._set_source),
            ("PUT", "/local/flush", lambda r, b: self.payload.flush()),
        ]

    def _guarded(self, handler: Handler, own: bool = False) -> Handler:
        """`own`: at the address of a route-optimised endpoint, which takes a token of its own."""

        async def guarded(request: Request) -> Response:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            token = self._own_token(_details(request.path_params["name"])) if own else self.config.token
            if not hmac.compare_digest(given.encode(), token.encode()):
                return _error(
                    401,
                    "UNAUTHENTICATED",
                    "Credential was not sent or was of an unsupported type for this API.",
                )
            try:
                return await self.chaos.meet(request, handler)
            except ApiError as error:
                return _error(error.status, error.code, error.message)

        return guarded

    def _json(self, act: Callable[[dict[str, Any], Any], Any]) -> Handler:
        async def handler(request: Request) -> Response:
            body: Any = {}
            if raw := await request.body():
                try:
                    body = await request.json()
                except ValueError:
                    return _error(400, "MALFORMED_REQUEST", f"body is not JSON ({counted(len(raw), 'byte')})")
                if not isinstance(body, dict):
                    return _error(400, "MALFORMED_REQUEST", "body is not a JSON object")
            where = {**request.path_params, "url": _base(request), "query": dict(request.query_params)}
            return JSONResponse(await asyncio.to_thread(act, where, body))

        return self._guarded(handler)

    def _alias(self, where: dict[str, Any], body: Any) -> dict[str, Any]:
        version = self.state.aliases.get(where["model"], {}).get(where["alias"])
        if version is None:
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"alias {where['alias']} does not exist")
        return _version(where["model"], version)

    def _model(self, where: dict[str, Any], body: Any) -> dict[str, Any]:
        catalog, schema, name = [*where["model"].split("."), "", ""][:3]
        aliases = self.state.aliases.get(where["model"], {})
        shown = [{"alias_name": alias, "version_num": version} for alias, version in aliases.items()]
        return {"full_name": where["model"], "catalog_name": catalog, "schema_name": schema, "name": name} | {
            "aliases": shown
        }

    def _set_alias(self, where: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(body.get("version_num"), int):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", "version_num: expected a whole number")
        self.state.aliases.setdefault(where["model"], {})[where["alias"]] = body["version_num"]
        return {"alias_name": where["alias"], "version_num": body["version_num"]}

    def _drop_alias(self, where: dict[str, Any], body: Any) -> dict[str, Any]:
        self.state.aliases.get(where["model"], {}).pop(where["alias"], None)
        return {}

    def _mlflow(self, path: str) -> list[Entry]:
        """The registry as MLflow's own client asks for it; `path` of Unity Catalog or of the workspace registry."""
        registry = self.registry
        models, versions = f"{path}/registered-models", f"{path}/model-versions"
        return [
            ("GET", f"{models}/get", lambda r, b: {"registered_model": registry.model(**_asked(r, b, "name"))}),
            ("POST", f"{models}/set-tag", lambda r, b: registry.tag(b["name"], "", b["key"], b["value"])),
            (
                "DELETE",
                f"{models}/delete-tag",
                lambda r, b: registry.tag(**_asked(r, b, "name", "key"), version="", value=None),
            ),
            (
                "GET",
                f"{versions}/get",
                lambda r, b: {"model_version": registry.version(**_asked(r, b, "name", "version"))},
            ),
            ("POST", f"{versions}/set-tag", lambda r, b: registry.tag(b["name"], b["version"], b["key"], b["value"])),
            (
                "DELETE",
                f"{versions}/delete-tag",
                lambda r, b: registry.tag(**_asked(r, b, "name", "version", "key"), value=None),
            ),
            (
                "GET",
                f"{models}/alias",
                lambda r, b: {"model_version": registry.by_alias(**_asked(r, b, "name", "alias"))},
            ),
            ("POST", f"{models}/alias", lambda r, b: registry.alias(b["name"], b["alias"], b["version"])),
            ("DELETE", f"{models}/alias", lambda r, b: registry.alias(**_asked(r, b, "name", "alias"), version=None)),
            (
                "POST",
                f"{versions}/transition-stage",
                lambda r, b: {"model_version": registry.stage(b["name"], b["version"], b["stage"])},
            ),
        ]

    def _set_fault(self, where: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        known = {field.name for field in fields(Fault)}
        if unknown := set(body) - known:
            raise ApiError(
                400,
                "INVALID_PARAMETER_VALUE",
                f"unknown fault {sorted(unknown)}; known: {sorted(known)}",
            )
        self.state.faults[where["endpoint"], where["version"]] = Fault(**body)
        return body

    async def _metrics(self, request: Request) -> Response:
        """Per-minute gauges, as the export API words them."""
        name = request.path_params["name"]
        self.state.get(name)
        recent = [call for call in self._recent.get(name, ()) if call[0] > time.monotonic() - 60]
        figures = {"request_count_total": len(recent)} | {
            f"request_{kind}xx_count_total": sum(1 for call in recent if call[1] // 100 == kind) for kind in (4, 5)
        }
        lines = [f'# TYPE {key} gauge\n{key}{{endpoint_name="{name}"}} {value}' for key, value in figures.items()]
        return PlainTextResponse("\n".join(lines) + "\n")

    def _source(self, kind: str, name: str) -> dict[str, Any]:
        source = self.sources.get((kind, name))
        if source is None:
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"{kind} {name} does not exist")
        return source

    def _set_source(self, where: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        self.sources[where["kind"], where["name"]] = body
        return body

    def _limited(self, name: str) -> bool:
        limit, recent = (
            self.config.rate_limit_per_s,
            self._recent.setdefault(name, deque(maxlen=100_000)),
        )
        now = time.monotonic()
        if limit is None:
            return False
        return sum(1 for call in list(recent)[-limit:] if call[0] > now - 1) >= limit

    async def _by_workspace(self, request: Request) -> Response:
        """A request through the workspace, which a route-optimised endpoint does not answer."""
        name = request.path_params["name"]
        if self.state.optimised(name):
            raise ApiError(400, "BAD_REQUEST", f"Endpoint '{name}' is route optimized: use its own URL.")
        return await self._invoke(request)

    async def _invoke(self, request: Request) -> Response:
        name, started, at = (
            request.path_params["name"],
            time.monotonic(),
            datetime.now(UTC),
        )
        entities, shares = self.state.serving(name)
        if self._limited(name):
            return _error(
                429,
                "REQUEST_LIMIT_EXCEEDED",
                "Exceeded the endpoint's rate limit.",
                {"retry-after": "1"},
            )
        raw = await request.body()
        wanted = request.path_params.get("entity")
        if wanted is not None:
            chosen = next((e for e in entities if e["name"] == wanted), None)
            if chosen is None:
                raise ApiError(
                    404,
                    "RESOURCE_DOES_NOT_EXIST",
                    f"served model '{wanted}' does not exist",
                )
        else:
            chosen = entities[int(self._rng.choice(len(entities), p=np.asarray(shares) / 100))]
        request_id = str(uuid.uuid4())
        request.state.client_request_id = None
        version = version_of(chosen)
        fault = self.state.fault(name, version)
        status, document, generated = await self._answer(request, name, chosen, fault)
        await asyncio.sleep(
            max(
                0.0,
                self._service_s(fault, generated, status) - (time.monotonic() - started),
            )
        )
        took = (time.monotonic() - started) * 1000
        if status == 200:
            document |= {
                "model_version": version,
                "latency_ms": round(took, 3),
                "request_id": request_id,
            }
        body = as_json(document)
        client_id = request.state.client_request_id
        facts = {
            "databricks_request_id": request_id, "client_request_id": client_id, "request_time": at, "status_code": status,
            "execution_duration_ms": round(took), "served_entity_id": served_entity_id(name, chosen),
            "requester": request.headers.get("x-requester", "local-user"),
        }  # fmt: skip
        self.payload.log(facts, raw, body)
        self._recent.setdefault(name, deque(maxlen=100_000)).append((time.monotonic(), status, took))
        headers = {
            "served-model-name": chosen["name"],
            "x-databricks-request-id": request_id,
            "x-feature-age-ms": str(self._feature_age(fault)),
        }
        return Response(body, status, headers, "application/json")

    async def _answer(
        self, request: Request, name: str, chosen: dict[str, Any], fault: Fault
    ) -> tuple[int, dict[str, Any], int]:
        try:
            document = await request.json()
            if not isinstance(document, dict):
                raise ConfigError("body: expected a JSON object")
            request.state.client_request_id = str(document.get("client_request_id") or "") or None
            if fault.crash:
                return (
                    503,
                    {
                        "error_code": "TEMPORARILY_UNAVAILABLE",
                        "message": "The served model has crashed.",
                    },
                    0,
                )
            if self._rng.random() < fault.error_share:
                return (
                    500,
                    {
                        "error_code": "INTERNAL_ERROR",
                        "message": "The served model raised an exception.",
                    },
                    0,
                )
            worse = None
            if self._rng.random() < fault.worse_answers:
                worse = ("empty", "refusal", "repetitive")[int(self._rng.integers(3))]
            model = models.build(*_stand_in(chosen))
            answer, generated = model.answer(document, worse)
            return 200, answer, generated
        except (ConfigError, ValueError) as error:
            return 400, {"error_code": "BAD_REQUEST", "message": str(error)}, 0

    def _service_s(self, fault: Fault, generated: int, status: int) -> float:
        """Service time: a lognormal around 40 ms and 0.4 ms a token; slower with a heavier tail under the fault."""
        spread = 0.35 if fault.latency_factor == 1 else 0.6
        base = float(self._rng.lognormal(np.log(0.04), spread)) + 0.0004 * generated
        return base * fault.latency_factor * self.config.latency_scale if status != 400 else 0.0

    def _feature_age(self, fault: Fault) -> float:
        return float(
            round(
                self._rng.uniform(8 * HOUR_MS, 20 * HOUR_MS)
                if fault.stale_features
                else self._rng.uniform(60_000, 300_000)
            )
        )


def _asked(where: dict[str, Any], body: Any, *names: str) -> dict[str, str]:
    """Values of the query or of the body: MLflow's client sends the body with GET and DELETE, too. Errors: ApiError."""
    given = {**where["query"], **(body or {})}
    if missing := [name for name in names if name not in given]:
        raise ApiError(400, "INVALID_PARAMETER_VALUE", f"missing {', '.join(missing)}")
    return {name: str(given[name]) for name in names}


def _details(name: str) -> str:
    """The rights that a token for a route-optimised endpoint must name."""
    path = f"/serving-endpoints/{name}"
    return json.dumps([{"type": "workspace_permission", "object_path": path, "actions": ["query_inference_endpoint"]}])


def _base(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def _stand_in(served: dict[str, Any]) -> tuple[str, str]:
    """The model that answers for a served entity: its own, or the chat model for what runs elsewhere."""
    name, version = str(served.get("entity_name")), str(served.get("entity_version"))
    return (name, version) if name in MODELS.values() else (MODELS[models.CHAT], "1")


def _version(model: str, version: int) -> dict[str, Any]:
    if version not in (1, 2, 3):
        raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", f"model version {version} does not exist")
    catalog, schema, name = [*model.split("."), "", ""][:3]
    return {
        "catalog_name": catalog,
        "schema_name": schema,
        "model_name": name,
        "version": version,
        "status": "READY",
    }


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error_code": code, "message": message}, status, headers)
