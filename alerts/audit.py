"""The audit log's chain: each entry's hash covers the one before it (pure)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lastgood.alerts.rollback.plan import canonical

GENESIS = "0" * 64


def plain(document: Any) -> Any:
    """The document as JSON values; times become ISO 8601, whatever else text."""
    return json.loads(json.dumps(document, default=lambda v: v.isoformat() if isinstance(v, datetime) else str(v)))


def entry_hash(previous: str, entry: Mapping[str, Any]) -> str:
    """SHA-256 over the previous entry's hash and this entry (without its own hash) as canonical JSON."""
    return hashlib.sha256((previous + canonical(plain(entry))).encode()).hexdigest()


def problems(entries: Sequence[Mapping[str, Any]], head: Mapping[str, Any]) -> list[str]:
    """What is wrong with a log, in sentences. `head`: {"seq", "hash"} of the entry that was written last."""
    previous, expected, broken = GENESIS, 1, []
    for entry in entries:
        if entry["seq"] != expected:
            broken.append(f"entries {expected} to {entry['seq'] - 1} are missing")
        elif entry_hash(previous, {k: v for k, v in entry.items() if k != "hash"}) != entry["hash"]:
            broken.append(f"entry {expected} is not what was written")
        previous, expected = entry["hash"], entry["seq"] + 1
    if (expected - 1, previous) != (head["seq"], head["hash"]):
        broken.append(f"the log ends at entry {expected - 1}, {head['seq']} were written")
    return broken
