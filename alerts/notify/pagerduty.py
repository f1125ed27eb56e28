"""Events API v2 of PagerDuty: one event -> one delivered, deduplicated alert.

Contract: https://developer.pagerduty.com/docs/events-api-v2/overview/ (202 accepted, 400 never, 429 and 5xx later,
at most 512 KB per event, a summary of at most 1,024 characters).
"""

import json
from collections.abc import Mapping
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential
from tenacity.wait import wait_base

from lastgood.errors import RefusedError, TransientError

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
        self._client = httpx.Client(timeout=timeout_s)
        self._retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            stop=stop_after_attempt(attempts),
            wait=wait or wait_random_exponential(multiplier=0.2, max=2),
            reraise=True,
        )

    def send(self, event: Mapping[str, Any]) -> None:
        """Errors: TransientError (429, 5xx, no connection), RefusedError (any other answer)."""
        body = fit({**event, "routing_key": self._routing_key})
        self._retrying(self._post, body)

    def close(self) -> None:
        self._client.close()

    def _post(self, body: bytes) -> None:
        try:
            answer = self._client.post(self._url, content=body, headers={"Content-Type": "application/json"})
        except httpx.TransportError as error:
            raise TransientError(f"PagerDuty cannot be reached: {type(error).__name__}") from error
        if answer.status_code == 202:
            return
        if answer.status_code == 429 or answer.status_code >= 500:
            raise TransientError(f"PagerDuty answered {answer.status_code}")
        raise RefusedError(f"PagerDuty refused the event ({answer.status_code}): {answer.text[:500]}")


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
) -> dict[str, Any]:
    """An Events v2 document without routing key. `action`: trigger, acknowledge or resolve; `links`: text to URL."""
    if action != "trigger":
        return {"event_action": action, "dedup_key": dedup_key}
    payload = {"summary": summary[:MAX_SUMMARY], "severity": severity, "source": source, "timestamp": timestamp}
    return {
        "event_action": action,
        "dedup_key": dedup_key,
        "client": "Lastgood",
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
