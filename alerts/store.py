"""The operational state: what is written together is written in one transaction, or not at all."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random

from lastgood.alerts.audit import GENESIS
from lastgood.alerts.migrate import migrate
from lastgood.alerts.tx import Tx
from lastgood.errors import ConfigError, RefusedError, TransientError
from lastgood.settings import Settings

RECYCLE_S = 3600
"""A connection is not kept longer: managed servers end idle ones."""


class Login(Protocol):
    """Who knows the password of the moment."""

    def password(self, refused: bool = False) -> str:
        """A password that is good now; another one where the server `refused` the last. Errors: LastgoodError."""
        ...


class Store:
    """SQLite (embedded) or PostgreSQL behind one SQLAlchemy URL. Safe to share between threads and processes."""

    def __init__(self, url: str, login: Login | None = None) -> None:
        try:
            address = make_url(url)
            if address.drivername.startswith("sqlite") and address.database:
                Path(address.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(address, pool_pre_ping=True, pool_recycle=RECYCLE_S)
        except (ArgumentError, ImportError, OSError) as error:
            raise ConfigError(f"state_url: cannot be used: {error}") from error
        if self._engine.dialect.name == "sqlite":
            _tune_sqlite(self._engine)
        if login is not None:
            _log_in(self._engine, login)
        try:
            with _storage_errors():
                migrate(self._engine)
            with self.read() as tx:
                begun = tx.has_flag("audit_head")
            if not begun:  # who only reads (a job, `status`) may have no right to write
                with self.begin() as tx:
                    tx.set_flag_once("audit_head", {"seq": 0, "hash": GENESIS})
        except BaseException:
            self.close()
            raise

    @contextmanager
    def begin(self) -> "Iterator[Tx]":
        """Read and write: everything inside happens, or nothing. Errors: TransientError when the database is busy."""
        with _storage_errors(), self._engine.connect() as plain_connection:
            connection = plain_connection.execution_options(lastgood_write=True)
            with connection.begin():
                yield Tx(connection)

    @contextmanager
    def read(self) -> "Iterator[Tx]":
        """Read only: whatever is inside, nothing is kept."""
        with _storage_errors(), self._engine.connect() as connection:
            yield Tx(connection)

    def close(self) -> None:
        self._engine.dispose()


NOT_ALLOWED = "42501"
"""PostgreSQL's code of insufficient privilege."""


@contextmanager
def _storage_errors() -> Iterator[None]:
    """A database's errors by what the reader must do. What a failover brings is worth another try: connections that end, a server that is read-only."""
    try:
        yield
    except (OperationalError, InternalError, PoolTimeoutError) as error:
        raise TransientError(f"the operational state cannot be reached or is busy: {_reason(error)}") from error
    except DataError as error:
        raise RefusedError("a value cannot be stored (too long, or not text)") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise TransientError(f"the operational state cannot be reached: {_reason(error)}") from error
        if getattr(error.orig, "sqlstate", None) != NOT_ALLOWED:
            raise
        remedy = "start the service first, as the owner of the tables; to whoever only reads, GRANT pg_read_all_data TO its role"
        raise ConfigError(f"the operational state: {_reason(error)}; {remedy}") from error


def _reason(error: SQLAlchemyError) -> str:
    """What the database says, without the statement and its values."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def open_state(settings: Settings) -> Store:
    """The operational state of these settings, with a password that is renewed where a database instance is named.

    Errors: ConfigError, TransientError.
    """
    if not settings.state_instance:
        return Store(settings.state)
    from lastgood.workspace.database import database_login

    login = database_login(settings.workspace, settings.state_instance)
    return Store(settings.state_url or login.url(settings.state_database), login)


def _log_in(engine: Engine, login: Login) -> None:
    """Connect with the password of the moment, and once more with a new one where the server refuses it."""

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _: Any, arguments: Any, named: dict[str, Any]) -> Any:
        named["password"] = login.password()
        try:
            return dialect.connect(*arguments, **named)
        except dialect.loaded_dbapi.OperationalError as error:
            if "authentication" not in str(error):
                raise
        named["password"] = login.password(refused=True)
        return dialect.connect(*arguments, **named)


def _tune_sqlite(engine: Engine) -> None:
    """WAL, and transactions that take the write lock at their start: none fails half way because of another."""
    busy = retry_if_exception_type(sqlite3.OperationalError)
    patiently = Retrying(retry=busy, wait=wait_random(0, 0.1), stop=stop_after_delay(15), reraise=True)

    @event.listens_for(engine, "connect")
    def connect(dbapi: Any, _: Any) -> None:
        dbapi.isolation_level = None
        for pragma in ("busy_timeout = 15000", "synchronous = FULL", "foreign_keys = ON"):
            dbapi.execute(f"PRAGMA {pragma}").close()
        for attempt in patiently:
            with attempt:  # changing to WAL does not heed busy_timeout: two that open a new file at once can collide
                dbapi.execute("PRAGMA journal_mode = WAL").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("lastgood_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
