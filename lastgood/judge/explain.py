"""A verdict -> the evidence it rests on as a short table, and what would change it (pure)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lastgood.judge.streams import CHANGE
from lastgood.record.verdict import Verdict
from lastgood.record.words import counted, percent

COLUMNS = ("metric", "new", "prior", "e-value", "share", "counts as", "what would change it")


@dataclass(frozen=True)
class Explanation:
    """rows: COLUMNS by metric, the strongest first; lines: what holds for all of them."""

    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]


def explain(verdict: Verdict) -> Explanation:
    """Errors: none; a verdict of an earlier release has fewer numbers, and fewer rows."""
    trail: Mapping[str, Any] = verdict.figures.get("trail", {})
    streams, by_metric = trail.get("streams", {}), dict[str, list[tuple[str, Mapping[str, Any]]]]()
    for name, stream in streams.items():
        by_metric.setdefault(stream.get("metric", name), []).append((name, stream))
    rows = []
    for metric, parts in by_metric.items():
        share = sum(stream["share"] for _, stream in parts)
        e = sum(stream["share"] * stream["e"] for _, stream in parts)
        strongest = max(parts, key=lambda part: part[1]["share"] * part[1]["e"])
        rows.append((e, _row(metric, strongest[1], e, share, trail)))
    rows.sort(key=lambda row: row[0], reverse=True)
    return Explanation(tuple(row for _, row in rows), tuple(_lines(verdict, trail)))


def _row(metric: str, stream: Mapping[str, Any], e: float, share: float, trail: Mapping[str, Any]) -> tuple[str, ...]:
    doubts = trail.get("doubts", {}).get(metric, ())
    sound = trail.get("sound", {}).get(metric)
    if metric in CHANGE:
        return metric, _count(stream["new"]), _count(stream["prior"]), _e(e), "-", "a change: watched at most", ""
    counts = _e(sound) if sound is not None else _e(e)
    change = "; ".join(doubts) or (
        f"{counted(float(trail['threshold']) / max(e, 1e-300), 'time')} as much rolls back"
        if "threshold" in trail
        else ""
    )
    return metric, _count(stream["new"]), _count(stream["prior"]), _e(e), percent(share), counts, change


def _count(pair: Any) -> str:
    seen, bad = pair
    return f"{bad:,.0f} of {seen:,.0f} ({percent(bad / seen)})" if seen else "-"


def _e(value: float) -> str:
    return f"{value:,.1f}" if value < 1e9 else f"{value:.0e}"


def _lines(verdict: Verdict, trail: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{verdict.endpoint} version {verdict.candidate} against {verdict.prior}: {verdict.state}. {verdict.reason}"
    ]
    if "threshold" in trail:
        lines.append(
            f"evidence that counts {_e(verdict.e_value)}, a page needs {_e(trail.get('page_threshold', 0))}, a rollback "
            f"{_e(trail['threshold'])} (try {trail.get('attempt', 1)} of this version); {trail.get('blocks', 0)} blocks of requests"
        )
    for why, count in trail.get("left_out", {}).items():
        lines.append(f"{counted(count, 'window')} left out: {why}")
    for side in ("new", "prior"):
        faults = trail.get("faults", {}).get(side) or {}
        if faults:
            lines.append(
                f"failures of the {side} version: "
                + ", ".join(f"{count:,.0f} {kind}" for kind, count in faults.items())
            )
    lines += [f"holds a rollback: {veto}" for veto in verdict.vetoes]
    return lines + ([f"outlook: {verdict.outlook}"] if verdict.outlook else [])
