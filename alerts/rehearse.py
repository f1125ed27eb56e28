"""Recorded requests, sent again to a version that nobody uses yet and to the one that serves -> which answers are worse.

The requests are those of the inference table, as they were sent: what Lastgood itself keeps are texts, and a conversation told by its last message would
be another request.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pyarrow as pa

from lastgood.alerts.controller import Controller
from lastgood.alerts.release import busiest
from lastgood.errors import RefusedError, TransientError
from lastgood.judge.rehearsal import Outcome, Reply, compare
from lastgood.record.contents import base
from lastgood.record.windows import merge, utc
from lastgood.tables import Store, measures

BACK = timedelta(days=1)
CLOCKS = ("request_time", "timestamp_ms")
"""Columns of inference tables that say when (Databricks documentation, inference table schema)."""
DEPTH, MOST_FIELDS = 3, 200
OK = 200
TOOLS = ("tools", "functions", "tool_choice")
Scores = Callable[[Mapping[str, Any], Any], float | None]
"""A request and its answer -> what an exact scorer says, None where it says nothing."""


@dataclass(frozen=True)
class Limits:
    """requests: pairs at most; per_second: pairs; tokens: of both versions' answers and prompts, after which it ends."""

    requests: int = 200
    per_second: float = 2.0
    tokens: int = 500_000


@dataclass(frozen=True)
class Rehearsed:
    """left_out: why -> recorded requests that were not sent."""

    endpoint: str
    version: str
    prior: str
    outcome: Outcome
    left_out: Mapping[str, int]
    tokens: int
    ended: str


class Rehearsal:
    """`who` is in the audit log."""

    def __init__(self, acts: Controller, store: Store, who: str, scores: Scores | None = None) -> None:
        self._acts, self._store, self._who, self._scores = acts, store, who, scores

    def run(self, name: str, version: str, limits: Limits, on: str | None = None) -> Rehearsed:
        """on: the endpoint on which the version is, else `name`. Recorded in the audit log.

        Errors: RefusedError where the version takes traffic, is not ready, or nothing can be sent again; those of the workspace and the tables.
        """
        serving, stage = self._acts.workspace.endpoint(name), self._acts.workspace.endpoint(on or name)
        entity = busiest(serving)
        prior = entity.entity_version
        candidate = stage.entity(version)
        if candidate is None or not candidate.ready:
            raise RefusedError(f"version {version} is not ready on {stage.name}: deploy it at 0% first")
        if on is None and stage.share(version):
            raise RefusedError(
                f"version {version} takes {stage.share(version)}% of the traffic already: the judge compares it"
            )
        left_out: dict[str, int] = {}
        requests = list(itertools.islice(self._recorded(name, left_out), limits.requests))
        if not requests:
            told = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "none is recorded"
            raise RefusedError(f"no request of {name} of the newest day can be sent again: {told}")
        pairs, tokens, ended = self._asked((name, entity.name), (stage.name, candidate.name), requests, limits)
        policy = self._acts.settings.endpoint(name).policy
        outcome = compare(pairs, self._history(name, prior), policy.error_tolerance, policy.latency_tolerance)
        done = Rehearsed(name, version, prior, outcome, left_out, tokens, ended)
        with self._acts.store.begin() as tx:
            facts = {
                "endpoint": name,
                "version": version,
                "on": stage.name,
                "requests": outcome.requests,
                "why": outcome.sentence,
            }
            tx.record(self._acts.clock(), self._who, f"rehearsal: {outcome.state}", **facts)
        return done

    def _asked(
        self, prior: tuple[str, str], new: tuple[str, str], requests: list[dict[str, Any]], limits: Limits
    ) -> tuple[list[tuple[Reply, Reply]], int, str]:  # fmt: skip
        """Pairs (prior, new), who is asked first in turns; the tokens they took; why it ended early."""
        pairs: list[tuple[Reply, Reply]] = []
        spent, began = 0, time.monotonic()
        for i, body in enumerate(requests):
            if spent >= limits.tokens:
                return pairs, spent, f"{limits.tokens:,} tokens are spent"
            time.sleep(max(0.0, began + i / limits.per_second - time.monotonic()))
            order = ((0, prior), (1, new)) if i % 2 else ((1, new), (0, prior))
            replies: dict[int, Reply] = {}
            for arm, (endpoint, entity) in order:
                replies[arm], took = self._ask(endpoint, entity, body)
                spent += took
            pairs.append((replies[0], replies[1]))
        return pairs, spent, ""

    def _ask(self, endpoint: str, entity: str, body: dict[str, Any]) -> tuple[Reply, int]:
        try:
            reply = self._acts.workspace.invoke(endpoint, body, entity=entity)
        except TransientError as error:
            return Reply(f"NO_ANSWER: {error}"[:80], 0.0), 0
        usage = reply.body.get("usage") if isinstance(reply.body, dict) else None
        counted = usage if isinstance(usage, dict) else {}
        into, out = (
            _number(counted.get(new, counted.get(old)))
            for new, old in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
        )
        took = int((into or 0) + (out or 0))
        if reply.status != OK:
            return Reply(f"HTTP_{reply.status}", reply.seconds), took
        score = self._scores(body, reply.body) if self._scores else None
        return Reply(
            None, reply.seconds, out, frozenset(itertools.islice(fields(reply.body), MOST_FIELDS)), score
        ), took

    def _recorded(self, name: str, left_out: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Requests of the newest day that may be sent again, in the order of a lot."""
        own = self._acts.settings.endpoint(name)
        if not own.payload_table:
            raise RefusedError(f"a rehearsal sends requests as they were sent: set endpoints.{name}.payload_table")
        for text in _newest(self._store.named(own.payload_table).read, self._acts.clock() - BACK):
            why, body = sendable(text, own.release.rehearse_tools)
            if why:
                left_out[why] = left_out.get(why, 0) + 1
            else:
                yield body

    def _history(self, name: str, version: str) -> tuple[float, float]:
        """Requests of the version that serves in the newest day, and those of them that failed."""
        own = [
            c
            for c in measures.windows(self._store, name, self._acts.clock() - BACK)
            if base(c.model_version) == version
        ]
        whole = merge(own) if own else None
        return (whole.requests, whole.failed) if whole else (0.0, 0.0)


def _newest(read: Callable[..., pa.Table], since: datetime) -> list[str]:
    """The bodies of the requests since a moment, by lot: by a hash of what was asked."""
    for clock in CLOCKS:
        moment: Any = since if clock == "request_time" else int(utc(since).timestamp() * 1000)
        try:
            rows = read(["request", clock], [(clock, ">=", moment)])
        except (KeyError, ValueError):  # pyarrow and delta-rs say so of a column that there is not
            continue
        texts = [text for text in rows["request"].to_pylist() if text]
        return sorted(dict.fromkeys(texts), key=lambda text: sha256(text.encode()).hexdigest())
    return []


def sendable(text: str, tools: bool) -> tuple[str, dict[str, Any]]:
    """(why it is not sent again, the body without a stream)."""
    try:
        body = json.loads(text)
    except ValueError:
        return "are cut or are no JSON", {}
    if not isinstance(body, dict):
        return "are no JSON object", {}
    messages = body.get("messages") or body.get("input")
    of_tools = isinstance(messages, list) and any(
        isinstance(m, dict) and (m.get("role") == "tool" or m.get("tool_calls")) for m in messages
    )
    if not tools and (of_tools or any(body.get(name) for name in TOOLS) or isinstance(body.get("input"), list)):
        return "use tools or are an agent's (release.rehearse_tools says that this is safe)", {}
    return "", {
        name: value for name, value in body.items() if name not in ("stream", "stream_options", "client_request_id")
    }


def fields(body: Any, depth: int = DEPTH, prefix: str = "") -> Iterator[str]:
    """Names in an answer, nested by dots; of a list its first element."""
    if isinstance(body, list):
        body = body[0] if body else None
    if isinstance(body, dict) and depth:
        for name, value in sorted(body.items()):
            if value is not None:
                yield f"{prefix}{name}"
                yield from fields(value, depth - 1, f"{prefix}{name}.")


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
