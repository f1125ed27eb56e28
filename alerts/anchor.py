"""The audit log's head, kept where whoever can write the database cannot: a file, a webhook. Each anchor is one JSON object, `at, seq, hash`."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lastgood.alerts.notify.http import Poster
from lastgood.alerts.store import Store
from lastgood.errors import ConfigError, LastgoodError
from lastgood.settings import Settings, secret

log = logging.getLogger("lastgood.alerts")


class Anchors:
    """Writes an anchor when the log has grown since the last one."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._store, self._clock = store, clock
        self._file, self._url = settings.audit_anchor.file, secret(settings.audit_anchor.url_env)
        self._poster = Poster("the audit anchor")
        self._written = 0
        self.problem = ""

    def __call__(self) -> None:
        """Write; why it failed stands in `problem` until it works."""
        try:
            self.write()
            self.problem = ""
        except LastgoodError as error:
            self.problem = str(error)
            log.warning("%s", error)

    def write(self) -> bool:
        """Whether there was something new to write. Errors: TransientError, RefusedError, ConfigError (the file cannot be written)."""
        with self._store.read() as tx:
            head = tx.audit_head()
        if not (self._file or self._url) or head["seq"] == self._written:
            return False
        line = anchor_line(head, self._clock())
        if self._file:
            append(self._file, line)
        if self._url:
            self._poster.post(self._url, line.encode())
        self._written = head["seq"]
        return True

    def close(self) -> None:
        self._poster.close()


def anchor_line(head: Mapping[str, Any], at: datetime) -> str:
    """One anchor as it is kept. `head`: `seq` and `hash` of the entry that was written last."""
    return json.dumps({"at": at.isoformat(), **head}) + "\n"


def append(path: Path, line: str) -> None:
    """Add a line and force it to disk. Errors: ConfigError."""
    try:
        with path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"audit anchor {path}: cannot be written: {error}") from error


def read(path: Path) -> list[dict[str, Any]]:
    """The anchors of a file, oldest first. Errors: ConfigError (unreadable, or a line is no anchor)."""
    try:
        return [
            _anchor(path, number, line) for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip()
        ]
    except OSError as error:
        raise ConfigError(f"audit anchor {path}: cannot be read: {error}") from error


def _anchor(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(line)
        return {"seq": int(document["seq"]), "hash": str(document["hash"]), "at": str(document["at"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"audit anchor {path}, line {number}: expected a JSON object with at, seq and hash"
        ) from error


def broken(entries: Sequence[Mapping[str, Any]], anchors: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where a log is not the one that was anchored, in sentences; a log that is whole in itself may still have been written anew."""
    hashes = {entry["seq"]: entry["hash"] for entry in entries}
    for anchor in anchors:
        if anchor["seq"] and hashes.get(anchor["seq"]) != anchor["hash"]:
            what = "is not the entry" if anchor["seq"] in hashes else "is gone that"
            yield f"entry {anchor['seq']} {what} was anchored at {anchor['at']}"
