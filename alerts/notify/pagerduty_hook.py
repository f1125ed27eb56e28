"""PagerDuty's webhooks (v3) -> what a person did there with an incident of ours (pure).

Contract: https://developer.pagerduty.com/docs/webhooks-overview (payload) and .../verifying-webhook-signatures: the header
`X-PagerDuty-Signature` holds one or more `v1=<hex HMAC-SHA256 of the body>`.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ACTIONS = {"incident.acknowledged": "acknowledge", "incident.resolved": "close", "incident.annotated": "note"}


@dataclass(frozen=True)
class Done:
    """`action`: acknowledge, close or note. `key`: the dedup key of our alert. `who`: the person or service there."""

    id: str
    action: str
    key: str
    who: str
    text: str


def signed(body: bytes, header: str, secret: str) -> bool:
    """Whether one of the header's signatures is that of the body."""
    wanted = "v1=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return any(hmac.compare_digest(part.strip().encode(), wanted.encode()) for part in header.split(","))


def done(document: Mapping[str, Any]) -> Done | None:
    """What the event says; None for one that is nothing to us."""
    event = _mapping(document, "event")
    action = ACTIONS.get(str(event.get("event_type")))
    if action is None:
        return None
    data = _mapping(event, "data")
    key = str((_mapping(data, "incident") or data).get("incident_key") or "")
    if not key:
        return None
    who = str(_mapping(event, "agent").get("summary") or "somebody in PagerDuty")[:200]
    text = str(data.get("content") or "")[:500]
    return Done(str(event.get("id") or ""), action, key, who, text)


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}
