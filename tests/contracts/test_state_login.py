"""The state in a managed PostgreSQL whose password ends after an hour: a real server, which refuses the old one."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from lastgood.alerts.records import KillSwitch
from lastgood.alerts.store import Store, open_state
from lastgood.errors import TransientError
from lastgood.settings import Settings
from lastgood.workspace import local
from lastgood.workspace.database import DatabaseLogin
from lastgood.workspace.databricks import client

ROLE = "person@example.com"


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
