"""Tables in an object store of memory: commits by conditional put, application transactions, and a network in between."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lastgood.errors import TransientError
from lastgood.tables.homes import App
from simulation.chance import Chance, Killed


@dataclass
class Commit:
    """Rows that were added, and the application transaction beside them."""

    rows: pa.Table
    app: App = None


@dataclass
class Bucket:
    """Tables by name, each a list of commits. It never forgets: what is put is there for the next reader."""

    chance: Chance
    tables: dict[str, list[Commit]] = field(default_factory=dict)
    between: Callable[[], None] = lambda: None
    """Others, who may act between a read of the log and the put of a commit."""

    def home(self, name: str) -> "SimTable":
        return SimTable(self, name, self.tables.setdefault(name, []))


@dataclass
class SimTable:
    """The calls of `homes.TableHome` that the drain makes."""

    bucket: Bucket
    name: str
    log: list[Commit]

    def _request(self) -> None:
        chance = self.bucket.chance
        chance.steps += 1
        if chance.pick("kill", 0.2):
            raise Killed
        if chance.pick("store 5xx"):
            raise TransientError(f"{self.name}: 503", 1.0)

    def _listed(self) -> int:
        """How many commits a listing shows: the newest may be missing from it for a while."""
        chance = self.bucket.chance
        return max(0, len(self.log) - (chance.random.randint(1, 3) if chance.pick("stale list", 2.0) else 0))

    def app_version(self, app_id: str) -> int | None:
        self._request()
        versions = [commit.app[1] for commit in self.log[: self._listed()] if commit.app and commit.app[0] == app_id]
        return max(versions, default=None)

    def append(self, rows: pa.Table, app: App = None) -> bool:
        """As `delta.append`: what the application has committed is looked up, then a commit is put; of two writers one must look again."""
        chance = self.bucket.chance
        self._request()
        for _ in range(3):
            seen = self._listed()
            done = [commit.app[1] for commit in self.log[:seen] if app and commit.app and commit.app[0] == app[0]]
            if app and done and app[1] <= max(done):
                return False
            if app and len(app) > 2 and app[2] != max(done, default=0):
                raise TransientError(f"{self.name}: another version is committed", 1.0)
            self.bucket.between()
            if len(self.log) == seen:
                break
            if app and any(commit.app and commit.app[0] == app[0] for commit in self.log[seen:]):
                # what won is read by its name; of the same application it is refused (contracts/test_tables.py holds delta-rs to it)
                raise TransientError(f"{self.name}: concurrent transaction", 1.0)
        else:
            raise TransientError(f"{self.name}: commit conflict", 1.0)
        self.log.append(Commit(rows, app))
        if chance.pick("kill", 0.2):
            raise Killed
        if chance.pick("answer lost"):
            raise TransientError(f"{self.name}: the answer was lost", 1.0)
        return True

    def values(self, column: str) -> Sequence[Any]:
        return [value for commit in self.log for value in commit.rows[column].to_pylist()]
