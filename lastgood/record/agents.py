"""A request's parts -> what its agents and tools did (pure): calls, failures, loops, hand-offs, time in tools.

A run is a request in which an agent or workflow worked, or a tool was called.
"""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lastgood.record.trees import Node, Request

RUNS = frozenset({"agent", "workflow"})
"""Kinds of step that are a request wherever they are outermost."""
TOOLS, LOOPS = "tools", "loops"
"""Scores of a run, each one unit of evidence whatever the run did: the share of its tool calls that succeeded; 1 where it neither looped nor was
stopped at a limit of steps, else 0 (where arguments are not captured the limit alone counts, so that being known does not depend on the
outcome). Scores of requests (attributes `eval.NAME`) are judged, see `jobs.windows`."""
LOOP = 3
"""A run loops that makes one call, with the same arguments, so many times."""
MAX_NAME = 64
FIGURES = frozenset({
    *(f"run.{name}" for name in ("agent", "agents", "handoffs", "tools", "tool_failures", "repeated", "longest", "tool_ms", "step_limit")),
    f"eval.{TOOLS}", f"eval.{LOOPS}",
})  # fmt: skip
"""Attributes that `told` gives. Nobody else's are read: a sender could tell of runs that were none."""
NAME_PREFIX = r"^(?:execute_tool|invoke_agent|invoke_workflow|create_agent) "
"""What the GenAI conventions put before the name of a tool or an agent in its span's name."""
SERIAL = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|[0-9a-fA-F]{16,}|[0-9]{9,}"
"""Numbers within a name that are new each time: they stand as `*`, so that one tool is one, and names are bounded. Patterns are RE2's and Python's."""
_LIMIT = re.compile("recursion|max_?(?:turns|steps|iterations)|(?:step|usage)_?limit", re.IGNORECASE)
"""Codes of runs that were stopped at a limit of steps."""


def tools(request: "Request") -> "list[Node]":
    """The tool calls of a request; of nested reports of one call the outer, also where steps or other spans stand between them. A call of a
    model or an agent between them makes it another call."""
    calls: list[Node] = []
    ours = {id(node) for node in request.members}
    waiting: list[tuple[Node, Node | None]] = [(request.owner, None)]
    while waiting:
        node, within = waiting.pop()
        if id(node) not in ours:
            continue
        if node.step == "tool":
            if within is None or within.row["step_name"] != node.row["step_name"]:
                calls.append(node)
            within = node
        elif node.part in ("call", "entry") or node.step in RUNS:
            within = None
        waiting += [(child, within) for child in reversed(node.below)]
    return calls


def told(request: "Request") -> list[tuple[str, str]]:
    """Attributes of a run as a whole; none where the request is no run.

    run.agent: the outermost agent or workflow. run.agents: how many there are. run.handoffs: how often another agent began than the one before.
    run.tools, run.tool_failures: tool calls, failed ones. run.repeated: calls made again with the same arguments; run.longest: how often the most
    frequent call was made; both only where arguments are captured. run.tool_ms: time in which a tool ran. run.step_limit: `true` where a limit of
    steps stopped the run.
    """
    used, inside = tools(request), [node for node in request.members if node.step in RUNS]
    if not used and not inside:
        return []
    agents = [node for node in inside if node.step == "agent"]
    failed = sum(node.code is not None for node in used)
    same = Counter((node.row["step_name"], node.row["input"]) for node in used if node.row["input"] is not None)
    longest = max(same.values(), default=None)
    stopped = any(node.code and _LIMIT.search(node.code) for node in request.members)
    looped = stopped or (longest or 0) >= LOOP
    figures: dict[str, Any] = {
        "run.agent": next((node.row["step_name"] for node in (*agents[:1], *inside) if node.row["step_name"]), "")[:MAX_NAME] or None,
        "run.agents": len({node.row["step_name"] for node in agents}) or None, "run.handoffs": _handoffs(agents),
        "run.tools": len(used), "run.tool_failures": failed,
        "run.repeated": None if longest is None else sum(times - 1 for times in same.values()), "run.longest": longest,
        "run.tool_ms": round(covered((node.start, node.end) for node in used), 3), "run.step_limit": "true" if stopped else None,
        f"eval.{TOOLS}": round(1 - failed / len(used), 6) if used else None,
        f"eval.{LOOPS}": int(not looped) if agents or used else None,
    }  # fmt: skip
    return [(name, str(value)) for name, value in figures.items() if value is not None]


def _handoffs(agents: "list[Node]") -> int | None:
    """How often, in order of their beginnings, another agent begins than the one before."""
    names = [node.row["step_name"] for node in sorted(agents, key=lambda node: (node.start, -node.end, node.id))]
    return sum(a != b for a, b in pairwise(names)) if names else None


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end)."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
