"""Window counts, verdicts and events -> one self-contained HTML page with plots (inline SVG, no script, no network)."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lastgood.record.metrics import BY_NAME
from lastgood.record.verdict import Verdict
from lastgood.record.windows import Counts
from lastgood.tables.measures import series

COLOURS = {
    "Healthy": "#2a9d5c",
    "Inconclusive": "#8a8f98",
    "Watch": "#d9a400",
    "Page": "#e07020",
    "RollBack": "#c8293c",
}
PALETTE = ("#2f6db5", "#c8293c", "#6a4fa3", "#11806a", "#8a6d00", "#555555")
PANELS = ("requests", "p95_ms", "error_rate", "bad_answers")


@dataclass(frozen=True)
class Report:
    """What the page shows. `facts`: label -> text. `tables`: title -> (header, rows). `events`: (time, text)."""

    title: str
    headline: str
    counts: Sequence[Counts] = ()
    verdicts: Sequence[Verdict] = ()
    events: Sequence[tuple[datetime, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = field(default_factory=dict)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "lastgood"}):
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def timeline(
    counts: Sequence[Counts],
    verdicts: Sequence[Verdict],
    events: Sequence[tuple[datetime, str]],
    names: Sequence[str] = (),
) -> str:
    """Traffic, p95, error rate and bad answers per version over time, with the verdicts as a band and events as lines (SVG)."""
    starts = sorted({window.start for window in counts})
    versions = list(names) or sorted({window.model_version for window in counts if window.model_version != "?"})
    lines = {(version, name): series(counts, version, starts, name) for version in versions for name in PANELS}
    shown = [
        name for name in PANELS if any(value is not None for version in versions for value in lines[version, name])
    ]
    figure = Figure(figsize=(10, 1.9 * len(shown) + 0.7), layout="constrained")
    grid: Any = figure.subplots(
        len(shown) + 1,
        1,
        sharex=True,
        height_ratios=[2] * len(shown) + [0.35],
        squeeze=False,
    )[:, 0]
    for axis, name in zip(grid, shown, strict=False):
        metric = BY_NAME[name]
        scale, unit = (100, "%") if metric.unit == "share" else (1, "per window" if metric.unit == "1" else metric.unit)
        for colour, version in zip(PALETTE, versions, strict=False):
            points = [float("nan") if value is None else value * scale for value in lines[version, name]]
            marker = "." if len(starts) < 3 else ""
            axis.plot(starts, points, color=colour, linewidth=1.6, label=f"version {version}", marker=marker)
        axis.set_ylabel(f"{metric.label} ({unit})", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=8)
        for moment, _ in events:
            axis.axvline(moment, color="#333333", linewidth=0.8, linestyle="--")
    grid[0].legend(fontsize=8, loc="upper left", ncols=len(versions))
    for number, (moment, _) in enumerate(events, 1):
        grid[0].annotate(
            str(number),
            (moment, 1),
            xycoords=("data", "axes fraction"),
            fontsize=8,
            ha="center",
            va="bottom",
        )
    band = grid[-1]
    for i, verdict in enumerate(verdicts):
        until = verdicts[i + 1].judged_at if i + 1 < len(verdicts) else max([verdict.judged_at, *starts[-1:]])
        band.axvspan(verdict.judged_at, until, color=COLOURS[verdict.state], linewidth=0)
    band.set_yticks([])
    band.set_ylabel("verdict", fontsize=8)
    band.tick_params(labelsize=8)
    return _svg(figure)


def render(report: Report) -> str:
    """The page. Everything that came from outside is escaped."""
    environment = Environment(
        loader=PackageLoader("lastgood.dashboards"),
        autoescape=select_autoescape(),
        trim_blocks=True,
    )
    plot = timeline(report.counts, report.verdicts, report.events) if report.counts else ""
    return environment.get_template("report.html").render(report=report, plot=plot, colours=COLOURS)
