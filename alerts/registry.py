"""What Lastgood tells the model registry: which version is good, and which was rolled back, when, why and in which incident.

A write is a message of the outbox, of the channel REGISTRY: it is tried again until the registry takes it, counted, audited, and no rollback
waits for it.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lastgood.alerts.records import Incident, Rollback
from lastgood.workspace import RegistryMark, WorkspaceControl

CHANNEL = "registry"
ROLLED_BACK, INCIDENT, REASON = "lastgood_rolled_back", "lastgood_incident", "lastgood_reason"
"""Tags of a version. Unity Catalog takes no dots, dashes or colons in the names of tags."""
MOST_CHARS = 250
"""Characters of a tag's value that every registry takes."""


def good(model: str, version: str, alias: str) -> RegistryMark:
    """The alias moves to a version that is healthy with all of the traffic; what it was rolled back for once is over."""
    return RegistryMark(model, version, dict.fromkeys((ROLLED_BACK, INCIDENT, REASON)), alias, True)


def rolled_back(
    model: str, rollback: Rollback, incident: Incident | None, base_url: str, alias: str, at: datetime
) -> RegistryMark:
    """Tags of a version that was left, and it loses the alias where it has it."""
    why = incident.verdict["reason"] if incident else rollback.metric
    tags = {ROLLED_BACK: at.isoformat(timespec="seconds"), REASON: str(why)[:MOST_CHARS]}
    if incident:
        tags[INCIDENT] = f"{base_url.rstrip('/')}/incidents/{incident.id}"[:MOST_CHARS]
    return RegistryMark(model, rollback.plan.bad_version, tags, alias, False)


def event(mark: RegistryMark) -> dict[str, Any]:
    """The message of a write; its key is what it is about."""
    return {
        "event_action": CHANNEL, "dedup_key": f"{mark.model}/{mark.version}", "model": mark.model, "version": mark.version,
        "tags": dict(mark.tags), "alias": mark.alias, "holds": mark.holds,
    }  # fmt: skip


def refusal(tags: Mapping[str, str], version: str) -> str:
    """Why a version that its tags say was rolled back is not promoted; empty where they do not."""
    if ROLLED_BACK not in tags:
        return ""
    more = [tags[name] for name in (REASON, INCIDENT) if tags.get(name)]
    return f"the registry says that version {version} was rolled back at {tags[ROLLED_BACK]}" + (
        f" ({'; '.join(more)})" if more else ""
    )


class RegistryNotifier:
    """The outbox's way to the registry."""

    def __init__(self, workspace: WorkspaceControl) -> None:
        self._workspace = workspace

    def send(self, document: Mapping[str, Any]) -> None:
        """Errors: those of WorkspaceControl.put_mark."""
        names = ("model", "version", "tags", "alias", "holds")
        self._workspace.put_mark(RegistryMark(**{name: document[name] for name in names}))

    def close(self) -> None:
        """Nothing is held."""
