"""The operational state's database, empty or of an earlier release -> the tables of this release (Alembic)."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from lastgood.errors import ConfigError

if TYPE_CHECKING:  # a state that is up to date pays nothing for Alembic: the kill switch must work in under a second
    from alembic.config import Config

FOLDER = Path(__file__).parent / "migrations"

LOCK = 0x1A57600D
"""PostgreSQL's advisory lock while tables change: instances that start together wait for each other."""

_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps the migration it is in in global variables."""


def configuration(connection: Connection | None = None) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The newest revision: the highest number of a file versions/vNNNN_*.py."""
    return max(path.name[1:5] for path in (FOLDER / "versions").glob("v[0-9][0-9][0-9][0-9]_*.py"))


def migrate(engine: Engine) -> None:
    """Errors: ConfigError when the state was written by a newer release."""
    with engine.connect() as connection:
        if _current(connection) == head():
            return
    from alembic import command

    with _ONE_AT_A_TIME, engine.connect() as plain:
        connection = plain.execution_options(lastgood_write=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            now = _current(connection)
            if now and now > head():
                raise ConfigError(f"state_url: the state is of a newer Lastgood (revision {now}): update Lastgood")
            command.upgrade(configuration(connection), "head")


def _current(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).first()
    return str(row[0]) if row else None
