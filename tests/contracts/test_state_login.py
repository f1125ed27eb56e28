"""The state in a managed PostgreSQL whose password ends after an hour: a real server, which refuses the old one."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from lastgood.alerts.records import KillSwitch
from lastgood.alerts.store import Store, open_state
from lastgood.errors import ConfigError, TransientError
from lastgood.settings import Settings
from lastgood.workspace import local
from lastgood.workspace.database import DatabaseLogin
from lastgood.workspace.databricks import client

ROLE = "person@example.com"
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "databricks-app.md"


class Server:
    """The platform's side: a role whose password is the newest token, and connections that it can end."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, isolation_level="AUTOCOMMIT")
        self.tokens: list[str] = []
        self.run(f'CREATE ROLE "{ROLE}" LOGIN SUPERUSER')

    def run(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.execute(text(statement))

    def accept(self, token: str) -> None:
        """From now on only this token is a password."""
        self.tokens.append(token)
        self.run(f"ALTER ROLE \"{ROLE}\" PASSWORD '{token}'")

    def end_connections(self) -> None:
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'")

    def close(self) -> None:
        self.end_connections()
        self.run(f'REASSIGN OWNED BY "{ROLE}" TO CURRENT_USER; DROP OWNED BY "{ROLE}"; DROP ROLE "{ROLE}"')
        self.engine.dispose()


@pytest.fixture
def server(postgres_url: str) -> Iterator[Server]:
    running = Server(postgres_url)
    yield running
    running.close()


@pytest.fixture
def space(server: Server) -> Iterator[local.Running]:
    with local.serve() as running:
        running.service.on_token = server.accept
        yield running


@pytest.fixture
def given(space: local.Running, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("LOCAL", space.token)
    url = make_url(postgres_url).set(username=ROLE).render_as_string()
    return Settings(
        storage="main.lastgood", state_url=url, state_instance="lastgood", workspace={"host": space.url, "token_env": "LOCAL"}
    )  # fmt: skip


def switched(store: Store, why: str) -> str:
    with store.begin() as tx:
        tx.set_kill_switch(KillSwitch(True, "ann", why))
    with store.read() as tx:
        return tx.kill_switch().why


def test_the_state_is_reached_with_a_token_and_again_after_it_has_ended(given: Settings, server: Server) -> None:
    store = open_state(given)
    assert switched(store, "first") == "first"
    assert len(server.tokens) == 1
    server.accept("another")  # the old password is refused from here on, as is the cached token
    server.end_connections()
    assert switched(store, "second") == "second"
    assert len(server.tokens) == 3
    store.close()


def test_a_token_is_renewed_before_it_ends_and_not_at_every_connection(
    space: local.Running, server: Server, given: Settings
) -> None:
    at = [datetime.now(UTC).timestamp()]
    login = DatabaseLogin(client(given.workspace), "lastgood", lambda: at[0])
    assert [login.password() for _ in range(3)] == [server.tokens[0]] * 3
    at[0] += space.service.catalog.lease_s - 200
    assert login.password() == server.tokens[1] != server.tokens[0]


def test_a_server_that_refuses_every_token_is_a_transient_error_without_the_token(
    space: local.Running, given: Settings, server: Server
) -> None:
    told: list[str] = []
    space.service.on_token = told.append
    server.run(f"ALTER ROLE \"{ROLE}\" PASSWORD 'nobody knows'")
    with pytest.raises(TransientError, match="cannot be reached") as caught:
        open_state(given)
    assert len(told) == 2
    assert not any(token in str(caught.value) for token in told)


def test_without_a_url_the_instance_says_where_it_is(given: Settings) -> None:
    login = DatabaseLogin(client(given.workspace), "lastgood")
    assert (
        login.url("databricks_postgres")
        == "postgresql+psycopg://person%40example.com@127.0.0.1/databricks_postgres?sslmode=require"
    )


def test_jobs_and_service_share_what_they_know(given: Settings, server: Server) -> None:
    """A version that was rolled back is known to the next run of a job, which is another process with another login."""
    service: Any = open_state(given)
    assert switched(service, "from the service") == "from the service"
    job = open_state(given)
    with job.read() as tx:
        assert tx.kill_switch().why == "from the service"
    job.close()
    service.close()


READER = "jobs@example.com"


@pytest.fixture
def reader(server: Server, postgres_url: str) -> Iterator[str]:
    """The jobs' principal: another role than the one that owns the tables; its URL."""
    server.run(f'CREATE ROLE "{READER}" LOGIN')
    yield make_url(postgres_url).set(username=READER).render_as_string()
    server.run(f'DROP OWNED BY "{READER}"; DROP ROLE "{READER}"')


def test_a_job_reads_the_services_state_with_the_grant_that_the_docs_name(
    given: Settings, server: Server, reader: str
) -> None:
    service = open_state(given)
    switched(service, "from the service")
    with pytest.raises(ConfigError, match=r"permission denied.*GRANT pg_read_all_data"):
        Store(reader)
    (grant,) = re.findall(r"GRANT pg_\w+ TO", DOCS.read_text())
    server.run(f'{grant} "{READER}"')
    job = Store(reader)
    with job.read() as tx:
        assert tx.kill_switch().why == "from the service"
        assert tx.shifts() == {}
    with pytest.raises(ConfigError, match="permission denied"):
        switched(job, "a job decides nothing")
    job.close()
    service.close()


def test_who_may_make_no_tables_says_so(server: Server, reader: str) -> None:
    with pytest.raises(ConfigError, match="permission denied for schema public; start the service first"):
        Store(reader)


@pytest.mark.parametrize(
    "setting",
    ["default_transaction_read_only = on", "idle_in_transaction_session_timeout = 1", "statement_timeout = 1"],
)
def test_what_a_failover_or_a_limit_does_is_worth_another_try(given: Settings, server: Server, setting: str) -> None:
    """A standby that is not yet promoted, and sessions and statements that the server ends."""
    store = open_state(given)
    server.run(f'ALTER ROLE "{ROLE}" SET {setting}')
    server.end_connections()
    with pytest.raises(TransientError, match="operational state") as caught, store.begin() as tx:
        tx.set_kill_switch(KillSwitch(True, "ann", "why"))
        tx._db.execute(text("SELECT pg_sleep(0.05)"))
        time.sleep(0.05)
        tx.set_kill_switch(KillSwitch(True, "ann", "again"))
    assert "SQL:" not in str(caught.value)
    server.run(f'ALTER ROLE "{ROLE}" RESET ALL')
    server.end_connections()
    assert switched(store, "after") == "after"
    store.close()
