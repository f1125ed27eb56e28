"""Settings of the alerting layer: the web pages and who may decide, and where messages go."""

from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from lastgood.settings.base import Model


class Oidc(Model):
    """Login through an OpenID provider (authorization code with PKCE)."""

    issuer: str = Field(description="https://issuer; its /.well-known/openid-configuration is read")
    client_id: str
    claim: str = Field(
        "email",
        description="the claim that names the person; an `email` counts only when the provider says it is verified",
    )
    client_secret_env: str | None = Field(None, description="variable that holds the secret of a confidential client")
    session_s: int = Field(3600, ge=60, description="how long a login lasts")


class Web(Model):
    """Evidence pages and signed links."""

    host: str = "127.0.0.1"
    port: int = Field(8484, ge=0, le=65535)
    base_url: str = Field("http://127.0.0.1:8484", description="what links start with")
    time_zone: str = Field("UTC", description="zone of the readers (Europe/Berlin): pages say times in it, and in UTC")
    link_key_env: str = Field("LASTGOOD_LINK_KEY", description="variable that holds the signing key")
    link_ttl_s: int = Field(3600, ge=60)
    trace_url: str | None = Field(
        None, description="address of a trace in your tracing tool, with {trace_id} where its id belongs"
    )
    max_exported_versions: int = Field(
        1000, ge=1, description="how many versions /metrics shows at most, the busiest first"
    )
    person_token_env: str = Field(
        "LASTGOOD_PERSON_TOKEN",
        description="variable that holds the approvers' tokens: `token`, or `ann:token1,bob:token2`",
    )
    approvers: tuple[str, ...] = Field((), description="patterns of who may decide (*@example.com); none: all known")
    viewers: tuple[str, ...] = Field(
        (), description="patterns of who may read, where reading needs a login; none: all known"
    )
    operators: tuple[str, ...] = Field(
        (), description="patterns of who may acknowledge, note, close, silence and use the kill switch; none: all known"
    )
    identities: dict[str, str] = Field(
        {},
        description="another name of a person (token name, workspace user) -> the address that approvals and audit know",
    )
    login_to_read: bool | None = Field(
        None, description="whether pages need a login; default: where OpenID or the App's header names people"
    )
    metrics_token_env: str = Field(
        "LASTGOOD_METRICS_TOKEN", description="variable with the bearer token of /metrics scrapers"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names the service answers to, beside base_url's and loopback"
    )
    posts_per_minute: int = Field(30, ge=1, description="decisions one client may send")
    oidc: Oidc | None = None
    trust_forwarded_user: bool = Field(False, description="trust X-Forwarded-Email (Databricks Apps only)")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is no time zone; expected a name as Europe/Berlin") from None
        return name

    @property
    def zone(self) -> tzinfo:
        """Of `time_zone`."""
        return UTC if self.time_zone == "UTC" else ZoneInfo(self.time_zone)


class Alertmanager(Model):
    """Alerts pushed to Alertmanager, and its webhook taken in. Without a URL nothing is pushed."""

    url: str | None = None
    hook_token_env: str = Field("LASTGOOD_HOOK_TOKEN", description="variable with the bearer token of its webhook")


class AuditAnchor(Model):
    """Where the head of the audit log is kept outside the database, each hour in which it has grown."""

    file: Path | None = Field(
        None, description="gets a JSON line per anchor; on a disk that Lastgood's database user cannot write"
    )
    url_env: str = Field("LASTGOOD_AUDIT_ANCHOR_URL", description="variable with a URL that gets the same line by POST")


class Hooks(Model):
    """Webhooks out; the variables hold their URLs (they are secrets)."""

    slack_env: str = Field("LASTGOOD_SLACK_URL", description="a Slack-compatible incoming webhook")
    url_env: str = Field("LASTGOOD_WEBHOOK_URL", description="gets every event, signed (Standard Webhooks)")
    secret_env: str = Field("LASTGOOD_WEBHOOK_SECRET", description="whsec_...: what the generic webhook is signed with")


class PagerDuty(Model):
    """Events API v2. Without a routing key nothing is sent."""

    url: str = "https://events.pagerduty.com/v2/enqueue"
    routing_key_env: str = "LASTGOOD_PAGERDUTY_KEY"
    hook_secret_env: str = Field(
        "LASTGOOD_PAGERDUTY_HOOK_SECRET",
        description="variable with the secret that signs PagerDuty's webhooks (v3) to us",
    )
    severity_page: str = "error"
    severity_rollback: str = "critical"
