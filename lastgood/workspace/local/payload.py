"""Requests served -> an AI-Gateway-shaped inference table, written as the service writes it: late, in batches, sometimes twice."""

import json
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lastgood.tables import delta
from lastgood.workspace.local.state import LocalConfig

MAX_BODY = 1024 * 1024
NOT_LOGGED = (401, 403, 429)
_TIME = pa.timestamp("us", tz="UTC")

PAYLOAD = pa.schema(
    [
        ("databricks_request_id", pa.string()),
        ("request_date", pa.date32()),
        ("client_request_id", pa.string()),
        ("request_time", _TIME),
        ("status_code", pa.int32()),
        ("sampling_fraction", pa.float64()),
        ("execution_duration_ms", pa.int64()),
        ("request", pa.string()),
        ("response", pa.string()),
        ("logging_error_codes", pa.list_(pa.string())),
        ("served_entity_id", pa.string()),
        ("requester", pa.string()),
    ]
)
SERVED_ENTITIES = pa.schema(
    [
        *(
            (name, pa.string())
            for name in (
                "served_entity_id",
                "account_id",
                "workspace_id",
                "created_by",
                "endpoint_name",
            )
        ),
        *(
            (name, pa.string())
            for name in (
                "endpoint_id",
                "served_entity_name",
                "entity_type",
                "entity_name",
                "entity_version",
            )
        ),
        ("endpoint_config_version", pa.int32()),
        ("task", pa.string()),
        ("change_time", _TIME),
        ("endpoint_delete_time", _TIME),
    ]
)


class PayloadWriter:
    """Buffers rows and appends them in the background; `flush` writes all of them and counts."""

    def __init__(self, config: LocalConfig, history: list[dict[str, Any]]) -> None:
        self._config, self._history = config, history
        self._rng = np.random.default_rng(config.seed + 1)
        self._rows: list[tuple[float, dict[str, Any]]] = []
        self._lock, self._commit = threading.Lock(), threading.Lock()
        self._seen_history = 0
        self.rows = self.duplicates = 0
        self._app, self._sequence = uuid.uuid4().hex, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        if config.payload:
            self._thread.start()

    @property
    def table(self) -> str:
        return str(Path(self._config.payload or ".") / "local_payload")

    @property
    def entities_table(self) -> str:
        return str(Path(self._config.payload or ".") / "served_entities")

    def log(self, facts: Mapping[str, Any], request: bytes, response: bytes) -> None:
        """Take one served request; rows of 401/403/429 are not logged, bodies above 1 MiB are NULL."""
        if not self._config.payload or facts["status_code"] in NOT_LOGGED:
            return
        codes = [
            code
            for code, body in (
                ("MAX_REQUEST_SIZE_EXCEEDED", request),
                ("MAX_RESPONSE_SIZE_EXCEEDED", response),
            )
            if len(body) > MAX_BODY
        ]
        row = dict(facts) | {
            "request_date": facts["request_time"].date(),
            "sampling_fraction": 1.0,
            "request": None if len(request) > MAX_BODY else request.decode("utf-8", "replace"),
            "response": None if len(response) > MAX_BODY else response.decode("utf-8", "replace"),
            "logging_error_codes": codes,
        }
        with self._lock:
            self._rows.append((time.monotonic(), row))
            self.rows += 1
            if self._rng.random() < self._config.duplicate_share:
                self._rows.append((time.monotonic() + self._config.payload_batch_s, row))
                self.duplicates += 1

    def _run(self) -> None:
        while not self._stop.wait(self._config.payload_batch_s):
            self._write(time.monotonic() - self._config.payload_delay_s)

    def _write(self, until: float) -> None:
        with self._commit:
            with self._lock:
                due = [row for at, row in self._rows if at <= until]
                self._rows = [(at, row) for at, row in self._rows if at > until]
                entities = self._history[self._seen_history :]
                self._seen_history = len(self._history)
            if entities:
                now = datetime.now(UTC)
                delta.append(
                    self.entities_table,
                    pa.Table.from_pylist(
                        [entity | {"change_time": now} for entity in entities],
                        SERVED_ENTITIES,
                    ),
                )
            if due:
                self._sequence += 1
                delta.append(
                    self.table,
                    pa.Table.from_pylist(due, PAYLOAD),
                    app=(self._app, self._sequence),
                )

    def flush(self) -> dict[str, int]:
        """Write everything taken so far; {rows (distinct), duplicates}."""
        if self._config.payload:
            self._write(float("inf"))
        return {"rows": self.rows, "duplicates": self.duplicates}

    def close(self) -> None:
        self._stop.set()
        self.flush()


def as_json(document: Mapping[str, Any]) -> bytes:
    """Compact JSON bytes."""
    return json.dumps(document, separators=(",", ":")).encode()
