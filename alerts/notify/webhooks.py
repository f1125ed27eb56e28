"""Events -> a Slack-compatible webhook, and a generic one signed as Standard Webhooks says.

Contracts: https://api.slack.com/messaging/webhooks and https://www.standardwebhooks.com (webhook-id, webhook-timestamp,
webhook-signature; a receiver drops an id it has seen).
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook
from tenacity.wait import wait_base

from lastgood.alerts.notify.http import Poster
from lastgood.errors import ConfigError

MAX_TEXT = 2900
MARKS = {"critical": ":red_circle:", "error": ":large_orange_circle:", "warning": ":large_yellow_circle:"}


class Slack:
    """Text with buttons for the links; resolved incidents are said too, acknowledgements are not."""

    def __init__(self, url: str, *, timeout_s: float = 5.0, attempts: int = 3, wait: wait_base | None = None) -> None:
        self._url = url
        self._poster = Poster("the Slack webhook", timeout_s=timeout_s, attempts=attempts, wait=wait)

    def send(self, event: Mapping[str, Any]) -> None:
        if message := to_slack(event):
            self._poster.post(self._url, json.dumps(message).encode())

    def close(self) -> None:
        self._poster.close()


def to_slack(event: Mapping[str, Any]) -> dict[str, Any]:
    """The message; empty when there is nothing to say."""
    about = " version ".join(event.get("about", {}).values())
    if event["event_action"] == "resolve":
        return {"text": _escaped(f"Resolved: {about} ({event['dedup_key']})")}
    if event["event_action"] != "trigger":
        return {}
    payload = event["payload"]
    text = f"{MARKS.get(payload['severity'], '')} {_escaped(payload['summary'])[:MAX_TEXT]}".strip()
    details = payload["custom_details"]
    told = [line for line in str(details.get("brief", "")).splitlines()[1:] if line.strip()]
    lines = "\n".join(f"• {_escaped(line)}" for line in (*details.get("plan", ()), *told))
    blocks: list[dict[str, Any]] = [{"type": "section", "text": {"type": "mrkdwn", "text": text}}]
    if lines:
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": lines[:MAX_TEXT]}})
    buttons = [
        {"type": "button", "text": {"type": "plain_text", "text": link["text"][:75]}, "url": link["href"]}
        for link in event.get("links", ())
    ]
    if buttons:
        blocks.append({"type": "actions", "elements": buttons})
    return {"text": text, "blocks": blocks}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class SignedWebhook:
    """Every event as it is. `secret`: `whsec_` and base64. Errors: ConfigError for another form."""

    def __init__(
        self, url: str, secret: str, *, timeout_s: float = 5.0, attempts: int = 3, wait: wait_base | None = None
    ) -> None:
        self._url = url
        try:
            self._signer = Webhook(secret)
        except Exception as error:
            raise ConfigError("hooks.secret_env: expected whsec_ followed by base64") from error
        self._poster = Poster("the webhook", timeout_s=timeout_s, attempts=attempts, wait=wait)

    def send(self, event: Mapping[str, Any]) -> None:
        body = json.dumps(event, sort_keys=True)
        identity = hashlib.sha256(body.encode()).hexdigest()[:32]
        self._poster.post(self._url, body.encode(), lambda: self._headers(identity, body))

    def _headers(self, identity: str, body: str) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "webhook-id": identity,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(identity, now, body),
        }

    def close(self) -> None:
        self._poster.close()
