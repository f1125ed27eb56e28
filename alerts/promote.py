"""A version that passed staging -> the next step of its promotion, as a plan. The judge speaks between the steps."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from lastgood.alerts.registry import refusal
from lastgood.alerts.rollback.plan import Kind, Plan, Snapshot, make_plan
from lastgood.alerts.tx import Tx
from lastgood.errors import LastgoodError, RefusedError
from lastgood.settings import EndpointSettings
from lastgood.workspace import Endpoint, Workspace

REGISTRY_ROW = "registry agrees"
"""The row of the release check that `--again` answers."""


def allowed(
    tx: Tx, endpoint: str, version: str, settings: EndpointSettings, now: datetime, again: bool, tags: Mapping[str, str]
) -> None:
    """Errors: RefusedError with what must be done first.

    `tags`: what the registry says of the version. `again`: a person says that a version which was rolled back may be promoted.
    """
    if settings.staging is None:
        raise RefusedError(f"endpoints.{endpoint}.staging is not set: name the endpoint whose release check must pass")
    check, how = tx.last_check(settings.staging, version), f"run `lastgood release check {settings.staging}`"
    if check is None:
        raise RefusedError(f"version {version} was not checked on {settings.staging}: {how}")
    rows = [row["name"] for row in check.document["rows"] if not row["passed"]]
    if failed := ", ".join(name for name in rows if not (again and name == REGISTRY_ROW)):
        raise RefusedError(f"the release check of version {version} on {settings.staging} failed ({failed}): {how}")
    if now - check.at > timedelta(seconds=settings.release.max_age_s):
        raise RefusedError(
            f"the release check of version {version} is of {check.at:%Y-%m-%d %H:%M} UTC, too old: {how}"
        )
    if version in tx.rolled_back(endpoint) and not again:
        raise RefusedError(f"version {version} was rolled back on {endpoint} before: --again promotes it all the same")
    if (why := refusal(tags, version)) and not again:
        raise RefusedError(f"{why}: --again promotes it all the same")
    if open_incidents := tx.incidents(endpoint, open_only=True):
        raise RefusedError(f"an incident of {endpoint} version {open_incidents[0].candidate} is open: resolve it first")


def registry_tags(workspace: Workspace, endpoint: Endpoint, version: str) -> Mapping[str, str]:
    """What the registry says of the version; nothing of what has none there. Errors: RefusedError where the registry cannot be asked."""
    busiest = max(endpoint.entities, key=lambda e: endpoint.traffic.get(e.name, 0), default=None)
    entity = endpoint.entity(version) or busiest
    model = entity.entity_name if entity else ""
    if not model:
        return {}
    try:
        return workspace.version_tags(model, version)
    except LastgoodError as error:
        raise RefusedError(
            f"the registry cannot be asked whether version {version} of {model} was rolled back ({error}): --again promotes it all the same; "
            "registry_alias: '' leaves the registry out"
        ) from error


def next_step(
    endpoint: Endpoint, version: str, settings: EndpointSettings, kept: Snapshot | None, now: datetime
) -> Plan | None:
    """The plan to the next of the policy's shares (per cent) above the version's; None when it takes all.

    `kept`: a snapshot of the version from an earlier time; without one it is served like the version in charge.
    Errors: RefusedError.
    """
    share = endpoint.share(version)
    target = next((step for step in sorted({*settings.policy.promote_shares, 100}) if step > share), None)
    if target is None:
        return None
    others = [e for e in endpoint.entities if e.entity_version != version]
    charge = max(others, key=lambda e: endpoint.traffic.get(e.name, 0), default=None)
    if charge is None:
        raise RefusedError(f"{endpoint.name} serves no other version: there is nothing to promote against")
    if kept is None and not charge.entity_name and endpoint.entity(version) is None:
        raise RefusedError(f"version {version} is of no registered model: deploy it first, then it can be promoted")
    if kept is None:
        name = f"{charge.entity_name.rsplit('.', 1)[-1]}-{version}"
        like = {**charge.settings, "entity_version": version, "name": name}
        kept = Snapshot(endpoint.name, endpoint.config_version, version, like)
    reasons: tuple[str, ...] = (f"step to {target}%: the judge must call version {version} healthy before the next",)
    if endpoint.entity(version) is None:
        reasons += (f"version {version} is deployed first, at 0%",)
    if charge.settings.get("scale_to_zero_enabled"):
        reasons += (
            f"version {charge.entity_version} may scale to zero once it is at 0%: going back would take minutes",
        )
    return make_plan(
        endpoint,
        charge.entity_version,
        version,
        refused=(),
        snapshot=replace(kept, endpoint=endpoint.name),
        reasons=reasons,
        now=now,
        kind=Kind.PROMOTE,
        share=target,
        write_only=settings.write_only,
        registry_alias=settings.registry_alias,
    )
