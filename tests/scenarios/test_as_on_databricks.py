"""As on Databricks: jobs write into a `catalog.schema` on S3, the service is started as an App, reads the same tables by name with lent
credentials, shares a PostgreSQL whose password is a token with the jobs, pages, and rolls back."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from conftest import SPARK_FOR_TESTS
from s3_support import S3
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import make_url
from waiting import HANG_S

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serve_fake
from lastgood.demo.processes import Process, free_port
from lastgood.demo.story import Demo, Options
from lastgood.demo.traffic import Traffic
from lastgood.settings import Mode, WorkspaceSettings, load
from lastgood.tables.store import SERVED
from lastgood.workspace import local
from lastgood.workspace.databricks import connect
from lastgood.workspace.local.models import CHAT
from lastgood.workspace.local.statements import WAREHOUSE
from lastgood.workspace.stores import tables_of

SCHEMA = "spark_catalog.lastgood"
ROLE, PERSON = "person@example.com", "ann@example.com"
SCRIPT = Path(__file__).parents[1] / "s3_jobs.py"


class Here:
    """A part that runs in this process."""

    def alive(self) -> None:
        """It is."""


class OnDatabricks(Demo):
    """The demo with the platform's parts: a catalog on S3, a database with tokens, an App's environment and its proxy's header."""

    def __init__(self, options: Options, s3: S3, state: str) -> None:
        super().__init__(options)
        self.s3, self.state = s3, state
        self.location = f"{s3.bucket()}/lastgood"

    def _until(self, step: str, done: Any, timeout_s: float) -> bool:
        return super()._until(step, done, HANG_S)

    def _workspace(self, stack: contextlib.ExitStack) -> local.Running:
        """The platform's side: tables, tokens that a real server takes, an identity for the App."""
        owner = create_engine(self.state, isolation_level="AUTOCOMMIT")
        stack.callback(owner.dispose)

        def accept(token: str) -> None:
            with owner.connect() as connection:
                connection.execute(text(f"ALTER ROLE \"{ROLE}\" PASSWORD '{token}'"))

        with owner.connect() as connection:
            connection.execute(text(f'DROP ROLE IF EXISTS "{ROLE}"'))
            connection.execute(text(f'CREATE ROLE "{ROLE}" LOGIN SUPERUSER'))
        catalog = local.LocalCatalog({SCHEMA: self.location}, self.s3.own, external=set(SERVED))
        config = local.LocalConfig(
            str(self.out / "workspace"), self.options.seed, update_s=3.0, payload_delay_s=3.0, token=self.token
        )
        for version in ("1", "2", "3"):
            local.models.build(local.MODELS[CHAT], version)
        running = stack.enter_context(local.serve(local.LocalConfig(**{**vars(config), "catalog": catalog})))
        running.service.on_token = accept
        return running

    def _file(self) -> Path:
        """Settings as the bundle ships them: neither tables nor state are named here."""
        source = self.out / "workspace"
        endpoint = {
            "mode": "approve", "payload_table": str(source / "local_payload"), "entities_table": str(source / "served_entities"),
            "policy": {"verify_timeout_s": int(HANG_S), "warmup_s": 10, "warmup_requests": 10},
        }  # fmt: skip
        document = {
            "window_s": 1, "live_every_s": 0, "spark": {"mode": "databricks"}, "endpoints": {CHAT: endpoint},
            "receiver": {"grpc_port": 0, "http_port": 0, "spool": str(self.out / "spool"), "commit_interval_s": 5.0}, "pagerduty": {"url": self.pager.url},
        }  # fmt: skip
        path = self.out / "lastgood.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def _app(self) -> dict[str, str]:
        """The environment that an App gets: from the platform, and from the bundle's app resource."""
        port, url = free_port(), make_url(self.state).set(username=ROLE).render_as_string()
        self.app_port = port
        return {
            "DATABRICKS_HOST": self.url, "DATABRICKS_CLIENT_ID": "app", "DATABRICKS_CLIENT_SECRET": self.token,
            "DATABRICKS_APP_PORT": str(port), "DATABRICKS_APP_URL": f"http://127.0.0.1:{port}",
            "LASTGOOD_STORAGE": SCHEMA, "LASTGOOD_STATE_INSTANCE": "lastgood", "LASTGOOD_TABLES__WAREHOUSE_ID": WAREHOUSE,
            "LASTGOOD_WEB__TRUST_FORWARDED_USER": "true",
            # Here and not on the platform: where the stand-ins for storage and database are.
            "LASTGOOD_TABLES__OPTIONS": json.dumps(self.s3.options), "LASTGOOD_STATE_URL": url,
        }  # fmt: skip

    def _start(self, stack: contextlib.ExitStack) -> None:
        self.pager = stack.enter_context(serve_fake())
        running = self._workspace(stack)
        self.space, self.url = Here(), running.url  # type: ignore[assignment]
        config = self._file()
        environment = self._environment() | self._app()
        environment |= {"PYTHONPATH": str(SCRIPT.parent)}

        def part(name: str, *arguments: str) -> Process:
            process = Process([*arguments], self.out / f"{name}.log", environment)
            stack.callback(process.end)
            return process

        self.jobs = part("jobs", str(SCRIPT), str(config), self.s3.url, self.location.replace("s3://", "s3a://"))
        self.jobs.ready(HANG_S)
        self.service = part("service", "-m", "lastgood", "serve", "--config", str(config), "--poll-s", "1")
        addresses = self.service.ready(HANG_S)
        assert addresses["web"] == self.app_port
        self.web = str(addresses["url"])
        os.environ["LASTGOOD_LOCAL_TOKEN"] = self.token
        self.workspace = connect(WorkspaceSettings(host=self.url, token_env="LASTGOOD_LOCAL_TOKEN"))
        headers = {"authorization": f"Bearer {self.token}"}
        self.api = stack.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=30))
        settings = load(
            config, storage=SCHEMA, tables={"options": self.s3.options}, workspace={"host": self.url, "token_env": "LASTGOOD_LOCAL_TOKEN"}
        )  # fmt: skip
        self.store = self.watch.store = tables_of(settings)
        self.traffic = Traffic(self.url, self.token, int(addresses["grpc"]), self.options.seed)

    def _rollback(self) -> dict[str, Any] | None:
        answer = httpx.get(f"{self.web}/api/incidents", headers={"x-forwarded-email": PERSON}, timeout=30)
        answer.raise_for_status()
        return next((one["rollback"] for one in answer.json() if one["endpoint"] == CHAT and one["rollback"]), None)

    def _approve(self) -> None:
        """A person whom the App's proxy names opens the link and confirms; the figures are on the page and at /metrics."""
        assert self._until("roll back", lambda: self._link() is not None, HANG_S), "nobody was paged"
        with httpx.Client(timeout=60, headers={"x-forwarded-email": PERSON}) as browser:
            page = browser.get(str(self._link()))
            assert page.status_code == 200, (self.out / "service.log").read_text()[-4000:]
            assert "<svg" in page.text, "the page draws from the tables"
            form = next(part for part in page.text.split("<form") if 'value="approve"' in part)
            nonce = form.split('name="form" value="')[1].split('"')[0]
            self.scraped = browser.get(f"{self.web}/metrics").text
            answer = browser.post(
                str(self._link()), data={"form": nonce, "action": "approve"}, headers={"origin": self.web}
            )
            assert answer.status_code == 303, answer.text

    def _finish(self) -> dict[str, Any]:
        """What is true while everything still runs."""
        assert self.traffic
        self.traffic.stop()
        with create_engine(self.state, poolclass=NullPool).connect() as connection:
            sessions = connection.execute(
                text("SELECT DISTINCT usename FROM pg_stat_activity WHERE usename = :role"), {"role": ROLE}
            )
            self.outcome["state_sessions_of"] = [row[0] for row in sessions]
        self.outcome["spans"] = self.store.home(tables.INBOX).read(["source"], [("source", "=", "otlp")]).num_rows
        self.outcome["ways"] = {
            name: self.store.named(f"{SCHEMA}.{name}").way() for name in ("windows", "verdicts", "inbox")
        }
        self.outcome["share"] = self.workspace.endpoint(CHAT).share("3")
        self.service.end()
        self.jobs.end(5 * HANG_S)
        while not self.jobs.lines.empty():
            line = self.jobs.lines.get()
            self.outcome.setdefault("jobs", {})[line.get("job")] = line
        return self.outcome


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("java")
def test_as_on_databricks(s3: S3, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in SPARK_FOR_TESTS:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    play = OnDatabricks(Options("errors", Mode.APPROVE, seed=7, out=tmp_path / "demo"), s3, postgres_url)
    outcome = play.run()
    assert outcome["share"] == 0
    assert "verified_at" in outcome, outcome
    assert outcome["ways"] == {
        "windows": "lent credentials (managed table)", "verdicts": "lent credentials (managed table)", "inbox": "lent credentials (external table)",
    }  # fmt: skip
    assert outcome["spans"] > 0
    assert outcome["state_sessions_of"] == [ROLE]
    assert f'lastgood_requests_total{{endpoint="{CHAT}"' in play.scraped
    assert 'version="3"' in play.scraped
    ended = {*outcome["jobs"], *play.watch.stages}
    assert ended >= {"conform", "windows", "quality", "judge"}
    assert not [line for line in outcome["jobs"].values() if "again" in line or "error" in line]
    log = (play.out / "service.log").read_text()
    assert "Traceback" not in log, log[-3000:]
    assert not (Path.cwd() / SCHEMA).exists()
    assert not list(play.out.rglob("state.db"))
