"""Which look history a live judge's epoch is: kept in the operational state, so that a restart or a second replica spends no budget twice."""

from collections.abc import Iterable
from datetime import datetime
from hashlib import blake2b

from lastgood.alerts.store import Store

Asked = tuple[str, str, datetime, int]
"""(endpoint, version, when its newest deployment began, number of the epoch)"""


class Histories:
    """Numbers the histories of each epoch in the order in which they begin. `owner`: a name of this process that no other has."""

    def __init__(self, store: Store, owner: str) -> None:
        self._store, self._owner = store, owner
        self._known: dict[tuple[str, str], tuple[Asked, int]] = {}

    def __call__(self, asked: Iterable[Asked]) -> dict[Asked, int]:
        """The number (1, 2, ...) of this process's history. Errors: TransientError when the state cannot be reached."""
        wanted = list(asked)
        new = [each for each in wanted if self._known.get(each[:2], (None, 0))[0] != each]
        if new:
            with self._store.begin() as tx:
                for each in new:
                    endpoint, version, deployed, epoch = each
                    name = "live " + blake2b(f"{endpoint}\n{version}".encode(), digest_size=16).hexdigest()
                    now = {"endpoint": endpoint, "version": version, "deployed": deployed.isoformat(), "epoch": epoch}
                    tx.set_flag_once(name, now | {"owners": []})
                    kept = tx.flag(name)
                    same = (kept["deployed"], kept["epoch"]) == (now["deployed"], now["epoch"])
                    owners = kept["owners"] if same else []
                    if self._owner not in owners:
                        owners = [*owners, self._owner]
                        tx.set_flag(name, now | {"owners": owners})
                    self._known[each[:2]] = (each, owners.index(self._owner) + 1)
        return {each: self._known[each[:2]][1] for each in wanted}
