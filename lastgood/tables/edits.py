"""The ledger `contents` -> what changed beside the served version: when, by whom, in the place of what. Read back without Spark."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from lastgood import tables
from lastgood.judge.edits import Change, differing
from lastgood.record.contents import MARK, hash_of
from lastgood.record.windows import utc
from lastgood.tables import Store

RARE = "?"
"""Content of the ledger's rows that count requests whose content is too rare to be a version."""
DAY = timedelta(days=1)
MOST_LINES = 40
NAMES = {
    "prompt": "the system prompt",
    "tools": "the tools",
    "parameters": "the parameters",
    "route": "the route",
    "package": "the package",
}
"""A part in words."""


def as_change(row: Mapping[str, Any]) -> Change:
    """A row of `contents`; maps as such or as lists of pairs."""
    parts, texts = (dict(row[name] or {}) for name in ("parts", "texts"))
    return Change(row["content"], row["model_version"], utc(row["first_at"]), row["replaces"], row["who"], parts, texts)


def changes(store: Store, endpoint: str) -> list[Change]:
    """Contents of an endpoint that are versions of their own, in order of time; of one that was noted twice the first. Errors: as the tables' homes."""
    return admitted(store.home(tables.CONTENTS).read(filters=[("endpoint", "=", endpoint)]).to_pylist())


def admitted(rows: Iterable[Mapping[str, Any]]) -> list[Change]:
    """The same of an endpoint's rows of `contents`."""
    first: dict[str, Change] = {}
    for change in sorted((as_change(row) for row in rows if row["admitted"]), key=lambda change: change.since):
        first.setdefault(change.content, change)
    return list(first.values())


def rare(store: Store, now: datetime) -> dict[str, int]:
    """endpoint -> requests of the last day whose prompt, tools or parameters are too rare to be a version. Errors: as the tables' homes."""
    rows = store.home(tables.CONTENTS).read(
        ["endpoint", "content", "requests", "noted_at"], filters=[("content", "=", RARE)]
    )
    counted: dict[str, int] = {}
    for row in rows.to_pylist():
        if utc(row["noted_at"]) > now - DAY:
            counted[row["endpoint"]] = counted.get(row["endpoint"], 0) + row["requests"]
    return counted


@dataclass(frozen=True)
class Edit:
    """What a change did to one part: lines of a unified diff (without headers), empty where the texts are not kept."""

    part: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A change as people read it. `version`: the effective version; `edits`: none where nothing is known of it."""

    version: str
    change: Change
    edits: tuple[Edit, ...]

    @property
    def before(self) -> str | None:
        """The content that it replaced."""
        return self.change.replaces

    @property
    def sentence(self) -> str:
        """What changed and who changed it, as far as that is told."""
        parts = " and ".join(NAMES[edit.part] for edit in self.edits) or "nothing"
        by = f", by {self.change.who}" if self.change.who else ""
        return f"{parts} changed{by}" if self.before else f"{parts} first seen{by}"


def plain(told: Shown) -> dict[str, Any]:
    """As JSON has it."""
    edits = {edit.part: list(edit.lines) for edit in told.edits}
    return {
        "version": told.version,
        "before": told.before,
        "since": told.change.since.isoformat(),
        "who": told.change.who,
        "edits": edits,
    }


def every(known: Sequence[Change]) -> list[Shown]:
    """All of an endpoint's, in order of time, each under the version that was asked so first."""
    versions = (f"{change.model_version}{MARK}{change.content}" for change in known)
    return [told for version in versions if (told := shown(known, version))]


def shown(known: Sequence[Change], version: str) -> Shown | None:
    """What made an effective version; None where it is none, or not in the ledger."""
    by_content = {change.content: change for change in known}
    change = by_content.get(hash_of(version) or "")
    if change is None:
        return None
    old = by_content.get(change.replaces or "")
    edits = tuple(Edit(part, _lines(old, change, part)) for part in differing(change, old))
    return Shown(version, change, edits)


def _lines(old: Change | None, new: Change, part: str) -> tuple[str, ...]:
    """The lines of a part that went and came, at most MOST_LINES."""
    before, after = (change.texts.get(part) if change else "" for change in (old, new))
    if before is None or after is None:
        return ()
    diff = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1))[2:]
    cut = [f"… {len(diff) - MOST_LINES} more lines"] if len(diff) > MOST_LINES else []
    return (*diff[:MOST_LINES], *cut)
