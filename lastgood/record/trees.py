"""Spans of one trace -> the requests they are (pure). Which span is the request is decided over the trace, whatever exports it came in.

A span's row in the inbox is a *part*. Parts of a trace form trees by their parents' ids. Of each tree the outermost part that can be a request
is one; what is below it belongs to it, but for requests of other endpoints. The record is the tree's: time and outcome of the outermost, tokens
summed over the calls of a model (each once), the version that the endpoint's call names, the first token of the first streamed answer.
The outcome does not depend on the order of arrival, nor on how often a part came.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lastgood.record import agents, contents
from lastgood.record.telemetry import TOKENS, VALUES

Row = dict[str, Any]
CALL, ENTRY, NAMED, STEP, LINK, EVENT = "call", "entry", "named", "step", "link", "event"
"""A call of a model; a request that a server took; a span with Lastgood's own attributes; a step around calls (agent, tool, chain); a span that
only links others; a log record with what a span leaves out."""
CALLS = frozenset({"chat", "embedding"})
"""Kinds of step that are calls of a model."""
GENERIC = "ERROR"
"""The code of a failure that nobody named."""
WRAPPERS = frozenset(
    {GENERIC, "HttpResponseError", "APIStatusError", "HTTPStatusError", "HTTPError", "ClientResponseError"}
)
"""Codes that libraries give whatever the HTTP status was."""
MAX_ATTRIBUTES = 64
SLACK_MS = 1.0
"""What ends so little later has ended with its parent: times are rounded."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OF_TREE = frozenset({"served_entity", "model_version", "requested_at", "latency_ms", "latency_scope", "ttft_ms", "status_code", "error_code",
                      "attributes", "weight", "trace_id", "input", "output", "finish_reason", "model", "calls", "healed", *TOKENS})  # fmt: skip
_PLAIN = tuple(f.name for f in VALUES if f.name not in _OF_TREE)
"""Fields that are the outermost part's, else those of the first part that has them."""


@dataclass(eq=False)
class Node:
    """A span with its children. Times in milliseconds since 1970; of an `unended` span it is not known when it ended, only that it was later."""

    row: Row
    start: float = 0.0
    end: float = 0.0
    unended: bool = False
    asks: bool = False
    """Whether it or something below is a call, a server's request, or carries Lastgood's own attributes."""
    below: list["Node"] = field(default_factory=list)

    @property
    def part(self) -> str:
        return str(self.row["part"])

    @property
    def step(self) -> str | None:
        """The kind of step that it is; also of one with Lastgood's own attributes."""
        return self.row["step"] if self.part in (STEP, NAMED) else None

    @property
    def id(self) -> str:
        return str(self.row["span_id"])

    def says(self, mark: str) -> bool:
        return mark in (self.row["marks"] or "")

    @property
    def code(self) -> str | None:
        """Its error code; null for success."""
        status = self.row["status_code"]
        return self.row["error_code"] or (f"HTTP_{status}" if status is not None and status >= 400 else None)

    def all(self) -> Iterator["Node"]:
        """It and everything below, outer ones first."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.below)


@dataclass
class Request:
    """One request: its outermost part and all that belong to it (the outermost first), of the endpoint that they name."""

    owner: Node
    endpoint: str | None
    named: bool
    members: list[Node] = field(default_factory=list)


def requests(parts: Iterable[Row]) -> list[Request]:
    """The requests in one trace. parts: inbox rows with `span_id`."""
    tops = _grow(parts)
    made: list[Request] = []
    for top in tops:
        _assign(top, made)
    return made


def records(parts: Iterable[Row]) -> list[Row]:
    """One trace's inbox rows -> an inbox row for each request in it; `part` says what the outermost is."""
    return [record(request) for request in requests(parts)]


# trees


def _at(row: Row) -> float:
    return (row["requested_at"] - _EPOCH).total_seconds() * 1000 if row["requested_at"] else 0.0


def _merged(copies: Sequence[Row]) -> Node:
    """Copies of a span, and log records about it, as one."""
    spans = [row for row in copies if row["part"] != EVENT]
    chosen = dict(
        max(
            spans,
            key=lambda row: (
                row["latency_ms"] or 0.0,
                row["requested_at"] or _EPOCH,
                repr(row),
            ),
        )
    )
    start = _at(chosen)
    end, unended = start + (chosen["latency_ms"] or chosen["ttft_ms"] or 0.0), chosen["latency_ms"] is None
    events = sorted((row for row in copies if row["part"] == EVENT), key=lambda row: (_at(row), repr(row)))
    for event in events:
        end, unended = (_at(event), False) if _at(event) > end else (end, unended)
        for name, value in event.items():
            if name in _FROM_EVENTS and chosen[name] is None:
                chosen[name] = value
        if "r" in (event["marks"] or "") and not set(chosen["marks"] or "") & {"i", "r"}:
            chosen["request_id"], chosen["marks"] = event["request_id"], (chosen["marks"] or "") + "r"
        chosen["attributes"] = _united([chosen["attributes"], event["attributes"]])
    chosen["received_at"] = min((row["received_at"] for row in copies if row["received_at"]), default=None)
    return Node(chosen, start, end, unended)


_FROM_EVENTS = frozenset({"input", "output", "finish_reason", "model", "conversation_id", "error_code", *TOKENS})


def _grow(parts: Iterable[Row]) -> list[Node]:
    """Parts -> trees: their outermost spans, in order of time. Spans whose parent is not here are below the trace's root, where that is known;
    a circle of parents is cut at its first span."""
    copies: dict[str, list[Row]] = {}
    for row in parts:
        copies.setdefault(row["span_id"], []).append(row)
    nodes = {key: _merged(rows) for key, rows in copies.items() if any(row["part"] != EVENT for row in rows)}
    order = sorted(nodes.values(), key=lambda node: (node.start, -node.end, node.id))
    tops = [node for node in order if not node.row["parent_id"]]
    roots = list(tops)
    for node in order:
        parent = node.row["parent_id"]
        if parent and parent in nodes:
            nodes[parent].below.append(node)
        elif parent:
            within = roots if len(roots) == 1 else [root for root in roots if root.start <= node.start <= root.end]
            (within[0].below if len(within) == 1 else tops).append(node)
    reached: set[str] = set()
    for top in tops:
        reached.update(node.id for node in top.all())
    for node in order:
        if node.id not in reached:  # a circle
            _cut(node, nodes)
            tops.append(node)
            reached.update(below.id for below in node.all())
    for top in tops:
        _settle(top)
    return sorted(tops, key=lambda node: (node.start, -node.end, node.id))


def _settle(top: Node) -> None:
    """What only the whole tree tells of its parts: the clock that they were timed by, and whether they ask a model."""
    outer_first = list(top.all())
    ahead = {id(top): 0.0}
    for node in outer_first:
        node.start, node.end = node.start - ahead[id(node)], node.end - ahead[id(node)]
        for child in node.below:
            ahead[id(child)] = ahead[id(node)] + (_skew(node, child, ahead[id(node)]) if child.part == ENTRY else 0.0)
    for node in reversed(outer_first):
        node.asks = node.part in (CALL, ENTRY, NAMED) or any(child.asks for child in node.below)


def _skew(caller: Node, server: Node, ahead: float) -> float:
    """By how many milliseconds a server's clock is ahead of its caller's. A server that begins before or after its call has another clock:
    it is moved to the middle of the call, or to its beginning where it takes longer (the rule of Jaeger's clock-skew adjuster)."""
    start = server.start - ahead
    if caller.unended or caller.start - SLACK_MS <= start <= caller.end + SLACK_MS:
        return 0.0
    spare = (caller.end - caller.start) - (server.end - server.start)
    return start - (caller.start + max(spare, 0.0) / 2)


def _cut(node: Node, nodes: dict[str, Node]) -> None:
    above = nodes[node.row["parent_id"]]
    above.below = [child for child in above.below if child is not node]


# which parts are requests


def _can_be(node: Node) -> bool:
    """Whether a part with no request above it is one."""
    if node.part in (CALL, ENTRY, NAMED):
        return True
    if node.part != STEP:
        return False
    return not node.row["parent_id"] or node.row["step"] in agents.RUNS or node.asks


def _assign(top: Node, made: list[Request]) -> None:
    """Gives every part of a tree to its request."""
    waiting: list[tuple[Node, Request | None, Node | None]] = [(top, None, None)]
    while waiting:
        node, cover, above = waiting.pop()
        if cover is None:
            cover = _begun(node, made) if _can_be(node) else None
        elif _apart(node, cover, above):
            cover, above = _begun(node, made), None
        else:
            if (
                node.part == ENTRY
                and above is cover.owner
                and above.part == CALL
                and not cover.named
                and len(cover.members)
            ):
                cover.endpoint, cover.named = node.row["endpoint"], True  # the server that took the call names it
            cover.members.append(node)
        nearest = node if node.part in (CALL, ENTRY, NAMED, STEP) else above
        waiting += [(child, cover, nearest) for child in reversed(node.below)]


def _begun(node: Node, made: list[Request]) -> Request:
    """A new request. An outermost span that does not say its endpoint itself belongs to the only one that is named below it."""
    named = node.says("e")
    endpoint = node.row["endpoint"]
    if not named and len(names := _named_below(node)) == 1:
        endpoint, named = names.pop(), True
    if endpoint is None:
        endpoint = next((below.row["endpoint"] for below in node.all() if below.row["endpoint"]), None)
    request = Request(node, endpoint, named, [node])
    made.append(request)
    return request


def _named_below(node: Node) -> set[str]:
    """The endpoints that spans below name, but for what other servers took: unless the request is that very call."""
    names: set[str] = set()
    waiting = list(node.below)
    while waiting:
        below = waiting.pop()
        if below.part == ENTRY and node.part != CALL:
            continue
        if below.says("e") and below.part != LINK:
            names.add(below.row["endpoint"])
        waiting += below.below
    return names


def _apart(node: Node, cover: Request, above: Node | None) -> bool:
    """Whether a part below a request is a request of another endpoint: one that it names itself, or that of another service's server. What a
    server says of the very call that is the request is not."""
    if node.row["endpoint"] == cover.endpoint or node.row["endpoint"] is None or not _can_be(node):
        return False
    if node.says("e"):
        return True
    return node.part == ENTRY and not (above is cover.owner and above.part == CALL)


# the record


def record(request: Request) -> Row:
    """The inbox row of a request."""
    owner, members = request.owner, request.members
    own = owner.row
    calls = _calls(request)
    row = dict(own)
    row["endpoint"] = request.endpoint
    row["request_id"] = _request_id(request, calls)
    for name in _PLAIN:
        row[name] = _first(members, name)
    row |= _outcome(request, calls)
    row |= {name: _total(request, name, calls) for name in TOKENS}
    row["ttft_ms"] = _first_token(owner, calls, members)
    row |= _version(request)
    succeeded = [node for node in calls if node.code is None] or calls
    last = sorted(succeeded, key=lambda node: (node.end, node.id), reverse=True)
    row["finish_reason"] = _first([owner, *last, *members], "finish_reason")
    row["model"] = _first([owner, *succeeded, *members], "model")
    ours = {own["endpoint"], request.endpoint}
    visible = {node for node in members if node.row["endpoint"] in ours or node.row["endpoint"] is None}
    asking, answering = ([*some, *(node for node in members if node.part == CALL)] for some in (calls, last))
    row["input"] = _first([owner, *(node for node in asking if node in visible)], "input")
    row["output"] = _first([owner, *(node for node in answering if node in visible)], "output")
    told = [node.row["attributes"] for node in [owner, *(node for node in calls if node in visible)]]
    told = [*_contents(node for node in [owner, *calls, *members] if node in visible), *told]
    ran = agents.told(request)
    row["attributes"] = _united([ran, *told]) if ran else _united(told)
    row["received_at"] = min((node.row["received_at"] for node in members if node.row["received_at"]), default=None)
    return row


def steps(parts: Iterable[Row]) -> list[Row]:
    """One trace's inbox rows -> rows of `steps`: the calls and steps of every request that is a run of several."""
    made: list[Row] = []
    for request in requests(parts):
        if not any(node.step for node in request.members):
            continue
        whole = record(request)
        within: dict[int, str | None] = {id(request.owner): None}
        for node in request.owner.all():
            inside = node.row["step_name"] if node.step in agents.RUNS else None
            for child in node.below:
                within[id(child)] = inside or within.get(id(node))
        used = {id(node) for node in agents.tools(request)}
        kept = [
            node
            for node in request.members
            if node.part == CALL or (node.step and (node.step != "tool" or id(node) in used))
        ]
        made += [_step(node, whole, within.get(id(node))) for node in kept]
    return made


def _step(node: Node, whole: Row, agent: str | None) -> Row:
    row = node.row
    return {
        "endpoint": whole["endpoint"], "request_id": whole["request_id"], "model_version": whole["model_version"], "kind": row["step"] or node.part,
        "name": row["model"] if node.part == CALL else row["step_name"], "agent": agent, "started_at": row["requested_at"], "error_code": node.code,
        **{name: row[name] for name in ("trace_id", "span_id", "parent_id", "latency_ms", "tokens_in", "tokens_out")},
    }  # fmt: skip


def _first(nodes: Iterable[Node], name: str) -> Any:
    return next((node.row[name] for node in nodes if node.row[name] is not None), None)


def _contents(nodes: Iterable[Node]) -> Iterator[list[tuple[str, str]]]:
    """What else makes a version, as far as any part tells it: of nested calls the inner one may hold the messages."""
    for node in nodes:
        if own := [
            (name, value)
            for name, value in dict(node.row["attributes"] or ()).items()
            if name.startswith(contents.PREFIX)
        ]:
            yield own


def _united(maps: Iterable[Any]) -> list[tuple[str, str]] | None:
    """Attributes of several parts; of one that several have the first."""
    united: dict[str, str] = {}
    known = [dict(pairs) for pairs in maps if pairs is not None]
    for pairs in known:
        for name, value in pairs.items():
            united.setdefault(name, value)
    return list(united.items())[:MAX_ATTRIBUTES] if known else None


def _calls(request: Request) -> list[Node]:
    """The calls of a model in a request, in order of time: the outer one of nested ones, and one of several that report the same answer (the
    provider's id is the same, and so is the time)."""
    ours = {id(node) for node in request.members}
    calls: list[Node] = []
    waiting = [request.owner]
    while waiting:
        node = waiting.pop()
        if id(node) in ours and _is_call(node):
            calls.append(node)
        else:
            waiting += [child for child in node.below if id(child) in ours or child.part == LINK]
    unique: list[Node] = []
    until: dict[str, float] = {}  # answer -> when the last report of it ended
    for node in sorted(calls, key=lambda node: (node.start, -node.end, node.id)):
        answer = node.row["request_id"] if node.says("r") else None
        if answer is None or node.start > until.get(answer, float("-inf")):
            unique.append(node)
            if answer is not None:
                until[answer] = max(node.end, until.get(answer, node.end))
    return unique


def _is_call(node: Node) -> bool:
    return node.part == CALL or (
        node.part == ENTRY and any(node.row[name] is not None for name in ("tokens_in", "tokens_out"))
    )


def _request_id(request: Request, calls: Sequence[Node]) -> str | None:
    """The client's id that the outermost part has; else the provider's, where one answer is all there is; else the outermost span's."""
    telling = [node for node in request.members if node.part != LINK]
    stated = next((node.row["request_id"] for node in telling if node.says("i")), None)
    if stated is not None:
        return str(stated)
    answers = {node.row["request_id"] for node in telling if node.says("r")}
    if len(answers) == 1:
        return str(answers.pop())
    own = request.owner.row
    return f"{own['trace_id'] or ''}/{own['span_id']}" if request.owner.says("r") else own["request_id"]


def _total(request: Request, name: str, calls: Sequence[Node]) -> int | None:
    """Tokens of all calls, of each once: its own count, else what is below it says. Where no call tells, what the outermost part says."""
    ours = {id(node) for node in request.members}
    for tops in (calls, [request.owner]):
        known: list[int] = []
        waiting = list(tops)
        while waiting:
            node = waiting.pop()
            if id(node) not in ours:
                continue
            if node.row[name] is not None:
                known.append(node.row[name])
            else:
                waiting += node.below
        if known:
            return sum(known)
    return None


def _outcome(request: Request, calls: Sequence[Node]) -> Row:
    """Time and outcome: the outermost part's, unless what it began was still going on when it ended (it only handed over a stream)."""
    owner = request.owner
    answered = any(call.end <= owner.end for call in calls)
    late = [] if owner.part == ENTRY else [node for node in request.members[1:] if _goes_on(node, owner, answered)]
    last = max([owner, *late], key=lambda node: (node.end, node.unended, node.id))
    failures = sorted((node for node in request.members[1:] if node.code), key=lambda node: (node.end, node.id))
    code = owner.code
    if code is None and late:
        newest = max(late, key=lambda node: (node.end, node.part == CALL, node.id))
        code = newest.code
    status = owner.row["status_code"]
    if code is not None:
        specific = [node for node in failures if node.code != GENERIC]
        code = specific[-1].code if code == GENERIC and specific else code
        status = (
            status
            if status is not None
            else next((n.row["status_code"] for n in reversed(failures) if n.row["status_code"]), None)
        )
        code = f"HTTP_{status}" if code in WRAPPERS and status is not None and status >= 400 else code
    healed = len(_topmost_failures(request)) if code is None else 0
    many = len(calls)
    return {
        "latency_ms": _latency(owner, last),
        "error_code": code, "status_code": status, "calls": many or None, "healed": healed or None,
    }  # fmt: skip


def _latency(owner: Node, last: Node) -> float | None:
    """From the beginning of a request to the end of what ended last; None where that is not known."""
    if last.unended:
        return None
    told = owner.row["latency_ms"]
    return float(told) if told is not None and last.end <= owner.start + told + SLACK_MS else last.end - owner.start


def _goes_on(node: Node, owner: Node, answered: bool) -> bool:
    """Whether a part shows that its request had not ended: it goes on from within, or it is the first call at all."""
    if node.part not in (CALL, STEP) or node.end <= owner.end + SLACK_MS:
        return False
    return node.start <= owner.end or not answered


def _topmost_failures(request: Request) -> list[Node]:
    """Failed calls, and failed attempts inside one, that are in no other failed one."""
    ours = {id(node) for node in request.members}
    failed: list[Node] = []
    waiting = list(request.owner.below)
    while waiting:
        node = waiting.pop()
        if (
            node.code
            and id(node) in ours
            and (node.part in (CALL, ENTRY) or (node.part == LINK and node.row["status_code"]))
        ):
            failed.append(node)
        else:
            waiting += [child for child in node.below if id(child) in ours or child.part == LINK]
    return failed


def _first_token(owner: Node, calls: Sequence[Node], members: Sequence[Node]) -> float | None:
    """Milliseconds from the beginning of the request to the first token of its first streamed answer."""
    if owner.row["ttft_ms"] is not None:
        return float(owner.row["ttft_ms"])
    streamed = [
        node for node in members if node.row["ttft_ms"] is not None and node.code is None and node.part in (CALL, ENTRY)
    ]
    if not streamed:
        return None
    first = min(streamed, key=lambda node: (node.start + node.row["ttft_ms"], node.id))
    return float(max(first.start - owner.start, 0.0) + first.row["ttft_ms"])


def _version(request: Request) -> Row:
    """Served entity and version: of the first part that names a version itself, those of the endpoint's own first; else the outermost's."""
    ordered = sorted(request.members, key=lambda node: (not node.says("v"), node.row["endpoint"] != request.endpoint))
    return {name: _first(ordered, name) for name in ("model_version", "served_entity")}
