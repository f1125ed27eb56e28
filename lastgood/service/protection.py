"""What the service knows of itself -> whether it can protect the endpoints now, and if not, why (pure)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lastgood.record.words import counted

REASONS = (
    "workspace", "endpoints", "verdicts", "jobs", "messages", "verdict_refused", "decisions", "calendar", "anchor", "source",
)  # fmt: skip
WORKSPACE_SILENT, MESSAGES_STUCK, JOBS_LATE = timedelta(minutes=5), timedelta(minutes=10), timedelta(hours=2)


@dataclass(frozen=True)
class Facts:
    """`observed_at`: when the workspace's endpoints were last read; `started_at`: of this process. `judged_at`: the newest verdict of any
    endpoint; `ran_at`: the newest run of the judge's job; None where there was none yet. `refused`: channel -> the newest refusal of
    messages that are kept; `oldest_waiting`: the oldest message that is not delivered. `faults`: kind -> how often, since the start.
    `calendar`: why the calendar file cannot be read; `anchor`: why the audit log's head cannot be kept elsewhere.
    `undone`: endpoint -> why the next deploy undoes a rollback of it."""

    now: datetime
    started_at: datetime
    observed_at: datetime | None = None
    unreadable: Mapping[str, str] = field(default_factory=dict)
    judged_at: datetime | None = None
    ran_at: datetime | None = None
    max_evidence_age: timedelta = timedelta(hours=2)
    oldest_waiting: datetime | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, int] = field(default_factory=dict)
    calendar: str = ""
    anchor: str = ""
    undone: Mapping[str, str] = field(default_factory=dict)


def problems(facts: Facts) -> dict[str, str]:
    """Reason (of REASONS) -> one sentence; empty while everything that protects an endpoint works."""
    now = facts.now
    broken: dict[str, str] = {}
    if now - (facts.observed_at or facts.started_at) > WORKSPACE_SILENT:
        broken["workspace"] = (
            f"the workspace was not read for {_minutes(now - (facts.observed_at or facts.started_at))}"
        )
    if facts.unreadable:
        broken["endpoints"] = (
            f"not readable: {_some(f'{name} ({why})' for name, why in sorted(facts.unreadable.items()))}"
        )
    if facts.judged_at and now - facts.judged_at > facts.max_evidence_age:
        broken["verdicts"] = f"no verdict for {_minutes(now - facts.judged_at)}"
    if facts.ran_at and now - facts.ran_at > JOBS_LATE:
        broken["jobs"] = f"the jobs have not run for {_minutes(now - facts.ran_at)}"
    if facts.refused:
        broken["messages"] = f"refused by {_some(f'{name}: {error}' for name, error in sorted(facts.refused.items()))}"
    elif facts.oldest_waiting and now - facts.oldest_waiting > MESSAGES_STUCK:
        broken["messages"] = f"a message waits for {_minutes(now - facts.oldest_waiting)}"
    if refused := facts.faults.get("verdict", 0):
        broken["verdict_refused"] = f"{refused} verdicts could not be stored since the start"
    if faults := facts.faults.get("unforeseen", 0):
        broken["decisions"] = f"{faults} decisions failed in a way that nobody foresaw, since the start"
    if facts.calendar:
        broken["calendar"] = f"{facts.calendar}; what it said before stays in force"
    if facts.undone:
        broken["source"] = _some(f"{name}: {why}" for name, why in sorted(facts.undone.items()))
    if facts.anchor:
        broken["anchor"] = facts.anchor
    return broken


def _minutes(span: timedelta) -> str:
    return counted(span.total_seconds() / 60, "minute")


def _some(parts: Iterable[str]) -> str:
    parts = list(parts)
    return "; ".join(part[:200] for part in parts[:5]) + (f" and {len(parts) - 5} more" if len(parts) > 5 else "")
