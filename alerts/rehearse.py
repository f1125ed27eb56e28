"""Recorded requests, sent again to a version that nobody uses yet and to the one that serves -> which answers are worse.

The requests are those of the inference table, as they were sent: what Lastgood itself keeps are texts, and a conversation told by its last message would
be another request.
"""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from lastgood import tables
from lastgood.alerts.controller import Controller
from lastgood.alerts.release import REHEARSAL, busiest
from lastgood.errors import ConfigError, DeniedError, GoneError, RefusedError, TransientError
from lastgood.judge.rehearsal import ANSWER, Outcome, Reply, compare
from lastgood.record.contents import base
from lastgood.record.fault import Fault, fault
from lastgood.record.redact import PATTERNS
from lastgood.record.windows import merge, utc
from lastgood.settings import EndpointSettings
from lastgood.tables import Store, measures
from lastgood.tables.homes import TableHome
from lastgood.workspace import Endpoint

BACK = timedelta(days=1)
CLOCKS = (
    ("request_time", "databricks_request_id"),
    ("timestamp_ms", "databricks_request_id"),
    ("event_time", "invocation_id"),
)
"""Columns of inference tables that say when, and which request (Databricks documentation, inference table schema)."""
DRAWN, DRAWS = 400, 5
"""Requests whose bodies are read at once, and how often: however many there are of the day, no more are looked at."""
DEPTH, MOST_FIELDS = 3, 200
OK = 200
LIMITED = 10
"""Pairs with a request that was limited, after which a rehearsal ends."""
TOOLS = (
    "tools",
    "functions",
    "tool_choice",
    "function_call",
    "web_search_options",
    "mcp_servers",
    "plugins",
    "custom_inputs",
    "databricks_options",
)
STEPS = re.compile(r"tool|function|computer|mcp|web_search|code_interpreter")
"""Types and roles of a conversation's parts that tell of tools."""
KEPT = ("previous_response_id", "conversation", "conversation_id", "thread_id", "background")
"""Fields by which a request goes on from, or leaves behind, what the server keeps."""
REFUSED = frozenset({Fault.CLIENT, Fault.CONTENT})
REDACTED = re.compile(
    rf"\[(?:{'|'.join(PATTERNS)})\]|<(?:PERSON|EMAIL_ADDRESS|PHONE_NUMBER|IBAN_CODE|CREDIT_CARD|IP_ADDRESS|LOCATION|US_SSN)>"
)
"""Marks that stand where a text was redacted."""
Exchange = tuple[Mapping[str, Any], tuple[Reply, Any], tuple[Reply, Any]]
"""A request; what of the prior's answer is compared, and the answer; the same of the new one's."""
Scored = Callable[[str, Sequence[tuple[Mapping[str, Any], Any, Any]]], Sequence[tuple[Reply, Reply]]]
"""The prior version and (request, prior's answer, new one's) of pairs that were answered -> Replies with nothing but what scorers say, in that order."""


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
    at: datetime
    ended: str


class Rehearsal:
    """`who` is in the audit log."""

    def __init__(self, acts: Controller, store: Store, who: str, scores: Scored | None = None) -> None:
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
        if stage.name == serving.name and stage.share(version):
            raise RefusedError(
                f"version {version} takes {stage.share(version)}% of the traffic already: the judge compares it"
            )
        left_out: dict[str, int] = {}
        self._no_agent(name)
        requests = list(itertools.islice(self._recorded(name, left_out), limits.requests))
        if not requests:
            told = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "none is recorded"
            raise RefusedError(f"no request of {name} of the newest day can be sent again: {told}")
        asked, tokens, ended = self._asked(
            (name, entity.name), (stage.name, candidate.name), requests, limits, left_out
        )
        for before in {serving.name: serving, stage.name: stage}.values():
            self._unchanged(before)
        pairs = self._judged(prior, asked)
        policy = self._acts.settings.endpoint(name).policy
        outcome = compare(pairs, self._history(name, prior), policy.error_tolerance, policy.latency_tolerance)
        done = Rehearsed(name, version, prior, outcome, left_out, tokens, self._acts.clock(), ended)
        with self._acts.store.begin() as tx:
            facts = {
                "endpoint": name,
                "version": version,
                "on": stage.name,
                "prior": prior,
                "state": outcome.state,
                "requests": outcome.requests,
                "why": outcome.sentence,
            }
            tx.record(done.at, self._who, f"{REHEARSAL}{outcome.state}", **facts)
        return done

    def _no_agent(self, name: str) -> None:
        """Errors: RefusedError where the endpoint's requests call tools that no request names: it is an agent."""
        if self._acts.settings.endpoint(name).release.rehearse_tools:
            return
        wanted: Any = [
            ("endpoint", "=", name),
            ("started_at", ">=", self._acts.clock() - BACK),
            ("kind", "in", ["tool", "agent"]),
        ]
        if self._store.home(tables.STEPS).read(["name"], wanted).num_rows:
            raise RefusedError(
                f"{name} is an agent, its requests call tools: release.rehearse_tools says that this is safe"
            )

    def _unchanged(self, before: Endpoint) -> None:
        now = self._acts.workspace.endpoint(before.name)
        if (now.config_version, now.traffic) != (before.config_version, before.traffic):
            raise RefusedError(
                f"{before.name} was changed during the rehearsal, which says nothing now: rehearse again"
            )

    def _asked(
        self, prior: tuple[str, str], new: tuple[str, str], requests: list[dict[str, Any]], limits: Limits, left_out: dict[str, int]
    ) -> tuple[list[Exchange], int, str]:  # fmt: skip
        """What was asked and answered, who is asked first in turns; the tokens it took; why it ended early."""
        asked: list[Exchange] = []
        spent, limited, began = 0, 0, time.monotonic()
        for i, body in enumerate(requests):
            if spent >= limits.tokens:
                return asked, spent, f"{limits.tokens:,} tokens are spent"
            if limited >= LIMITED:
                return asked, spent, "requests are limited: rehearse more slowly (--per-second), or later"
            time.sleep(max(0.0, began + i / limits.per_second - time.monotonic()))
            order = ((0, prior), (1, new)) if i % 2 else ((1, new), (0, prior))
            replies: dict[int, tuple[Reply, Any]] = {}
            for arm, (endpoint, entity) in order:
                reply, took, answer = self._ask(endpoint, entity, body)
                replies[arm] = reply, answer
                spent += took
            if any(reply.failed and fault(reply.failed) is Fault.LIMIT for reply, _ in replies.values()):
                limited += 1
                left_out["were limited (429)"] = limited
            else:
                asked.append((body, replies[0], replies[1]))
        return asked, spent, ""

    def _judged(self, prior: str, asked: list[Exchange]) -> list[tuple[Reply, Reply]]:
        """The replies (prior's, new one's), with what scorers say of those that are answers both."""
        pairs = [(first[0], second[0]) for _, first, second in asked]
        both = [i for i, pair in enumerate(pairs) if all(ANSWER in reply.fields for reply in pair)]
        if self._scores and both:
            answers = [(asked[i][0], asked[i][1][1], asked[i][2][1]) for i in both]
            for i, scored in zip(both, self._scores(prior, answers), strict=True):
                first, second = (
                    replace(reply, score=of.score, opinion=of.opinion)
                    for reply, of in zip(pairs[i], scored, strict=True)
                )
                pairs[i] = first, second
        return pairs

    def _ask(self, endpoint: str, entity: str, body: dict[str, Any]) -> tuple[Reply, int, Any]:
        """(what is compared, its tokens, the answer). A request that is refused as wrong, or for what it says, is no failure of the version: whether the
        other one answers it is compared."""
        try:
            reply = self._acts.workspace.invoke(endpoint, body, entity=entity)
        except TransientError as error:
            return Reply(f"NO_ANSWER: {error}"[:80], 0.0), 0, None
        usage = reply.body.get("usage") if isinstance(reply.body, dict) else None
        told = usage if isinstance(usage, dict) else {}
        into, out = (
            _number(told.get(new, told.get(old)))
            for new, old in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
        )
        took = int((into or 0) + (out or 0))
        if reply.status != OK:
            code = f"HTTP_{reply.status}"
            return Reply(None if fault(code) in REFUSED else code, 0.0), took, None
        names = frozenset({ANSWER, *itertools.islice(fields(reply.body), MOST_FIELDS)})
        return Reply(None, reply.seconds, out, names), took, reply.body

    def _recorded(self, name: str, left_out: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Requests of the newest day that may be sent again, each text once, in the order of a lot."""
        own = self._acts.settings.endpoint(name)
        if not own.payload_table:
            raise RefusedError(f"a rehearsal sends requests as they were sent: set endpoints.{name}.payload_table")
        seen: set[str] = set()
        for text in _newest(self._store.named(own.payload_table), self._acts.clock() - BACK):
            if text and text in seen:
                continue
            seen.add(text)
            why, body = sendable(text, own)
            if why:
                left_out[why] = left_out.get(why, 0) + 1
            else:
                yield body

    def _history(self, name: str, version: str) -> tuple[float, float]:
        """Requests of the version that serves in the newest day, and those of them that failed, as failures are counted here."""
        own = [
            c
            for c in measures.windows(self._store, name, self._acts.clock() - BACK)
            if base(c.model_version) == version
        ]
        whole = merge(own) if own else None
        if whole is None:
            return 0.0, 0.0
        others = sum(n for code, n in whole.errors.items() if fault(code) in (*REFUSED, Fault.LIMIT))
        return whole.requests - others, whole.failed - others


def _newest(home: TableHome, since: datetime) -> Iterator[str]:
    """The bodies of the requests since a moment, empty where none was logged, by lot. Which requests is drawn before any body is read, and bodies are read
    as they are asked for."""
    for clock, key in CLOCKS:
        moment: Any = int(utc(since).timestamp() * 1000) if clock == "timestamp_ms" else since
        try:
            ids = home.read([key], [(clock, ">=", moment)])
        except (
            KeyError,
            ValueError,
            ConfigError,
        ) as error:  # how pyarrow, delta-rs and a warehouse say that there is no such column
            if isinstance(error, DeniedError | GoneError):
                raise
            continue
        if not ids.num_rows:
            return
        lot = np.random.default_rng(ids.num_rows).permutation(ids.num_rows)[: DRAWN * DRAWS]
        for first in range(0, len(lot), DRAWN):
            drawn = ids[key].take(lot[first : first + DRAWN]).to_pylist()
            rows = home.read([key, "request"], [(clock, ">=", moment), (key, "in", drawn)])
            bodies = dict(zip(rows[key].to_pylist(), rows["request"].to_pylist(), strict=True))
            yield from (bodies.get(each) or "" for each in drawn)
        return


def sendable(text: str, own: EndpointSettings) -> tuple[str, dict[str, Any]]:
    """(why it is not sent again, the body without a stream)."""
    if not text:
        return "have no body in the table (too large, or not logged)", {}
    try:
        body = json.loads(text)
    except ValueError:
        return "are cut or are no JSON", {}
    if not isinstance(body, dict):
        return "are no JSON object", {}
    if REDACTED.search(text) or any(f"[{name}]" in text for name in own.redact):
        return "are redacted, so others than those that were sent", {}
    if any(body.get(name) for name in KEPT):
        return "go on from what the server keeps, or leave something there", {}
    if not own.release.rehearse_tools and _uses_tools(body):
        return "use tools or are an agent's (release.rehearse_tools says that this is safe)", {}
    return "", {
        name: value for name, value in body.items() if name not in ("stream", "stream_options", "client_request_id")
    }


def _uses_tools(body: Mapping[str, Any]) -> bool:
    """Whether a request names tools, has them in its conversation, or is an agent's (a list of items as `input`; of texts it is for embeddings)."""
    items = body.get("input")
    agent = isinstance(items, list) and any(isinstance(item, dict) for item in items)
    return agent or any(body.get(name) for name in TOOLS) or _of_tools(body.get("messages"))


def _of_tools(part: Any) -> bool:
    if isinstance(part, list):
        return any(_of_tools(each) for each in part)
    if not isinstance(part, dict):
        return False
    kinds = f"{part.get('role')} {part.get('type')}"
    return bool(STEPS.search(kinds) or part.get("tool_calls") or part.get("function_call")) or _of_tools(
        part.get("content")
    )


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
