"""Settings of what Lastgood runs on: the serving workspace and Spark."""

from pydantic import Field

from lastgood.settings.base import Model


class WorkspaceSettings(Model):
    """Where the serving API is; unset host and token fall back to databricks-sdk's own authentication."""

    host: str | None = None
    token_env: str | None = None
    retry_timeout_s: int = Field(20, ge=1)


class SparkSettings(Model):
    """Spark session: `local` (in process), `connect` (a local Connect server), `databricks` (the active session)."""

    mode: str = Field("local", pattern="^(local|connect|databricks)$")
    cores: int = Field(2, ge=1)
    driver_memory: str = Field("1g", pattern=r"^\d+[mg]$")
    packages_mirror: str | None = None
