"""What the demo sees of itself: verdicts and windows read back from the tables -> the live view and the report."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lastgood import tables
from lastgood.dashboards.report import Report, render
from lastgood.record import metrics
from lastgood.record.metrics import summary
from lastgood.record.verdict import State, Verdict
from lastgood.record.windows import Counts
from lastgood.tables import measures
from lastgood.workspace.local.models import CHAT

SHOWN = ("requests", "p50_ms", "p95_ms", "error_rate", "bad_answers", "tokens_out")
STEPS = ("start", "healthy traffic", "roll out version 3", "watch", "roll back", "verify", "report")
RECENT = 12
"""How many of the newest windows the live view shows."""


@dataclass
class Watch:
    """Verdicts, windows and events so far; `refresh` reads again what has changed."""

    store: tables.Store
    verdicts: list[Verdict] = field(default_factory=list)
    counts: list[Counts] = field(default_factory=list)
    events: list[tuple[datetime, str]] = field(default_factory=list)
    stages: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    told: Callable[[str], None] = lambda line: None
    _versions: tuple[int | None, ...] = ()

    def say(self, text: str) -> None:
        """An event of the story; `told` hears it at once."""
        at = datetime.now(UTC)
        self.events.append((at, text))
        self.told(f"{at:%H:%M:%S} {text}")

    def refresh(self) -> None:
        now = tuple(self.store.home(table).version() for table in (tables.VERDICTS, tables.WINDOWS, tables.QUALITY))
        if now != self._versions:
            self._versions = now
            self.verdicts, self.counts = measures.verdicts(self.store), measures.windows(self.store, CHAT)

    def about(self, version: str) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.endpoint == CHAT and verdict.candidate == version]

    def deciding(self, version: str) -> Verdict:
        """The first verdict that rolls `version` back, else the newest about it."""
        decision = next((verdict for verdict in self.about(version) if verdict.state is State.ROLL_BACK), None)
        return decision or (self.about(version) or self.verdicts)[-1]

    def rows(self, newest: int | None = None) -> list[list[str]]:
        """One row of figures per version, of the `newest` windows or of all."""
        starts = sorted({window.start for window in self.counts})[-(newest or 0) :]
        windows = [window for window in self.counts if window.start in starts and window.model_version != "?"]
        return [
            [version, *_cells(summary([window for window in windows if window.model_version == version]))]
            for version in sorted({window.model_version for window in windows})
        ]

    def header(self) -> tuple[str, ...]:
        return ("version", *(metrics.BY_NAME[name].label for name in SHOWN))

    def view(self, step: str, title: str, version: str, sent: str) -> Group:
        """The terminal view."""
        head = Progress(
            TextColumn("[bold]lastgood demo[/]"), TextColumn(title), BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn()
        )  # fmt: skip
        head.add_task(step, total=len(STEPS), completed=STEPS.index(step))
        head.tasks[0].start_time = head.get_time() - (time.monotonic() - self.started)
        table = Table(expand=True)
        for name in self.header():
            table.add_column(name, justify="left" if name == "version" else "right")
        for row in self.rows(RECENT):
            table.add_row(*row)
        verdicts = self.about(version) or self.verdicts
        verdict = (
            f"[bold]{verdicts[-1].state}[/]  {verdicts[-1].reason}" if verdicts else "waiting for the first verdict"
        )
        stages = "  ".join(f"{name} {took}" for name, took in self.stages.items())
        happened = "\n".join(f"{at:%H:%M:%S} {text}" for at, text in self.events)
        parts = (Panel(verdict, title="verdict"), Panel(happened or " ", title=sent))
        return Group(head, table, *parts, f"[dim]jobs: {stages or 'starting Spark'}[/]")

    def page(self, title: str, headline: str, version: str, outcome: Mapping[str, Any]) -> str:
        """The report as one self-contained HTML page."""
        facts = {name.replace("_", " "): str(value) for name, value in outcome.items() if value is not None}
        shown = {"Versions": (self.header(), self.rows())}
        return render(Report(title, headline, self.counts, self.about(version), self.events, facts, shown))


def _cells(figures: Mapping[str, float | None]) -> Sequence[str]:
    return [metrics.BY_NAME[name].show(figures.get(name)) for name in SHOWN]
