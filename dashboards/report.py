"""Window counts, verdicts and events -> one self-contained HTML page with plots (inline SVG, no script, no network)."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure

from lastgood.judge.intervals import rate_interval
from lastgood.record.metrics import BY_NAME
from lastgood.record.verdict import Verdict
from lastgood.record.windows import Counts, merge
from lastgood.record.words import percent
from lastgood.tables.measures import series

COLOURS = {
    "Healthy": "#2a9d5c",
    "Inconclusive": "#8a8f98",
    "Watch": "#d9a400",
    "Page": "#e07020",
    "RollBack": "#c8293c",
}
PALETTE = ("#2f6db5", "#b0328a", "#6a4fa3", "#11806a", "#8a6d00", "#555555")
TEXT = "#010203"
"""Stands for the colour of the reader's scheme."""
WIDTHS_S = (60, 120, 300, 600, 900, 1800, 3600, 10_800, 21_600, 86_400)
ENOUGH, FEWEST = 60, 8
"""Requests of a version that a point should rest on; points that a line should have."""
AROUND = timedelta(minutes=30)
"""Of the axis on either side of a single moment."""
PANELS = ("requests", "p95_ms", "error_rate", "bad_answers")


@dataclass(frozen=True)
class Answer:
    """The verdict's state, the number and what it is, the metric (of the catalogue) whose plot shows it, and how sure it is."""

    state: str
    number: str
    label: str
    metric: str
    sure: str = ""


@dataclass(frozen=True)
class Shape:
    """Two distributions in the same bins, as `tables.drifted.binned` gives them."""

    title: str
    labels: Sequence[str]
    numeric: bool
    current: Sequence[float]
    reference: Sequence[float]

    @property
    def top(self) -> float:
        return max(*self.current, *self.reference)


@dataclass(frozen=True)
class Report:
    """What the page shows. `facts`: label -> text. `tables`: title -> (header, rows). `events`: (time, text). `verdicts`: over time, the strip.
    `listed`: those of them in words; None: all. `folded`: titles of tables
    behind a fold."""

    title: str
    headline: str
    counts: Sequence[Counts] = ()
    verdicts: Sequence[Verdict] = ()
    events: Sequence[tuple[datetime, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=dict)
    answer: Answer | None = None
    shapes: Sequence[Shape] = ()
    listed: Sequence[Verdict] | None = None
    folded: frozenset[str] = frozenset()


def widened(counts: Sequence[Counts]) -> list[Counts]:
    """The windows, brought to the narrowest width whose points rest on ENOUGH requests of a version (median), while FEWEST points are left."""
    best = list(counts)
    for width in WIDTHS_S:
        if _typical(best) >= ENOUGH:
            break
        wider = [replace(c, start=datetime.fromtimestamp(c.start.timestamp() // width * width, UTC)) for c in counts]
        if len({c.start for c in wider}) < FEWEST:
            break
        best = wider
    return best


def _typical(counts: Sequence[Counts]) -> float:
    total: dict[tuple[str, datetime], float] = {}
    for c in counts:
        total[c.model_version, c.start] = total.get((c.model_version, c.start), 0.0) + c.requests
    return median(total.values()) if total else 0.0


def bar(share: float, limit: float) -> Markup:
    """A bar of 0-1 with a mark at the limit."""
    drawn = Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{:.2f} of 1, limit {:.2f}"><rect class="rail" '
        'width="100" height="10"/><rect class="{}" width="{:.1f}" height="10"/><path d="M{:.1f} 0V10"/></svg>'
    )
    return drawn.format(share, limit, "past" if share > limit else "under", 100 * min(share, 1.0), 100 * limit)


def _svg(figure: Figure) -> str:
    """Text stays text; colours are the page's, for light and dark; names that nothing refers to are left out."""
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lastgood"}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    text = out.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    text = re.sub(r'<g id="[\w.]+">', "<g>", text).replace(TEXT, "currentColor")
    for number, colour in enumerate(PALETTE):
        text = text.replace(colour, f"var(--v{number},{colour})")
    root, rest = text.split(">", 1)
    root = re.sub(r' (?:width|height)="[^"]*"(?= )', "", root)
    return re.sub(r"\n\s*", "\n", f"{root}>{rest}")


def _panel(axis: Any, counts: Sequence[Counts], versions: Sequence[str], starts: Sequence[datetime], name: str) -> None:
    metric = BY_NAME[name]
    scale, unit = (100, "%") if metric.unit == "share" else (1, "per point" if metric.unit == "1" else metric.unit)
    for colour, version in zip(PALETTE, versions, strict=False):
        points = [float("nan") if v is None else v * scale for v in series(counts, version, starts, name)]
        axis.plot(
            starts,
            points,
            color=colour,
            linewidth=1.6,
            label=f"version {version}",
            marker="." if len(starts) < 3 else "",
        )
        if metric.unit == "share":
            bounds = [_interval(counts, version, start, name) for start in starts]
            axis.fill_between(starts, *zip(*bounds, strict=True), color=colour, alpha=0.15, linewidth=0)
    axis.set_title(f"{metric.label} ({unit})", fontsize=11, loc="left", color=TEXT)
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)


def _interval(counts: Sequence[Counts], version: str, start: datetime, name: str) -> tuple[float, float]:
    """Where a share may be in percent (95%)."""
    own = [c for c in counts if c.model_version == version and c.start == start]
    share = BY_NAME[name].of(merge(own)) if own else None
    total = merge(own) if own else None
    n = 0.0 if total is None else total.quality.get("answers", 0.0) if name == "bad_answers" else total.requests
    if share is None or total is None or n <= 0:
        return float("nan"), float("nan")
    n *= total.rows / total.requests
    bounds = rate_interval(n, share * n)
    return (100 * bounds[1], 100 * bounds[2]) if bounds else (float("nan"), float("nan"))


def timeline(
    counts: Sequence[Counts],
    verdicts: Sequence[Verdict],
    events: Sequence[tuple[datetime, str]],
    versions: Sequence[str] = (),
    panels: Sequence[str] = PANELS,
) -> str:
    """Metrics per version over time, shares with where they may be (95%), the verdicts as a band and events as lines (SVG)."""
    starts = sorted({window.start for window in counts})
    versions = list(versions) or sorted({window.model_version for window in counts if window.model_version != "?"})
    shown = [
        name
        for name in panels
        if any(v is not None for version in versions for v in series(counts, version, starts, name))
    ]
    heights = [2.0] * len(shown) + ([0.25] if verdicts else [])
    if not heights:
        return ""
    figure = Figure(figsize=(5.4, 1.6 * len(shown) + 0.8), layout="constrained", facecolor="none")
    grid: Any = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axis, name in zip(grid, shown, strict=False):
        _panel(axis, counts, versions, starts, name)
        for moment, _ in events:
            axis.axvline(moment, color=TEXT, linewidth=0.8, linestyle="--")
    for number, (moment, _) in enumerate(events, 1):
        grid[0].annotate(
            str(number), (moment, 1), xycoords=("data", "axes fraction"), fontsize=10, ha="center", va="bottom", color=TEXT
        )  # fmt: skip
    if verdicts:
        _strip(grid[-1], verdicts, starts)
    for axis in grid:
        axis.set_facecolor("none")
        axis.tick_params(labelsize=10, colors=TEXT)
        for side in axis.spines.values():
            side.set_visible(False)
    grid[-1].set_xlim(*_range([*starts, *(moment for moment, _ in events), *(v.judged_at for v in verdicts)]))
    # With more than two ticks as its least, matplotlib has no step for 2.5 to 5 minutes, hours and days beside at most six.
    locator = AutoDateLocator(minticks=2, maxticks=6)
    grid[-1].xaxis.set_major_locator(locator)
    grid[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))
    grid[-1].xaxis.get_offset_text().set(color=TEXT, size=10)
    return _svg(figure)


def _range(moments: Sequence[datetime]) -> tuple[datetime, datetime]:
    """The axis: all that is drawn, with a margin. matplotlib leaves moments without a value out, and around a single one it draws years."""
    first, last = min(moments), max(moments)
    margin = (last - first) * 0.03 if last - first > timedelta(minutes=1) else AROUND
    return first - margin, last + margin


def _strip(axis: Any, verdicts: Sequence[Verdict], starts: Sequence[datetime]) -> None:
    """Each verdict until the next one; the last until the end, or as wide as it takes to be seen."""
    first = min([verdicts[0].judged_at, *starts])
    end = max([verdicts[-1].judged_at, *starts])
    end = max(end, verdicts[-1].judged_at + (end - first) / 40)
    changes = [
        v for before, v in zip([None, *verdicts], verdicts, strict=False) if before is None or v.state != before.state
    ]
    for verdict, until in zip(changes, [*(v.judged_at for v in changes[1:]), end], strict=True):
        axis.axvspan(verdict.judged_at, until, color=COLOURS[verdict.state], linewidth=0)
    axis.set_yticks([])
    axis.set_title("verdict", fontsize=11, loc="left", color=TEXT)


def render(report: Report) -> str:
    """The page. Everything that came from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("lastgood.dashboards"),
        autoescape=select_autoescape(),
        trim_blocks=True,
    )
    environment.filters["percent"] = percent
    answer = report.answer
    panels = [name for name in PANELS if answer is None or name != answer.metric]
    first = timeline(report.counts, report.verdicts, (), panels=[answer.metric]) if answer and report.counts else ""
    plot = (
        timeline(report.counts, () if first else report.verdicts, report.events, panels=panels) if report.counts else ""
    )
    versions = sorted({window.model_version for window in report.counts if window.model_version != "?"})
    return environment.get_template("report.html").render(
        report=report,
        first=first,
        plot=plot,
        versions=versions[: len(PALETTE)],
        colours=COLOURS,
        states=[state for state in COLOURS if any(verdict.state == state for verdict in report.verdicts)],
        listed=report.verdicts if report.listed is None else report.listed,
    )
