"""Queued messages -> the notifiers: at least once, in order within a channel and incident."""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from lastgood.alerts.notify import Notifier
from lastgood.alerts.store import Store
from lastgood.errors import LastgoodError, RefusedError, TransientError

MAX_BACKOFF_S = 300
log = logging.getLogger("lastgood.alerts")


def send_due(store: Store, notifiers: Mapping[str, Notifier], clock: Callable[[], datetime]) -> None:
    """Send what is due. A channel whose receiver is down is left alone until its next message is due; the others go on."""
    down: set[str] = set()
    while True:
        with store.read() as tx:
            message = next((m for m in tx.due(clock()) if m.channel not in down), None)
        if message is None:
            return
        error, again = "", None
        try:
            notifier = notifiers.get(message.channel)
            if notifier is None:
                raise RefusedError(f"no receiver is configured for {message.channel} any more")
            notifier.send(message.event)
        except TransientError as caught:
            error, again = str(caught), clock() + timedelta(seconds=min(2**message.attempts, MAX_BACKOFF_S))
        except LastgoodError as caught:
            error = str(caught)
        with store.begin() as tx:
            tx.sent(message.id, error, again)
            if error and not again:
                tx.record(clock(), "lastgood", "undeliverable", message=message.id, error=error)
        if error:
            log.warning("message %d (%s): %s", message.id, message.channel, error)
        if again:
            down.add(message.channel)
