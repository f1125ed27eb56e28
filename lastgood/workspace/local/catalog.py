"""Unity Catalog as the local workspace plays it: tables of schemas whose places are given, grants, and credentials lent for a while.

Shapes: Databricks REST reference, Unity Catalog (tables, temporary-table-credentials, metastore_summary, effective-permissions). Lent S3
keys say what they are good for (`lent_key`), so that a gate before an S3 server can hold clients to it.
"""

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lastgood.tables import delta
from lastgood.workspace.local.state import ApiError

PRIVILEGES = frozenset({"USE_CATALOG", "USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE", "EXTERNAL_USE_SCHEMA"})


def lent_key(write: bool, until: float, location: str) -> str:
    """An S3 access key id that says what it is good for: R or W, until when (seconds since 1970), below which address."""
    return f"LENT-{'W' if write else 'R'}-{until:.3f}-{location.encode().hex()}"


def lent_for(key: str) -> tuple[bool, float, str] | None:
    """(may write, until, address) of a lent key; None for any other."""
    parts = key.split("-")
    if len(parts) != 4 or parts[0] != "LENT":
        return None
    return parts[1] == "W", float(parts[2]), bytes.fromhex(parts[3]).decode()


@dataclass
class LocalCatalog:
    """`schemas`: catalog.schema -> folder or address that holds its tables, a folder each; `options`: how the workspace itself reaches
    them. What can be set over HTTP (`PUT /local/catalog`): the metastore's switch, denied privileges, how long credentials live, which
    tables are external (others are managed: nobody outside may write them)."""

    schemas: dict[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    region: str = "us-east-1"
    lease_s: float = 3600.0
    external_access: bool = True
    denied: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    kinds: dict[str, str] = field(default_factory=dict)
    lent: int = 0
    _ids: dict[str, str] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Change what can be set. Errors: ApiError."""
        known = {"schemas", "lease_s", "external_access", "denied", "external", "kinds"}
        if set(body) - known:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"expected some of {sorted(known)}")
        with self._lock:
            for name, value in body.items():
                setattr(self, name, set(value) if name in ("denied", "external") else value)
        return {}

    def located(self, name: str) -> delta.Where:
        """Where a table's files are. Errors: ApiError where its schema is not known."""
        schema, _, table = name.rpartition(".")
        if schema not in self.schemas:
            raise ApiError(404, "SCHEMA_DOES_NOT_EXIST", f"Schema '{schema}' does not exist.")
        where = f"{self.schemas[schema].rstrip('/')}/{table}"
        return delta.Located(where, self.options) if delta.is_remote(where) else where

    def _need(self, privilege: str, what: str) -> None:
        if privilege in self.denied:
            raise ApiError(403, "PERMISSION_DENIED", f"User does not have {privilege.replace('_', ' ')} on {what}.")

    def table(self, name: str) -> dict[str, Any]:
        """`GET /api/2.1/unity-catalog/tables/{full_name}`."""
        schema, _, table = name.rpartition(".")
        for privilege in ("USE_CATALOG", "USE_SCHEMA", "SELECT"):
            self._need(privilege, f"Schema '{schema}'")
        where = self.located(name)
        identity = delta.identity(where)
        if identity is None:
            raise ApiError(404, "TABLE_DOES_NOT_EXIST", f"Table '{name}' does not exist.")
        with self._lock:
            self._ids[identity] = name
        kind = self.kinds.get(table) or ("EXTERNAL" if table in self.external else "MANAGED")
        catalog, schema_name = schema.split(".")
        return {
            "name": table, "catalog_name": catalog, "schema_name": schema_name, "full_name": name, "table_type": kind,
            "data_source_format": "DELTA", "table_id": identity, "storage_location": _address(where),
        }  # fmt: skip

    def lend(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """`POST /api/2.1/unity-catalog/temporary-table-credentials`."""
        name, operation = self._ids.get(str(body.get("table_id"))), body.get("operation")
        if name is None:
            raise ApiError(404, "TABLE_DOES_NOT_EXIST", f"Table with id '{body.get('table_id')}' does not exist.")
        if operation not in ("READ", "READ_WRITE"):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"operation: expected READ or READ_WRITE, found {operation}")
        schema, _, table = name.rpartition(".")
        if not self.external_access:
            text = "Credential vending is rejected: external data access is disabled on the metastore."
            raise ApiError(403, "EXTERNAL_ACCESS_DISABLED_ON_METASTORE", text)
        self._need("EXTERNAL_USE_SCHEMA", f"Schema '{schema}'")
        write = operation == "READ_WRITE"
        if write:
            self._need("MODIFY", f"Table '{name}'")
        if self.kinds.get(table, "TABLE") not in ("TABLE", "MANAGED", "EXTERNAL"):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"'{name}' is no table whose files can be read.")
        if write and table not in self.external:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Managed table '{name}' cannot be written from outside.")
        address, until = _address(self.located(name)), time.time() + self.lease_s
        answer: dict[str, Any] = {"url": address, "expiration_time": int(until * 1000)}
        self.lent += 1
        if address.startswith("s3"):
            key = lent_key(write, until, address)
            answer["aws_temp_credentials"] = {
                "access_key_id": key, "secret_access_key": secrets.token_urlsafe(24), "session_token": secrets.token_urlsafe(24),
            }  # fmt: skip
        return answer

    def metastore(self) -> dict[str, Any]:
        """`GET /api/2.1/unity-catalog/metastore_summary`."""
        return {"metastore_id": "local", "name": "local", "cloud": "aws", "region": self.region} | {
            "external_access_enabled": self.external_access
        }

    def effective(self, principal: str) -> dict[str, Any]:
        """`GET /api/2.1/unity-catalog/effective-permissions/{type}/{name}`: the same for all."""
        held = [{"privilege": name} for name in sorted(PRIVILEGES - self.denied)]
        return {"privilege_assignments": [{"principal": principal, "privileges": held}]}


def _address(where: delta.Where) -> str:
    """As the catalog words it."""
    return str(where) if delta.is_remote(where) else f"file://{where}"
