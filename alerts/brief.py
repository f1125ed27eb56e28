"""An incident -> what a person woken by it must know, in the order in which they ask: what, since when, who is hit, what changed, what was
tried, what next."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from lastgood.alerts.messages import sureness
from lastgood.alerts.records import Incident, KillSwitch, Rollback
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.rollback.plan import Snapshot
from lastgood.alerts.tx import Tx
from lastgood.record.words import counted

NAMES_ONLY = ("environment_vars",)
"""Settings of a served entity whose values may be secrets: only names are shown."""


@dataclass(frozen=True)
class Brief:
    """`since`: when the harm began (ISO 8601, UTC); `minutes`: how long ago. `faults`: class of failure -> requests of the new version.
    `changed`: how the served entities of the two versions differ. `tried`: what was done, oldest first. `then`: what happens if nobody acts."""

    incident: str
    endpoint: str
    version: str
    prior: str | None
    state: str
    what: str
    since: str
    minutes: int
    sure: str
    requests: int
    requesters_hit: int | None
    faults: Mapping[str, int]
    changed: tuple[str, ...]
    tried: tuple[str, ...]
    next: str
    then: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """About ten lines of text."""
        hit = "" if self.requesters_hit is None else f", {counted(self.requesters_hit, 'requester')} saw a failure"
        lines = [
            f"{self.endpoint} ({self.state}): {self.what}",
            f"since    {self.since} ({counted(self.minutes, 'minute')} ago)",
            f"who      {counted(self.requests, 'request')} of version {self.version}{hit}",
            *(
                [f"failures {', '.join(f'{kind}: {count:,}' for kind, count in self.faults.items())}"]
                if self.faults
                else []
            ),
            f"sure     {self.sure}",
            *(f"changed  {line}" for line in self.changed),
            *(f"tried    {line}" for line in self.tried),
            f"next     {self.next}",
            f"if not   {self.then}",
        ]
        return "\n".join(lines)


def brief(
    incident: Incident,
    rollback: Rollback | None,
    entries: Sequence[Mapping[str, Any]],
    snapshots: tuple[Snapshot | None, Snapshot | None],
    switch: KillSwitch,
    now: datetime,
) -> Brief:
    """entries: the audit of the incident. snapshots: the newest of the new and of the prior version."""
    verdict = incident.verdict
    since = datetime.fromisoformat(verdict["since"]) if verdict["since"] else incident.opened_at
    figures = verdict.get("figures") or {}
    trail = figures.get("trail") or {}
    faults = (trail.get("faults") or {}).get("new") or {}
    ordered = sorted(((kind, round(count)) for kind, count in faults.items() if count), key=lambda item: -item[1])
    todo, then = _next(incident, rollback, switch)
    return Brief(
        incident.id, incident.endpoint, incident.candidate, incident.prior, "ended" if incident.resolved_at else "open",
        str(verdict["reason"]).split("; ")[0], since.isoformat(), max(0, round((now - since).total_seconds() / 60)),
        sureness(verdict["e_value"]), round((figures.get("new") or {}).get("requests") or 0), trail.get("requesters_hit"), dict(ordered),
        tuple(difference(*snapshots)), tuple(_tried(entries)), todo, then,
    )  # fmt: skip


def difference(new: Snapshot | None, prior: Snapshot | None) -> list[str]:
    """How two versions' served entities differ, setting by setting; of environment variables the names."""
    if new is None or prior is None:
        return []
    lines = []
    for name in sorted({*new.settings, *prior.settings} - {"name"}):
        ours, theirs = new.settings.get(name), prior.settings.get(name)
        if name in NAMES_ONLY:
            set_by_new, set_by_prior = dict(ours or {}), dict(theirs or {})
            moved = sorted(key for key in set_by_new | set_by_prior if set_by_new.get(key) != set_by_prior.get(key))
            lines += [f"{name}: {', '.join(moved)} (values not shown)"] if moved else []
        elif ours != theirs:
            lines.append(
                f"{name}: {theirs if theirs is not None else 'not set'} -> {ours if ours is not None else 'not set'}"
            )
    return lines


def _tried(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{entry['at']:%H:%M:%S} UTC {entry['who']}: {entry['what']}"
        + (f" ({why})" if (why := entry["detail"].get("reason") or entry["detail"].get("text")) else "")
        for entry in entries
    ]


def _next(incident: Incident, rollback: Rollback | None, switch: KillSwitch) -> tuple[str, str]:
    """(what a person does now, what happens if nobody does)."""
    number = incident.id[:8]
    if incident.resolved_at:
        return "nothing: the incident is over", incident.resolution
    if switch.on:
        return (
            "decide whether the kill switch may go: `lastgood kill off`",
            "no rollback starts or goes on while it is on",
        )
    if rollback is None:
        prior = "no prior version is known" if incident.prior is None else "no rollback is planned"
        return (
            f"{prior}: look at the evidence, then `lastgood rollback {incident.endpoint}` or take the version away",
            incident.note or "the version keeps serving, and the next verdict is told",
        )
    to = rollback.plan.prior_version
    if rollback.state in (Status.PROPOSED, Status.HELD):
        until = rollback.progress.until
        ends = (
            f"it expires at {until:%H:%M} UTC, and a new one is proposed while the harm lasts"
            if until
            else "the version keeps serving"
        )
        return f"approve the rollback to version {to} by the link of the alert (or hold, or reject it)", ends
    if rollback.state.under_way:
        return (
            f"wait: the rollback to version {to} is {rollback.state.lower()}",
            rollback.progress.reason or "it is verified, or pages",
        )
    if rollback.state is Status.DONE:
        return (
            f"nothing now: version {to} serves; find out what was wrong (`lastgood incident show {number}`)",
            "the incident ends",
        )
    return (
        f"a person must look: the rollback is {rollback.state.lower()} ({rollback.progress.reason})",
        incident.note or "the version keeps serving",
    )


def read(tx: Tx, incident: Incident, now: datetime) -> Brief:
    """The brief of an incident, from the state store."""
    sides = (
        tx.snapshot(incident.endpoint, incident.candidate),
        tx.snapshot(incident.endpoint, incident.prior) if incident.prior else None,
    )
    return brief(incident, tx.last_rollback(incident.id), tx.audit(incident.id), sides, tx.kill_switch(), now)
