"""A Model Context Protocol server over standard input and output: an assistant's questions about endpoints, verdicts, windows, incidents and
drift, answered from the state store and the tables. It cannot act: it opens both for reading and
holds no client of the serving API (a catalog is asked for tables only).
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any

from lastgood import __version__, tables
from lastgood.alerts.brief import read
from lastgood.alerts.store import open_state
from lastgood.alerts.web.pages import leading
from lastgood.errors import ConfigError, LastgoodError
from lastgood.record.metrics import summary
from lastgood.settings import Settings
from lastgood.tables import measures
from lastgood.workspace.stores import tables_of

if TYPE_CHECKING:
    from mcp.server import MCPServer

MOST = 100
"""Rows of an answer: an assistant reads every word."""
INSTRUCTIONS = (
    "Lastgood watches model versions on serving endpoints and rolls bad ones back. Ask `endpoints` first. "
    "Nothing here changes anything: a person decides by the link of an alert or with `lastgood rollback`."
)


class Questions:
    """The tools: every public method is one. Answers are plain JSON values; times are ISO 8601 in UTC, shares 0-1."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._settings, self._clock = settings, clock
        self._state, self._tables = open_state(settings), tables_of(settings)

    def endpoints(self) -> list[dict[str, Any]]:
        """Every endpoint with its newest verdict, the versions compared, the mode and whether an incident is open."""
        with self._state.read() as tx:
            verdicts, opened = [v.as_json() for v in leading(tx.verdicts())], tx.incidents(open_only=True, limit=1000)
        trouble = {incident.endpoint: incident.id for incident in opened}
        return [
            {
                "endpoint": verdict["endpoint"], "verdict": verdict["state"], "reason": verdict["reason"], "new_version": verdict["candidate"],
                "prior_version": verdict["prior"], "judged_at": verdict["judged_at"],
                "mode": str(self._settings.endpoint(verdict["endpoint"]).mode), "open_incident": trouble.get(verdict["endpoint"]),
            }
            for verdict in verdicts
        ]  # fmt: skip

    def verdict(self, endpoint: str) -> dict[str, Any]:
        """The newest verdict on an endpoint: findings with rates of both versions, what holds a rollback, what would change it."""
        with self._state.read() as tx:
            verdicts = [v.as_json() for v in leading(tx.verdicts(endpoint))]
        if not verdicts:
            raise ConfigError(f"no verdict on {endpoint}: ask `endpoints` for those there are")
        chosen = verdicts[0]
        figures = {side: chosen["figures"].get(side) for side in ("new", "prior")}
        kept = (
            "endpoint",
            "candidate",
            "prior",
            "state",
            "reason",
            "judged_at",
            "since",
            "findings",
            "vetoes",
            "outlook",
        )
        return {name: chosen[name] for name in kept} | {"figures": figures}

    def incidents(self, endpoint: str | None = None, ended_too: bool = False) -> list[dict[str, Any]]:
        """Incidents, newest first: id, endpoint, version, since when, why, and how it ended."""
        with self._state.read() as tx:
            rows = tx.incidents(endpoint, open_only=not ended_too, limit=MOST)
        return [
            {
                "id": row.id, "endpoint": row.endpoint, "version": row.candidate, "opened_at": row.opened_at.isoformat(),
                "ended_at": row.resolved_at.isoformat() if row.resolved_at else None, "reason": row.verdict["reason"],
                "acknowledged_by": row.acked_by or None, "resolution": row.resolution or None,
            }
            for row in rows
        ]  # fmt: skip

    def incident_brief(self, incident: str) -> dict[str, Any]:
        """What a person woken by an incident must know: what, since when, who is hit, what changed, what was tried, what next."""
        with self._state.read() as tx:
            row = tx.incident(incident)
            if row is None:
                raise ConfigError(f"no incident {incident}: ask `incidents` for the ids")
            return read(tx, row, self._clock()).as_json()

    def windows(self, endpoint: str, hours: float = 6.0) -> dict[str, dict[str, float | None]]:
        """Latency, errors, tokens, answers and feature age of each version of an endpoint over the newest hours of its data."""
        counts = measures.windows(self._tables, endpoint)
        if not counts:
            raise ConfigError(f"no windows of {endpoint}: ask `endpoints` for those there are")
        since = max(window.start for window in counts) - timedelta(hours=hours)
        newest = [window for window in counts if window.start > since]
        versions = sorted({window.model_version for window in newest})
        return {version: summary([w for w in newest if w.model_version == version]) for version in versions}

    def drift(self, endpoint: str) -> list[dict[str, Any]]:
        """How far each input and output column of the newest version moved, by the newest measurement."""
        rows = self._tables.home(tables.DRIFT).read(filters=[("endpoint", "=", endpoint)]).to_pylist()
        last = max((row["computed_at"] for row in rows), default=None)
        newest = sorted((row for row in rows if row["computed_at"] == last), key=lambda row: -(row["distance"] or 0))
        kept = ("model_version", "against", "kind", "column", "computed_at", "distance", "low", "drifted", "reference")
        return [{name: row[name] for name in kept} for row in newest[:MOST]]


TOOLS = ("endpoints", "verdict", "incidents", "incident_brief", "windows", "drift")


def server(settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> "MCPServer":
    """The server; `.run()` serves standard input and output. Errors: ConfigError without the package mcp."""
    try:
        from mcp.server import MCPServer
        from mcp.types import ToolAnnotations
    except ImportError as error:
        raise ConfigError("mcp is not installed: install lastgood[mcp]") from error
    made, questions = (
        MCPServer("lastgood", version=__version__, instructions=INSTRUCTIONS, log_level="ERROR"),
        Questions(settings, clock),
    )
    for name in TOOLS:
        tool = getattr(questions, name)

        made.tool(
            name, description=tool.__doc__, annotations=ToolAnnotations(readOnlyHint=True), structured_output=False
        )(_plain(tool))
    return made


def _plain(tool: Callable[..., Any]) -> Callable[..., str]:
    """The tool with its answer as JSON text, and a person's mistake as a sentence."""
    from mcp.server.mcpserver.exceptions import ToolError

    @wraps(tool)
    def answer(*args: Any, **kwargs: Any) -> str:
        try:
            return json.dumps(tool(*args, **kwargs), default=str)
        except LastgoodError as error:
            raise ToolError(str(error)) from error

    answer.__annotations__ = {**tool.__annotations__, "return": str}
    return answer
