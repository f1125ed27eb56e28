"""One contract for Unity Catalog's API as our client sees it: the local workspace, and a real server where UC_SERVER names its binary
(`cargo install olai-uc-server --features bin`). The real one mints Azure tokens by itself; AWS it would have to ask."""

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from servers import free_port
from waiting import until

from lastgood.errors import GoneError
from lastgood.settings import TableSettings, WorkspaceSettings
from lastgood.workspace import local
from lastgood.workspace.catalog import UnityCatalog
from lastgood.workspace.databricks import client

REAL = os.environ.get("UC_SERVER")
ACCOUNT = {"account_name": "acc", "account_key": "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo="}
COLUMN = {"name": "a", "type_text": "string", "type_name": "STRING", "type_json": '"string"', "position": 0, "nullable": True}  # fmt: skip


@dataclass
class Place:
    """A catalog with one external table, `main.lastgood.inbox`."""

    catalog: UnityCatalog
    location: str


def connected(url: str, monkeypatch: pytest.MonkeyPatch, token: str) -> UnityCatalog:
    monkeypatch.setenv("UC_TOKEN", token)
    settings = WorkspaceSettings(host=url, token_env="UC_TOKEN", retry_timeout_s=2)
    return UnityCatalog(client(settings), TableSettings(), 30.0)


def real(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [str(REAL), "serve", "--host", "127.0.0.1", "--port", str(port), "--no-ui"], cwd=folder, stdout=log, stderr=log
        )  # fmt: skip
    location = "abfss://c@acc.dfs.core.windows.net/lg/inbox"
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/2.1/unity-catalog", timeout=10) as api:
            until(lambda: _up(api), "the server answers")
            table = {"table_type": "EXTERNAL", "data_source_format": "DELTA", "storage_location": location, "columns": [COLUMN]}  # fmt: skip
            made: list[tuple[str, dict[str, Any]]] = [
                ("credentials", {"name": "azure", "purpose": "STORAGE", "azure_storage_key": ACCOUNT}),
                ("external-locations", {"name": "lg", "url": location.rpartition("/")[0], "credential_name": "azure"}),
                ("catalogs", {"name": "main", "storage_root": location.rpartition("/")[0]}),
                ("schemas", {"name": "lastgood", "catalog_name": "main"}),
                ("tables", {"name": "inbox", "catalog_name": "main", "schema_name": "lastgood", **table}),
            ]
            for path, document in made:
                api.post(f"/{path}", json=document).raise_for_status()
        catalog = connected(f"http://127.0.0.1:{port}", monkeypatch, "any")
        api_client = catalog._sdk.api_client
        ask = api_client.do
        # databricks-sdk asks for credentials under 2.0; this server has the same call under 2.1 only.
        monkeypatch.setattr(
            api_client, "do", lambda method, path, **more: ask(method, path.replace("/api/2.0/", "/api/2.1/"), **more)
        )
        yield Place(catalog, location)
    finally:
        server.kill()
        server.wait()


def _up(api: httpx.Client) -> bool:
    try:
        return api.get("/catalogs").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(params=["local", *(["real"] if REAL else [])])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if request.param == "real":
        yield from real(tmp_path, monkeypatch)
        return
    folder = str(tmp_path / "inbox")
    write_deltalake(folder, pa.table({"a": ["x"]}))
    catalog = local.LocalCatalog({"main.lastgood": str(tmp_path)}, external={"inbox"})
    with local.serve(local.LocalConfig(catalog=catalog)) as space:
        yield Place(connected(space.url, monkeypatch, space.token), f"file://{folder}")


def test_a_table_is_known_by_name_and_one_that_is_not_there_is_none(place: Place) -> None:
    entry = place.catalog.entry("main.lastgood.inbox")
    assert entry is not None
    assert (entry.kind, entry.location) == ("EXTERNAL", place.location)
    assert entry == place.catalog.entry("main.lastgood.inbox"), "the same table has the same id"
    assert place.catalog.entry("main.lastgood.nothing") is None


@pytest.mark.parametrize("write", [False, True])
def test_credentials_are_lent_for_a_while(place: Place, write: bool) -> None:
    entry = place.catalog.entry("main.lastgood.inbox")
    assert entry is not None
    lease = place.catalog.lend(entry.table_id, write)
    assert lease.uri == place.location
    assert lease.until is not None
    assert time.time() + 60 < lease.until < time.time() + 13 * 3600
    assert set(lease.options) == ({"AZURE_STORAGE_SAS_TOKEN"} if place.location.startswith("abfss") else set())


def test_nothing_is_lent_for_a_table_that_is_not_there(place: Place) -> None:
    with pytest.raises(GoneError):
        place.catalog.lend("11111111-1111-1111-1111-111111111111", False)
