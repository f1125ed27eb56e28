"""Settings of what Lastgood runs on: the serving workspace and Spark."""

from pydantic import Field

from lastgood.settings.base import Model


class WorkspaceSettings(Model):
    """Where the serving API is; unset host and token fall back to databricks-sdk's own authentication."""

    host: str | None = None
    token_env: str | None = None
    retry_timeout_s: int = Field(20, ge=1)


class TableSettings(Model):
    """How tables are reached that are in no folder of this machine."""

    options: dict[str, str] = Field(
        {},
        description="what the object store needs besides credentials, as delta-rs names it: AWS_REGION, AWS_ENDPOINT_URL",
    )
    landing: str | None = Field(
        None,
        description="address in an external location (s3://, abfss://, gs://) for the tables the service writes itself, where `storage` is a catalog",
    )
    warehouse_id: str | None = Field(
        None, description="SQL warehouse that answers where the catalog lends no credentials"
    )
    warehouse_poll_s: float | None = Field(
        None,
        ge=1,
        description="seconds between two looks through it; default: a quarter of the shortest policy.max_evidence_age_s",
    )


class SparkSettings(Model):
    """Spark session: `local` (in process), `connect` (a local Connect server), `databricks` (the active session)."""

    mode: str = Field("local", pattern="^(local|connect|databricks)$")
    cores: int = Field(2, ge=1)
    driver_memory: str = Field("1g", pattern=r"^\d+[mg]$")
    packages_mirror: str | None = None
