"""The operational state's database, empty or of an earlier release -> the tables of this release (Alembic)."""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from lastgood.errors import ConfigError

LOCK = 0x1A57600D
"""PostgreSQL's advisory lock while tables change: instances that start together wait for each other."""

_ONE_AT_A_TIME = threading.Lock()
"""Alembic keeps the migration it is in in global variables."""


def configuration(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def migrate(engine: Engine) -> None:
    """Errors: ConfigError when the state was written by a newer release."""
    scripts = ScriptDirectory.from_config(configuration())
    if _current(engine) == scripts.get_current_head():
        return
    with _ONE_AT_A_TIME, engine.connect() as plain:
        connection = plain.execution_options(lastgood_write=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            known = {script.revision for script in scripts.walk_revisions()}
            now = MigrationContext.configure(connection).get_current_revision()
            if now and now not in known:
                raise ConfigError(f"state_url: the state is of a newer Lastgood (revision {now}): update Lastgood")
            command.upgrade(configuration(connection), "head")


def _current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()
