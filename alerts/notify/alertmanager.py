"""Events -> alerts pushed to Alertmanager (API v2), and its webhook's groups -> what they say of endpoints.

Contracts: https://prometheus.io/docs/alerting/latest/alerts_api/ and .../configuration/#webhook_config (version "4").
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tenacity.wait import wait_base

from lastgood.alerts.notify.http import Poster
from lastgood.errors import ConfigError

NAME = "LastgoodIncident"
SEVERITIES = ("critical", "error", "warning")
OPEN_FOR = timedelta(days=7)
"""Until when an alert counts as firing unless it is resolved before."""
MAX_ALERTS = 200


class Alertmanager:
    """Acknowledgements are not sent: Alertmanager knows none."""

    def __init__(self, url: str, *, timeout_s: float = 5.0, attempts: int = 3, wait: wait_base | None = None) -> None:
        self._url = url.rstrip("/") + "/api/v2/alerts"
        self._poster = Poster("Alertmanager", timeout_s=timeout_s, attempts=attempts, wait=wait)

    def send(self, event: Mapping[str, Any]) -> None:
        if alerts := to_alerts(event, datetime.now(UTC)):
            self._poster.post(self._url, json.dumps(alerts).encode())

    def close(self) -> None:
        self._poster.close()


def to_alerts(event: Mapping[str, Any], now: datetime) -> list[dict[str, Any]]:
    """The alerts of one event: severity is a label, so a resolve ends the alert of every severity."""
    labels = {"alertname": NAME, "incident": event["dedup_key"], **event.get("about", {})}
    if event["event_action"] == "resolve":
        return [{"labels": {**labels, "severity": severity}, "endsAt": now.isoformat()} for severity in SEVERITIES]
    if event["event_action"] != "trigger":
        return []
    payload = event["payload"]
    links = {link["text"]: link["href"] for link in event.get("links", ())}
    annotations = {"summary": payload["summary"], "description": str(payload["custom_details"].get("sure", ""))}
    annotations |= {f"{text.split()[0].lower()}_url": href for text, href in links.items()}
    alert = {
        "labels": {**labels, "severity": payload["severity"]},
        "annotations": annotations,
        "generatorURL": next(iter(links.values()), ""),
        "startsAt": payload["timestamp"] or now.isoformat(),
        "endsAt": (now + OPEN_FOR).isoformat(),
    }
    return [alert]


@dataclass(frozen=True)
class Reported:
    """What another system's alert says of an endpoint. `key` is stable for one occurrence of the alert."""

    endpoint: str
    version: str | None
    key: str
    summary: str
    firing: bool


def reported(document: Mapping[str, Any]) -> list[Reported]:
    """A webhook group's alerts that name an endpoint; our own, come back, are left out.

    Errors: ConfigError when it is not a webhook group of version 4.
    """
    alerts = document.get("alerts")
    if document.get("version") != "4" or not isinstance(alerts, list) or len(alerts) > MAX_ALERTS:
        raise ConfigError(f'expected an Alertmanager group: version "4" and at most {MAX_ALERTS} alerts')
    reports = []
    for alert in alerts:
        labels, notes = (_texts(alert, name) for name in ("labels", "annotations"))
        if not labels.get("endpoint") or labels.get("alertname") == NAME:
            continue
        summary = notes.get("summary") or notes.get("description") or labels.get("alertname", "an alert")
        key = f"{alert.get('fingerprint', '')}/{alert.get('startsAt', '')}"[:200]
        version = labels.get("model_version") or None
        firing = alert.get("status") == "firing"
        reports.append(Reported(labels["endpoint"][:255], version, key, summary[:500], firing))
    return reports


def _texts(alert: Any, name: str) -> dict[str, str]:
    values = alert.get(name) if isinstance(alert, dict) else None
    return {str(k): str(v) for k, v in values.items()} if isinstance(values, dict) else {}
