"""Messages out. A notifier sends one event; the outbox decides when and how often."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol


class Notifier(Protocol):
    def send(self, event: Mapping[str, Any]) -> None:
        """Deliver a PagerDuty Events v2 document without its routing key.

        Errors: TransientError (send it again later), RefusedError or ConfigError (it will never be accepted).
        """
        ...


class LogNotifier:
    """Writes messages to the log: what is used when no receiver is configured."""

    def send(self, event: Mapping[str, Any]) -> None:
        summary = event.get("payload", {}).get("summary", "")
        logging.getLogger("lastgood.alerts").warning("%s %s: %s", event["event_action"], event["dedup_key"], summary)
