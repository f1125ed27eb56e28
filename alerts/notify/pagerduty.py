"""Events API v2 of PagerDuty: one event -> one delivered, deduplicated alert.

Contract: https://developer.pagerduty.com/docs/events-api-v2/overview/ (202 accepted, 400 never, 429 and 5xx later,
at most 512 KB per event, a summary of at most 1,024 characters).
"""

import json
from collections.abc import Mapping
from typing import Any

from tenacity.wait import wait_base

from lastgood.alerts.notify.http import Poster

MAX_BYTES = 512 * 1024
MAX_SUMMARY = 1024


class PagerDuty:
    """Sends events with a few quick retries; a longer outage is the outbox's business."""

    def __init__(
        self,
        url: str,
        routing_key: str,
        *,
        timeout_s: float = 5.0,
        attempts: int = 3,
        wait: wait_base | None = None,
    ) -> None:
        self._url = url
        self._routing_key = routing_key
        self._poster = Poster("PagerDuty", timeout_s=timeout_s, attempts=attempts, wait=wait, accepted=(202,))

    def send(self, event: Mapping[str, Any]) -> None:
        """Errors: TransientError (429, 5xx, no connection), RefusedError (any other answer)."""
        sent = {key: value for key, value in event.items() if key != "about"}
        self._poster.post(self._url, fit({**sent, "routing_key": self._routing_key}))

    def close(self) -> None:
        self._poster.close()


def event(
    action: str,
    dedup_key: str,
    summary: str = "",
    *,
    severity: str = "error",
    source: str = "",
    timestamp: str = "",
    details: Mapping[str, Any] | None = None,
    links: Mapping[str, str] | None = None,
    about: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An Events v2 document without routing key. `action`: trigger, acknowledge or resolve; `links`: text to URL.

    `about` (endpoint, version) is for the other channels and is not sent to PagerDuty.
    """
    if action != "trigger":
        return {"event_action": action, "dedup_key": dedup_key, "about": dict(about or {})}
    payload = {"summary": summary[:MAX_SUMMARY], "severity": severity, "source": source, "timestamp": timestamp}
    return {
        "event_action": action,
        "dedup_key": dedup_key,
        "client": "Lastgood",
        "about": dict(about or {}),
        "payload": {**payload, "custom_details": dict(details or {})},
        "links": [{"text": text, "href": href} for text, href in (links or {}).items()],
    }


def fit(document: Mapping[str, Any]) -> bytes:
    """The JSON body; the largest details are cut until it is small enough to be accepted."""
    body = json.dumps(document).encode()
    details = dict(document.get("payload", {}).get("custom_details", {}))
    while len(body) > MAX_BYTES and details:
        largest = max(details, key=lambda key: len(json.dumps(details[key])))
        text = details[largest] if isinstance(details[largest], str) else json.dumps(details[largest])
        if len(text) > 1000:
            details[largest] = text[:500] + " ... (cut)"
        else:
            del details[largest]
        body = json.dumps({**document, "payload": {**document["payload"], "custom_details": details}}).encode()
    return body
