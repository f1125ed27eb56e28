"""Endpoints as the workspace shows them -> `deployments`: which version was planned what share of the traffic, and since when."""

from collections.abc import Iterable
from datetime import datetime

import pyarrow as pa

from lastgood import tables
from lastgood.record.telemetry import arrow_schema
from lastgood.tables import delta
from lastgood.workspace import Endpoint


def record(store: tables.Store, endpoints: Iterable[Endpoint], now: datetime) -> int:
    """Append the configurations that are not in `deployments` yet; how many. Endpoints in the middle of a change should be left out.

    Two services that see the same change at once both append it: readers take the first. Errors: TransientError.
    """
    path = store.path(tables.DEPLOYMENTS)
    known = delta.read(path, ["endpoint", "config_version"]).to_pylist() if delta.version(path) is not None else []
    seen = {(row["endpoint"], row["config_version"]) for row in known}
    new = [endpoint for endpoint in endpoints if (endpoint.name, endpoint.config_version) not in seen]
    rows = [
        {
            "endpoint": endpoint.name, "config_version": endpoint.config_version, "served_entity": entity.name,
            "model_version": entity.entity_version, "traffic": endpoint.traffic.get(entity.name, 0), "observed_at": now,
        }
        for endpoint in new
        for entity in endpoint.entities
    ]  # fmt: skip
    if rows:
        delta.append(path, pa.Table.from_pylist(rows, arrow_schema(tables.DEPLOYMENTS.fields)))
    return len(new)
