"""Endpoints as the workspace shows them -> `deployments`, the ledger of configurations: which version was planned what share of the traffic,
and since when."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import pyarrow as pa

from lastgood import tables
from lastgood.judge.ledger import Content, observations
from lastgood.record.telemetry import arrow_schema
from lastgood.workspace import Endpoint


def record(store: tables.Store, endpoints: Iterable[Endpoint], now: datetime) -> int:
    """Append the configurations that are not the newest in `deployments`; how many. Endpoints in the middle of a change should be left out.

    An endpoint that was deleted and made anew counts its configurations from 1 again, so what they hold is compared, not their number
    alone. Two services that see the same change at once both append it: readers take the first. Errors: TransientError.
    """
    newest = _newest(read(store))
    new = [
        endpoint for endpoint in endpoints if newest.get(endpoint.name) != (endpoint.config_version, _content(endpoint))
    ]
    rows = [
        {
            "endpoint": endpoint.name, "config_version": endpoint.config_version, "served_entity": entity.name,
            "model_version": entity.entity_version, "traffic": endpoint.traffic.get(entity.name, 0), "observed_at": now,
        }
        for endpoint in new
        for entity in endpoint.entities
    ]  # fmt: skip
    if rows:
        store.home(tables.DEPLOYMENTS).append(pa.Table.from_pylist(rows, arrow_schema(tables.DEPLOYMENTS.fields)))
    return len(new)


def read(store: tables.Store, endpoint: str | None = None) -> list[dict[str, Any]]:
    """Rows of `deployments`, all or an endpoint's."""
    filters: Any = [("endpoint", "=", endpoint)] if endpoint else None
    rows: list[dict[str, Any]] = store.home(tables.DEPLOYMENTS).read(filters=filters).to_pylist()
    return rows


def _content(endpoint: Endpoint) -> Content:
    return frozenset((e.name, e.entity_version, int(endpoint.traffic.get(e.name, 0))) for e in endpoint.entities)


def _newest(rows: Iterable[Mapping[str, Any]]) -> dict[str, tuple[int, Content]]:
    return {endpoint: seen[-1][1:] for endpoint, seen in observations(rows).items()}
