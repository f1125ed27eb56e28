"""Queued messages -> the notifiers: at least once, in order within a channel and incident.

A message that a receiver refuses (a rotated key, a wrong address) is not dropped: it is kept, the other channels are told, and it is tried
again every REFUSED_AGAIN and when the service starts, because a configuration may have been mended. After GIVE_UP it is given up, and the
audit log says so. An alert that was delayed and is over meanwhile calls nobody: it is not sent any more, and the audit log says so too.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from lastgood.alerts import registry
from lastgood.alerts.notify import Notifier
from lastgood.alerts.notify.pagerduty import event
from lastgood.alerts.records import Message
from lastgood.alerts.store import Store
from lastgood.alerts.tx import Tx
from lastgood.errors import LastgoodError, RefusedError, TransientError

MAX_BACKOFF_S = 300
REFUSED_AGAIN = timedelta(minutes=10)
GIVE_UP = timedelta(days=7)
REMIND = timedelta(minutes=5)
WAKING = ("pagerduty", "alertmanager")
"""Channels that call somebody. The others keep a record: they get what is over, too."""
FORGETFUL = "alertmanager"
"""The channel whose receiver forgets what fires when it restarts."""
log = logging.getLogger("lastgood.alerts")


def send_due(store: Store, notifiers: Mapping[str, Notifier], clock: Callable[[], datetime]) -> None:
    """Send what is due. A channel whose receiver is down is left alone until its next message is due; the others go on."""
    down: set[str] = set()
    while True:
        with store.read() as tx:
            message = next((m for m in tx.due(clock()) if m.channel not in down), None)
            late = message is not None and message.channel in WAKING and message.attempts > 0 and tx.superseded(message)
        if message is None:
            return
        if late:
            with store.begin() as tx:
                tx.sent(message.id, "over before the channel took it")
                tx.record(clock(), "lastgood", "not sent any more", message=message.id, channel=message.channel)
            continue
        error, again, refused = "", None, False
        try:
            notifier = notifiers.get(message.channel)
            if notifier is None:
                raise RefusedError(f"no receiver is configured for {message.channel} any more")
            notifier.send(message.event)
        except TransientError as caught:
            error, again = str(caught), clock() + timedelta(seconds=min(2**message.attempts, MAX_BACKOFF_S))
        except LastgoodError as caught:
            error, refused = str(caught), True
            again = clock() + REFUSED_AGAIN if clock() - message.created_at < GIVE_UP else None
        with store.begin() as tx:
            tx.sent(message.id, error, again, refused)
            if error and not again:
                tx.record(clock(), "lastgood", "undeliverable", message=message.id, error=error)
            elif refused:
                others = [name for name in notifiers if name not in (message.channel, registry.CHANNEL)]
                _say_elsewhere(tx, message, error, others, clock())
            elif message.channel == registry.CHANNEL and not error:
                facts = {name: message.event[name] for name in ("model", "version", "alias")}
                tx.record(clock(), "lastgood", "registry written", message=message.id, **facts)
        if error:
            log.warning("message %d (%s): %s", message.id, message.channel, error)
        if again:
            down.add(message.channel)


def _say_elsewhere(tx: Tx, message: Message, error: str, others: list[str], now: datetime) -> None:
    """The other channels hear, once a day, that this one takes nothing."""
    key = f"lastgood-channel-{message.channel}"
    sentence = f"Lastgood: the channel {message.channel} refuses messages ({error}); they are kept and tried again"
    document = event(
        "trigger", key, sentence, severity="error", source="lastgood", timestamp=now.isoformat(), details={}
    )
    tx.say(f"{key}:{now:%Y-%m-%d}", key, document, now, others)


def remind(store: Store, notifiers: Mapping[str, Notifier], clock: Callable[[], datetime]) -> None:
    """Tell a receiver that forgets again what is open. Telling twice changes nothing there."""
    notifier = notifiers.get(FORGETFUL)
    if notifier is None:
        return
    with store.begin() as tx:
        if not tx.lease("remind", clock().isoformat(), clock(), clock() + REMIND):
            return
        standing = tx.standing(FORGETFUL)
    for document in standing:
        try:
            notifier.send(document)
        except LastgoodError as error:
            log.warning("%s is not reminded: %s", FORGETFUL, error)
            return
