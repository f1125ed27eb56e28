"""`lastgood doctor --databricks` and `lastgood status` against a workspace: what is missing is said as the SQL that gives it; no folder is made."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from s3_support import S3
from typer.testing import CliRunner

from lastgood import tables
from lastgood.cli.app import app
from lastgood.record.telemetry import arrow_schema
from lastgood.tables import delta
from lastgood.workspace import local
from lastgood.workspace.local.statements import WAREHOUSE

Run = Callable[..., Any]


@pytest.fixture
def space(s3: S3) -> Iterator[local.Running]:
    address = f"{s3.bucket()}/lg"
    for table in (tables.WINDOWS, tables.VERDICTS, tables.RUNS):
        delta.create(delta.Located(f"{address}/{table.name}", s3.own), arrow_schema(table.fields))
    with local.serve(local.LocalConfig(catalog=local.LocalCatalog({"main.lastgood": address}, s3.own))) as running:
        yield running


@pytest.fixture
def run(space: local.Running, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LOCAL", space.token)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "lastgood.yaml"
    document = {
        "storage": "main.lastgood", "state_url": f"sqlite:///{tmp_path}/state.db", "workspace": {"host": space.url, "token_env": "LOCAL"},
        "tables": {"options": s3.options, "warehouse_id": WAREHOUSE}, "spark": {"mode": "databricks"}, "endpoints": {local.CHAT: {"mode": "approve"}},
    }  # fmt: skip
    config.write_text(yaml.safe_dump(document))

    def invoke(*words: str) -> Any:
        done = CliRunner().invoke(app, [*words, "--config", str(config), "--json"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return json.loads(done.stdout)

    return invoke


def put(space: local.Running, **settings: Any) -> None:
    headers = {"authorization": f"Bearer {space.token}"}
    httpx.put(f"{space.url}/local/catalog", json=settings, headers=headers, timeout=60).raise_for_status()


def test_what_is_right_is_said(run: Run) -> None:
    findings = {one["name"]: one for one in run("doctor", "--databricks")}
    assert findings["identity"]["sentence"].endswith("person@example.com")
    for name in (
        "grant USE CATALOG",
        "grant USE SCHEMA",
        "grant SELECT",
        "grant MODIFY",
        "grant EXTERNAL USE SCHEMA",
        "external data access",
    ):
        assert findings[name]["health"] == "ok", name
    assert "asked every 1800 s: awake" in findings["SQL warehouse"]["sentence"]
    assert "DBU a day" in findings["SQL warehouse"]["sentence"]


def test_each_missing_right_is_the_sql_that_gives_it(run: Run, space: local.Running) -> None:
    put(space, denied=["SELECT", "EXTERNAL_USE_SCHEMA"], external_access=False)
    findings = {one["name"]: one for one in run("doctor", "--databricks")}
    assert findings["grant SELECT"]["health"] == "fail"
    assert findings["grant SELECT"]["fix"] == "GRANT SELECT ON SCHEMA `main`.`lastgood` TO `person@example.com`;"
    assert findings["grant EXTERNAL USE SCHEMA"]["fix"].startswith("GRANT EXTERNAL USE SCHEMA ON SCHEMA")
    assert findings["external data access"]["health"] == "warn"


def test_the_way_to_the_tables_is_said_by_status_and_doctor(run: Run, space: local.Running, tmp_path: Path) -> None:
    def ways() -> set[str]:
        return {row["reached by"].split(",")[0] for row in run("status")["storage"]}

    assert ways() == {"lent credentials (managed table)", "not there yet"}
    put(space, external_access=False)
    assert ways() == {"SQL warehouse", "not there yet"}
    storage = [one["sentence"] for one in run("doctor") if one["name"] == "storage"]
    assert any(
        f"3 of {len(tables.ALL)} tables: SQL warehouse" in one and "external data access is disabled" in one
        for one in storage
    )
    assert {path.name for path in tmp_path.iterdir()} == {"lastgood.yaml", "state.db"} | (
        {"state.db-wal", "state.db-shm"} & {p.name for p in tmp_path.iterdir()}
    )


@pytest.mark.parametrize("command", ["baseline list", "status", "incident list"])
@pytest.mark.parametrize("lends", [True, False])
def test_a_command_on_tables_that_nobody_has_made_says_nothing_is_there(
    run: Run, space: local.Running, command: str, lends: bool
) -> None:
    put(space, external_access=lends)
    assert run(*command.split()) is not None
