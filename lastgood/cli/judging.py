"""Answers of a rehearsal -> what the endpoint's scorers say of them, within the day's budget; every call is a row of `judged`."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pyarrow as pa

from lastgood import tables
from lastgood.collectors.bodies import extract
from lastgood.errors import LastgoodError
from lastgood.jobs.score import AT_ONCE, Budget, told
from lastgood.jobs.scorers import Answer, Score, made
from lastgood.judge.rehearsal import Reply
from lastgood.record.telemetry import arrow_schema
from lastgood.record.words import counted
from lastgood.settings import Scorer, Settings
from lastgood.tables.judging import REHEARSED

NOTHING = Reply(None, 0.0)


class Judging:
    """A callable for alerts.rehearse. `notes`: what was not judged, and why. Errors: ConfigError where a scorer cannot be had."""

    def __init__(
        self, settings: Settings, store: tables.Store, endpoint: str, version: str, clock: Callable[[], datetime], clients: ExitStack
    ) -> None:  # fmt: skip
        self._own, self._store, self._endpoint, self._version, self._clock = (
            settings.endpoint(endpoint).scoring, store, endpoint, version, clock,
        )  # fmt: skip
        self.scorers = [(scorer, made(scorer, clients)) for scorer in self._own.scorers]
        self.notes: list[str] = []

    def __call__(self, prior: str, pairs: Sequence[tuple[Mapping[str, Any], Any, Any]]) -> list[tuple[Reply, Reply]]:
        """See alerts.rehearse.Scored. The mean of the scorers of a kind; nothing where one of them failed, or was left out."""
        answers = [(_answer(asked, first), _answer(asked, second)) for asked, first, second in pairs]
        budget, rows = self._budget(), list[dict[str, Any]]()
        given: list[dict[str, tuple[Score, Score]]] = [{} for _ in pairs]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for scorer, judge in self.scorers:
                for first in range(0, len(answers), AT_ONCE):
                    several = answers[first : first + AT_ONCE]
                    several = several[: budget.allows(len(several))]
                    scores = list(pool.map(judge, [answer for pair in several for answer in pair]))
                    for i in range(len(several)):
                        both = scores[2 * i], scores[2 * i + 1]
                        given[first + i][scorer.name] = both
                        rows.append(self._row(scorer, prior, both, len(rows)))
                    budget.spend(2 * len(several), sum(row["money"] for row in rows[len(rows) - len(several) :]))
        self.notes += [f"not judged, {counted(count, 'pair')}: {why}" for why, count in (+budget.left_out).items()]
        self._write(rows)
        return [(self._reply(each, 0), self._reply(each, 1)) for each in given]

    def _budget(self) -> Budget:
        today = self._clock().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        wanted: Any = [("endpoint", "=", self._endpoint), ("judged_at", ">=", today)]
        spent = self._store.home(tables.JUDGED).read(["money"], wanted)
        calls, money = self._own.calls_per_day - 2 * spent.num_rows, self._own.money_per_day
        return Budget(
            calls,
            None if money is None else money - sum(filter(None, spent["money"].to_pylist() if spent.num_rows else [])),
        )

    def _row(self, scorer: Scorer, prior: str, both: Sequence[Score], number: int) -> dict[str, Any]:
        """No reasons: they may quote what a person asked, and no request says whose it was."""
        now = self._clock()
        pair_id = sha256(
            f"{REHEARSED}\0{self._endpoint}\0{scorer.name}\0{now.isoformat()}\0{number}".encode()
        ).hexdigest()[:32]
        return told(scorer, both) | {
            "endpoint": self._endpoint, "candidate": self._version, "prior": prior, "pair_id": pair_id, "again": False, "request_ids": [],
            "alike": REHEARSED, "reasons": [None, None], "errors": [each.error and each.error.partition(":")[0] for each in both], "asked": False,
            "chance": 0.0, "label_wait_s": float(self._own.label_wait_s), "judged_at": now,
        }  # fmt: skip

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        try:
            self._store.home(tables.JUDGED).append(pa.Table.from_pylist(list(rows), arrow_schema(tables.JUDGED.fields)))
        except (
            LastgoodError
        ) as error:  # a table that this place may not write; what was found is worth more than the note of what it cost
            self.notes.append(f"what the scorers took is not in the table judged, so not in the day's budget: {error}")

    def _reply(self, given: Mapping[str, tuple[Score, Score]], arm: int) -> Reply:
        def mean(exact: bool) -> float | None:
            names = [scorer.name for scorer, _ in self.scorers if scorer.exact is exact]
            known = [given[name] for name in names if name in given]
            if not names or len(known) < len(names) or any(each.error for both in known for each in both):
                return None
            return sum(both[arm].value for both in known) / len(known)

        return Reply(None, 0.0, score=mean(True), opinion=mean(False))


def _answer(asked: Mapping[str, Any], replied: Any) -> Answer:
    body = extract(json.dumps(asked), json.dumps(replied))
    return Answer(body.input, body.output)
