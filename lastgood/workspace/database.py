"""Databricks' managed PostgreSQL through databricks-sdk: where an instance is, and a password that ends after an hour.

The password is an OAuth token, looked at only when a connection is made (Databricks documentation, Lakebase, authentication).
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from urllib.parse import quote

from databricks.sdk import WorkspaceClient

from lastgood.errors import ConfigError
from lastgood.settings import WorkspaceSettings
from lastgood.workspace.databricks import client, translated

MARGIN_S = 300.0
"""A token is renewed this long before it ends, or after three quarters of a shorter life."""


class DatabaseLogin:
    """Logs in to one instance as whoever the workspace says we are. Errors of every call: ConfigError, TransientError."""

    def __init__(self, sdk: WorkspaceClient, instance: str, clock: Callable[[], float] = time.time) -> None:
        self._sdk, self._instance, self._clock = sdk, instance, clock
        self._lock, self._token, self._renew_at = threading.Lock(), "", 0.0

    def url(self, database: str) -> str:
        """A SQLAlchemy URL without a password. PostgreSQL's own variables (PGHOST, PGUSER, as an App gets them) are not needed."""
        with translated(f"database instance {self._instance}"):
            host = self._sdk.database.get_database_instance(self._instance).read_write_dns
            user = self._sdk.current_user.me().user_name
        if not host:
            raise ConfigError(f"database instance {self._instance} has no address yet: is it started?")
        return f"postgresql+psycopg://{quote(str(user), safe='')}@{host}/{quote(database, safe='')}?sslmode=require"

    def password(self, refused: bool = False) -> str:
        """A token that is good now; a new one where the server `refused` the last."""
        with self._lock:
            now = self._clock()
            if refused or now >= self._renew_at:
                with translated(f"credential of database instance {self._instance}"):
                    lent = self._sdk.database.generate_database_credential(instance_names=[self._instance])
                end = datetime.fromisoformat(lent.expiration_time).timestamp() if lent.expiration_time else now + 3600
                self._token, self._renew_at = str(lent.token), end - min(MARGIN_S, (end - now) / 4)
            return self._token


def database_login(settings: WorkspaceSettings, instance: str) -> DatabaseLogin:
    """The login of an instance of the settings' workspace."""
    return DatabaseLogin(client(settings), instance)
