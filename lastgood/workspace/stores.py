"""Settings -> the tables, wherever they are: one place that knows when a workspace must be asked for them."""

import json
from collections.abc import Mapping
from functools import cached_property

import pyarrow as pa

from lastgood import tables
from lastgood.settings import Settings
from lastgood.tables.catalog import Catalog, Entry, Lease


class LazyCatalog:
    """The workspace's catalog, connected at the first call: commands that need none do not wait for it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _connected(self) -> Catalog:
        from lastgood.workspace.catalog import unity_catalog

        return unity_catalog(self._settings)

    def entry(self, name: str) -> Entry | None:
        return self._connected.entry(name)

    def lend(self, table_id: str, write: bool) -> Lease:
        return self._connected.lend(table_id, write)

    def query(self, statement: str, parameters: Mapping[str, object]) -> pa.Table:
        return self._connected.query(statement, parameters)

    @property
    def poll_s(self) -> float:
        return self._connected.poll_s


def tables_of(settings: Settings) -> tables.Store:
    """Where the tables of these settings are."""
    more = settings.tables
    return tables.Store(settings.storage, LazyCatalog(settings), more.options, more.landing)


def reach(settings: Settings) -> str:
    """What another process of this machine needs to reach the same tables, as JSON. No secrets: settings hold names of variables."""
    return json.dumps({name: getattr(settings, name).model_dump(mode="json") for name in ("tables", "workspace")})
