"""Messages out. A notifier sends one event; the outbox decides when and how often."""

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from lastgood.alerts.notify.alertmanager import Alertmanager
from lastgood.alerts.notify.pagerduty import PagerDuty
from lastgood.alerts.notify.webhooks import SignedWebhook, Slack
from lastgood.errors import ConfigError
from lastgood.settings import Settings, secret


class Notifier(Protocol):
    def send(self, event: Mapping[str, Any]) -> None:
        """Deliver a PagerDuty Events v2 document without its routing key.

        Errors: TransientError (send it again later), RefusedError or ConfigError (it will never be accepted).
        """
        ...

    def close(self) -> None:
        """Give connections back."""
        ...


class LogNotifier:
    """Writes messages to the log: what is used when no receiver is configured."""

    def send(self, event: Mapping[str, Any]) -> None:
        summary = event.get("payload", {}).get("summary", "")
        logging.getLogger("lastgood.alerts").warning("%s %s: %s", event["event_action"], event["dedup_key"], summary)

    def close(self) -> None:
        """Nothing is held."""


def configured(settings: Settings) -> dict[str, Notifier]:
    """The receivers the settings name; the log when they name none.

    Errors: ConfigError (a webhook without a secret).
    """
    notifiers: dict[str, Notifier] = {}
    if key := secret(settings.pagerduty.routing_key_env):
        notifiers["pagerduty"] = PagerDuty(settings.pagerduty.url, key)
    if settings.alertmanager.url:
        notifiers["alertmanager"] = Alertmanager(settings.alertmanager.url)
    if url := secret(settings.hooks.slack_env):
        notifiers["slack"] = Slack(url)
    if url := secret(settings.hooks.url_env):
        signing = secret(settings.hooks.secret_env)
        if not signing:
            raise ConfigError(
                f"{settings.hooks.url_env} is set and {settings.hooks.secret_env} is not: it must be signed"
            )
        notifiers["webhook"] = SignedWebhook(url, signing)
    return notifiers or {"log": LogNotifier()}
