"""Sums of agents' runs -> the tables and charts of their page (pure)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lastgood.alerts.web.chart import Chart, Mark, chart, lines
from lastgood.alerts.web.endpoint import SHOWN_VERSIONS, amount
from lastgood.alerts.web.view import span as span_text
from lastgood.record.words import percent
from lastgood.tables.agents import CALLS, RUNS, TALKS, Groups, Sums
from lastgood.tables.history import Span

Value = float | None
Read = Callable[[Sums], Value]


def _share(part: str, of: str) -> Read:
    return lambda sums: sums.share(part, of)


def milliseconds(value: Value) -> str:
    return "-" if value is None else f"{value:,.0f} ms"


def money(value: Value) -> str:
    return "-" if value is None else f"{value:.4f}"


FIGURES: Sequence[tuple[str, str, Read, Callable[[Value], str]]] = (
    ("Runs", "runs", lambda sums: sums.amounts["runs"], amount),
    ("Runs that failed", "error-rate", _share("failed", "runs"), percent),
    ("Runs that loop", "runs", _share("looped", "loops_known"), percent),
    ("Runs that hit a step limit", "runs", _share("step_limited", "runs"), percent),
    ("Tool calls that fail", "tool-calls", _share("tool_failures", "tool_calls"), percent),
    ("Calls of a model per run", "runs", _share("model_calls", "runs"), amount),
    ("Calls of tools per run", "runs", _share("tool_calls", "runs"), amount),
    ("Hand-offs per run", "runs", _share("handoffs", "runs"), amount),
    ("Tokens in per run", "tokens-per-request", _share("tokens_in", "runs"), amount),
    ("Tokens out per run", "tokens-per-request", _share("tokens_out", "runs"), amount),
    ("Latency p95", "latency", lambda sums: sums.p95_ms, milliseconds),
    ("Time in tools", "latency", _share("tool_ms", "busy_ms"), percent),
    ("Cost per run", "cost-by-token", _share("money", "priced"), money),
)  # fmt: skip
"""(figure, its definition, how it comes from sums, how it is shown)."""
CHARTS = ("Runs", "Runs that failed", "Runs that loop", "Tool calls that fail", "Latency p95", "Cost per run")


def beside(whole: Groups, shown: Sequence[str], currency: str) -> list[tuple[str, str, list[str]]]:
    """(figure, its definition, its value for each version) of those that any version has. `whole`: by (version,)."""
    rows = []
    for label, anchor, read, show in FIGURES:
        values = [read(whole[version,]) for version in shown]
        if any(value is not None for value in values):
            rows.append(
                (
                    f"{label} ({currency})" if label == "Cost per run" else label,
                    anchor,
                    [show(value) for value in values],
                )
            )
    return rows


def charts(steps: Groups, span: Span, shown: Sequence[str], marks: Sequence[Mark], currency: str) -> list[Chart]:
    """Those of CHARTS that have something to show."""
    starts, each = span.starts, span_text(span.step).removeprefix("1 ")
    titles = {"Cost per run": f"Cost per run ({currency})", "Runs": f"Runs per {each}"}
    made = [
        chart(
            titles.get(label, label), anchor, starts, span.step,
            lines(steps, shown[:SHOWN_VERSIONS], len(starts), read), show, marks,
        )
        for label, anchor, read, show in FIGURES
        if label in CHARTS
    ]  # fmt: skip
    return [drawn for drawn in made if not drawn.empty]


def runs_csv(groups: Groups) -> tuple[list[str], list[list[Any]]]:
    """By (endpoint, version, agent)."""
    rows = [[*key, *(sums.amounts[name] for name in RUNS), sums.p95_ms] for key, sums in groups.items()]
    return ["endpoint", "model_version", "agent", *RUNS, "p95_ms"], rows


def tools_csv(groups: Groups) -> tuple[list[str], list[list[Any]]]:
    rows = [
        [*key, *(sums.amounts[name] for name in CALLS), sums.p95_ms, _codes(sums.codes)] for key, sums in groups.items()
    ]
    return ["tool", "model_version", *CALLS, "p95_ms", "codes"], rows


def talks_csv(groups: Groups) -> tuple[list[str], list[list[Any]]]:
    return ["model_version", *TALKS], [[*key, *(sums.amounts[name] for name in TALKS)] for key, sums in groups.items()]


def _codes(codes: Mapping[str, float]) -> str:
    return " ".join(
        f"{code}={number:g}" for code, number in sorted(codes.items(), key=lambda item: (-item[1], item[0]))
    )
