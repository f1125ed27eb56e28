"""Queued messages -> the notifier: at least once, in order within an incident."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from lastgood.alerts.notify import Notifier
from lastgood.alerts.store import Store
from lastgood.errors import LastgoodError, TransientError

MAX_BACKOFF_S = 300
log = logging.getLogger("lastgood.alerts")


def send_due(store: Store, notifier: Notifier, clock: Callable[[], datetime]) -> None:
    """Send what is due; stop at the first message that cannot be delivered now: the receiver is down."""
    while True:
        with store.read() as tx:
            message = next(iter(tx.due(clock())), None)
        if message is None:
            return
        error, again = "", None
        try:
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
            log.warning("message %d: %s", message.id, error)
        if again:
            return
