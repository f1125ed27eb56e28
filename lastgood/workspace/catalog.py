"""Unity Catalog and SQL warehouses through databricks-sdk -> what `lastgood.tables.catalog` asks: a table, credentials lent for it, SQL.

REST: /api/2.1/unity-catalog/{tables, temporary-table-credentials, metastore_summary}, /api/2.0/sql/statements (Arrow, external links).
"""

import io
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from functools import cached_property
from typing import Any

import httpx
import pyarrow as pa
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import BadRequest, NotFound, PermissionDenied, Unauthenticated
from databricks.sdk.errors.base import DatabricksError
from databricks.sdk.service import catalog as uc
from databricks.sdk.service import sql

from lastgood.errors import ConfigError, DeniedError, GoneError, LastgoodError, TransientError
from lastgood.record.telemetry import empty
from lastgood.settings import Settings, TableSettings
from lastgood.tables.catalog import Entry, Lease
from lastgood.tables.names import quoted
from lastgood.workspace.databricks import client, wording

STATEMENT_S = 120.0
"""A statement that takes longer is cancelled: nothing that is asked here should."""
NOT_THERE = ("TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND", "NO_SUCH_CATALOG_EXCEPTION")
TYPES = ((bool, "BOOLEAN"), (int, "BIGINT"), (float, "DOUBLE"), (datetime, "TIMESTAMP"), (date, "DATE"))
DBU_PER_HOUR = {
    "2X-Small": 4, "X-Small": 6, "Small": 12, "Medium": 24, "Large": 40, "X-Large": 80, "2X-Large": 144, "3X-Large": 272, "4X-Large": 528,
}  # fmt: skip
"""Databricks' documentation of SQL warehouse sizes."""


def poll_s(settings: Settings) -> float:
    """Seconds between two looks through a warehouse: as seldom as the policies allow, so that what is judged is acted on in time."""
    ages = [endpoint.policy.max_evidence_age_s for endpoint in (settings.default, *settings.endpoints.values())]
    return settings.tables.warehouse_poll_s or max(1.0, min(ages) / 4)


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """databricks-sdk's errors of the catalog by what the reader must do."""
    try:
        yield
    except LastgoodError:
        raise
    except NotFound as error:
        raise GoneError(f"{what}: not there ({wording(error)})") from error
    except Unauthenticated as error:
        raise ConfigError(f"{what}: the workspace does not accept the token: renew it ({wording(error)})") from error
    except (PermissionDenied, BadRequest) as error:
        raise DeniedError(f"{what}: {wording(error)}") from error
    except (DatabricksError, OSError, TimeoutError) as error:
        raise TransientError(f"{what}: {wording(error)}", 5.0) from error


class UnityCatalog:
    """`lastgood.tables.catalog.Catalog` of a workspace."""

    def __init__(self, sdk: WorkspaceClient, settings: TableSettings, poll_s: float) -> None:
        self._sdk, self._settings, self._poll_s = sdk, settings, poll_s
        for name in (
            "databricks.sdk",
            "httpx",
            "httpcore",
        ):  # at their chattiest they write lent credentials and signed addresses
            logger = logging.getLogger(name)
            logger.setLevel(max(logger.level, logging.WARNING))

    @property
    def poll_s(self) -> float:
        return self._poll_s

    def entry(self, name: str) -> Entry | None:
        try:
            with _errors(f"table {name}"):
                table = self._sdk.tables.get(name)
        except GoneError:
            return None
        except DeniedError as error:
            schema = name.rpartition(".")[0]
            grants = f"GRANT USE CATALOG ON CATALOG {quoted(schema.split('.')[0])}, USE SCHEMA and SELECT ON SCHEMA {quoted(schema)}"
            raise ConfigError(f"{error}; {grants} to this principal") from error
        kind = table.table_type.value if table.table_type else "MANAGED"
        return Entry(str(table.table_id), kind, table.storage_location or "")

    @cached_property
    def _region(self) -> str:
        """The metastore's region, where its tables' buckets mostly are; empty where it is not told. Errors: TransientError, which is not kept."""
        try:
            with _errors("metastore"):
                return self._sdk.metastores.summary().region or ""
        except ConfigError:
            return ""

    def lend(self, table_id: str, write: bool) -> Lease:
        wanted = uc.TableOperation.READ_WRITE if write else uc.TableOperation.READ
        with _errors(f"credentials to {'write' if write else 'read'}"):
            lent = self._sdk.temporary_table_credentials.generate_temporary_table_credentials(
                operation=wanted, table_id=table_id
            )
        until = int(lent.expiration_time) / 1000 if lent.expiration_time else None  # a server may word it as text
        return Lease(lent.url or "", self._options(lent), until)

    def _options(self, lent: uc.GenerateTemporaryTableCredentialResponse) -> dict[str, str]:
        """Lent credentials as delta-rs names them. Errors: DeniedError for a kind it does not take."""
        if aws := lent.aws_temp_credentials:
            options = {
                "AWS_ACCESS_KEY_ID": aws.access_key_id, "AWS_SECRET_ACCESS_KEY": aws.secret_access_key, "AWS_SESSION_TOKEN": aws.session_token,
                "AWS_REGION": self._settings.options.get("AWS_REGION") or self._region,
            }  # fmt: skip
        elif sas := lent.azure_user_delegation_sas:
            options = {"AZURE_STORAGE_SAS_TOKEN": sas.sas_token}
        elif aad := lent.azure_aad:
            options = {"AZURE_STORAGE_TOKEN": aad.aad_token}
        elif lent.gcp_oauth_token or lent.r2_temp_credentials:
            raise DeniedError("the catalog lends a token of a kind that delta-rs does not take (Google Cloud, R2)")
        else:
            return {}
        return {name: value for name, value in options.items() if value}

    def query(self, statement: str, parameters: Mapping[str, object]) -> pa.Table:
        if not self._settings.warehouse_id:
            raise DeniedError("no SQL warehouse is named (tables.warehouse_id)")
        warehouse = self._settings.warehouse_id
        with _errors("SQL warehouse"):
            try:
                answer = self._sdk.statement_execution.execute_statement(
                    statement,
                    warehouse,
                    parameters=[_parameter(name, value) for name, value in parameters.items()],
                    disposition=sql.Disposition.EXTERNAL_LINKS,
                    format=sql.Format.ARROW_STREAM,
                    wait_timeout="30s",
                    on_wait_timeout=sql.ExecuteStatementRequestOnWaitTimeout.CONTINUE,
                )
            except NotFound as error:  # of the warehouse: a table that is not there is a statement that fails
                raise ConfigError(
                    f"there is no SQL warehouse {warehouse}: mend tables.warehouse_id ({wording(error)})"
                ) from error
            try:
                return self._fetched(self._ended(answer))
            except NotFound as error:
                raise TransientError(f"SQL warehouse: its result is no longer there ({wording(error)})", 5.0) from error

    def _ended(self, answer: sql.StatementResponse) -> sql.StatementResponse:
        """The answer once the statement has succeeded. Errors: GoneError, DeniedError, TransientError."""
        deadline, waited = time.monotonic() + STATEMENT_S, 0.2
        while True:
            status = answer.status
            state = status.state if status else None
            if state is sql.StatementState.SUCCEEDED:
                if answer.manifest and answer.manifest.truncated:
                    raise TransientError("SQL warehouse: its result is larger than it returns (100 GiB)", 60.0)
                return answer
            if state not in (sql.StatementState.PENDING, sql.StatementState.RUNNING):
                why = status.error.message if status and status.error else None
                raise _failed(why or str(state))
            if time.monotonic() > deadline:
                self._sdk.statement_execution.cancel_execution(str(answer.statement_id))
                raise TransientError(f"SQL warehouse: no answer within {STATEMENT_S:.0f} s", 60.0)
            time.sleep(waited)
            waited = min(5.0, 2 * waited)
            answer = self._sdk.statement_execution.get_statement(str(answer.statement_id))

    def _fetched(self, answer: sql.StatementResponse) -> pa.Table:
        """All chunks as one table. A result without rows has no chunk: its columns are in the manifest."""
        parts, part = [], answer.result
        while part is not None and part.external_links:
            link = part.external_links[0]
            try:
                got = httpx.get(str(link.external_link), headers=link.http_headers, timeout=60)
            except httpx.TransportError as error:
                raise TransientError(
                    f"SQL warehouse: its result cannot be fetched: {type(error).__name__}", 5.0
                ) from error
            if got.status_code != 200:
                raise TransientError(f"SQL warehouse: its result cannot be fetched: status {got.status_code}", 5.0)
            parts.append(pa.ipc.open_stream(io.BytesIO(got.content)).read_all())
            if link.next_chunk_index is None:
                break
            part = self._sdk.statement_execution.get_statement_result_chunk_n(
                str(answer.statement_id), link.next_chunk_index
            )
        if parts:
            return pa.concat_tables(parts)
        schema = answer.manifest.schema if answer.manifest else None
        return empty({str(column.name): str(column.type_text) for column in (schema and schema.columns) or ()})

    # what doctor asks

    def external_access(self) -> bool | None:
        """Whether the metastore lends credentials at all; None where it does not say."""
        with _errors("metastore"):
            return self._sdk.metastores.summary().external_access_enabled

    def me(self) -> str:
        """The principal that asks."""
        with _errors("current user"):
            return str(self._sdk.current_user.me().user_name)

    def privileges(self, kind: str, name: str, principal: str) -> frozenset[str]:
        """What a principal may do with a catalog or schema, its groups and what is inherited included."""
        with _errors(f"grants on {kind} {name}"):
            held = self._sdk.grants.get_effective(kind, name, principal=principal).privilege_assignments or ()
        return frozenset(
            privilege.privilege.value
            for assignment in held
            for privilege in assignment.privileges or ()
            if privilege.privilege
        )

    def warehouse_cost(self) -> str:
        """What a day of looks through the warehouse takes, in DBU and in words."""
        with _errors(f"warehouse {self._settings.warehouse_id}"):
            warehouse = self._sdk.warehouses.get(str(self._settings.warehouse_id))
        size, stop = str(warehouse.cluster_size), float(warehouse.auto_stop_mins or 0)
        awake = 24.0 if not stop else min(24.0, 86_400 / self._poll_s * (stop + 1) / 60)
        dbu = DBU_PER_HOUR.get(size)
        amount = f"about {awake * dbu:.0f} DBU a day" if dbu else "DBU of that size are not known"
        return f"{warehouse.name} ({size}, stops after {stop:.0f} min) is asked every {self._poll_s:.0f} s: awake {awake:.1f} h a day, {amount}"


def _parameter(name: str, value: object) -> sql.StatementParameterListItem:
    kind = next((word for type_, word in TYPES if isinstance(value, type_)), "STRING")
    text: Any = value.isoformat() if isinstance(value, (datetime, date)) else value
    return sql.StatementParameterListItem(name, kind, None if value is None else str(text))


def _failed(why: str) -> LastgoodError:
    """A statement that did not succeed, by what the reader must do."""
    if any(mark in why for mark in NOT_THERE):
        return GoneError(f"SQL warehouse: {why:.300}")
    if "PERMISSION" in why.upper() or "INSUFFICIENT" in why.upper():
        return DeniedError(f"SQL warehouse: {why:.300}")
    if "UNRESOLVED_COLUMN" in why:
        return ConfigError(f"SQL warehouse: {why:.300}")
    return TransientError(f"SQL warehouse: {why:.300}", 5.0)


def unity_catalog(settings: Settings) -> UnityCatalog:
    """The settings' workspace as a catalog. Errors: ConfigError (no credentials)."""
    return UnityCatalog(client(settings.workspace), settings.tables, poll_s(settings))
