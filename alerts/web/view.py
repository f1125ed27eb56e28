"""Figures -> what a page shows of them (pure)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from lastgood.record.metrics import BY_NAME

WIDTH, HEIGHT = 300, 48
SHOWN = ("p95_ms", "error_rate", "bad_answers", "tokens_out", "feature_age_p95_ms", "requests")


def when(value: str | datetime | None, zone: tzinfo = UTC) -> str:
    """A moment to the minute, in UTC, after the reader's zone where that is another; a dash when it is not known."""
    if value is None:
        return "-"
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except ValueError:
        return str(value)
    universal = moment.astimezone(UTC)
    if zone is UTC:
        return f"{universal:%Y-%m-%d %H:%M} UTC"
    local = moment.astimezone(zone)
    name = local.tzname() or ""
    if name == "UTC":
        return f"{universal:%Y-%m-%d %H:%M} UTC"
    name = f"UTC{name}" if name.startswith(("+", "-")) else name  # zones without letters are named by their distance
    same_day = local.date() == universal.date()
    return f"{local:%Y-%m-%d %H:%M} {name} ({universal:{'%H:%M' if same_day else '%Y-%m-%d %H:%M'}} UTC)"


def clock(moment: datetime) -> str:
    """A moment to the minute, in UTC, without saying so."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def field(moment: datetime) -> str:
    """A moment as a form's field holds it, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M}"


def short(moment: datetime, others: Sequence[datetime]) -> str:
    """A moment on an axis with others, in UTC: the time where they span no more than two days, else the date."""
    moment = moment.astimezone(UTC)
    return f"{moment:%H:%M}" if max(others) - min(others) <= timedelta(days=2) else f"{moment:%d %b}"


def span(length: timedelta) -> str:
    """A length of time in one unit, two digits where it is short of ten."""
    seconds = max(length.total_seconds(), 0.0)  # clocks of two machines differ
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= unit or unit == 1:
            number = f"{seconds / unit:.2g}" if seconds / unit < 10 else f"{seconds / unit:.0f}"
            return f"{number} {name}" if number == "1" else f"{number} {name}s"
    return "-"


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, in one unit; a dash when it is not known."""
    if moment is None:
        return "-"
    seconds = max((now - moment).total_seconds(), 0)
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit or unit == 60:
            return f"{seconds // unit:.0f} {name}"
    return "-"


def trace(values: Sequence[float], width: int = 84, height: int = 20) -> str:
    """SVG path data of a small line, in whole units: a page of many has to stay small."""
    top, step = max(values, default=0) or 1, width / max(len(values) - 1, 1)
    return "M" + "L".join(f"{i * step:.0f} {height - 1 - (height - 2) * v / top:.0f}" for i, v in enumerate(values))


def dots(values: Sequence[float | None], width: int = 84, height: int = 20) -> str:
    """SVG path data of a small line through the values that are known, however far apart."""
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    top, step = max((value for _, value in known), default=0) or 1, width / max(len(values) - 1, 1)
    return (
        "M" + "L".join(f"{i * step:.0f} {height - 1 - (height - 2) * v / top:.0f}" for i, v in known) if known else ""
    )


def seconds(number: float) -> str:
    """A number of seconds in one unit."""
    return span(timedelta(seconds=number))


def beside(verdict: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(measure, new version, prior version) of a stored verdict, those that are known of either."""
    sides: list[dict[str, Any]] = []
    for side in ("new", "prior"):
        figures = (verdict.get("figures") or {}).get(side)
        sides.append(
            {k: v for k, v in figures.items() if isinstance(v, (int, float))} if isinstance(figures, dict) else {}
        )
    known = [BY_NAME[name] for name in SHOWN if any(name in side for side in sides)]
    return [(m.label, m.show(sides[0].get(m.name)), m.show(sides[1].get(m.name))) for m in known]


def then_and_now(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """(measure, new version then, now, prior version then, now) of two documents with `figures`, those that are known of any."""
    sides = [{label: pair for label, *pair in beside(document)} for document in (then, now)]
    labels = dict.fromkeys([*sides[0], *sides[1]])
    unknown = ["-", "-"]
    rows = []
    for label in labels:
        (new, prior), (new_now, prior_now) = (side.get(label, unknown) for side in sides)
        rows.append((label, new, new_now, prior, prior_now))
    return rows


def story(entries: Sequence[Mapping[str, Any]], zone: tzinfo = UTC) -> list[tuple[str, str, str, str]]:
    """(when, who, what, why) of audit entries."""
    return [
        (
            when(e["at"], zone),
            str(e["who"]),
            str(e["what"]),
            str(e["detail"].get("reason") or e["detail"].get("why") or ""),
        )
        for e in entries
    ]


LEADS = {"errors": "error_rate", "latency": "p95_ms", "ttft": "p95_ms", "quality": "bad_answers"}
"""Metric of a finding -> the measure that shows it."""
UNCERTAIN = timedelta(minutes=2)
"""Requests of so short a time ago may still be on their way."""


def lead(series: Sequence[Mapping[str, Any]], metric: str) -> Mapping[str, Any] | None:
    """The one plot that shows what is wrong."""
    label = BY_NAME[LEADS.get(metric, "error_rate")].label
    drawn = [row for row in series if any(value is not None for value in row["new"])]
    return next((row for row in drawn if row["name"] == label), drawn[0] if drawn else None)


def axis(row: Mapping[str, Any], since: datetime, now: datetime) -> dict[str, Any]:
    """What stands around a plot: the value at its top, the times at its ends, and where along it (0-1, None: not on it) the harm began and
    where values are not complete yet."""
    top = max((value for side in ("new", "prior") for value in row[side] if value is not None), default=0) or 1
    starts: Sequence[datetime] = row.get("starts") or []
    if len(starts) < 2:
        return {"top": top, "first": "", "last": "", "since": None, "uncertain": None}
    first, whole = starts[0], (starts[-1] - starts[0]).total_seconds()

    def at(moment: datetime) -> float | None:
        along = (moment - first).total_seconds() / whole
        return along if 0 <= along <= 1 else None

    return {
        "top": top,
        "first": short(first, starts),
        "last": short(starts[-1], starts),
        "since": at(since),
        "uncertain": at(now - UNCERTAIN),
    }


def framed(series: Sequence[Mapping[str, Any]], since: datetime, now: datetime) -> list[dict[str, Any]]:
    """The rows that have something to draw, each with its `axis`."""
    return [
        {**row, "axis": axis(row, since, now)}
        for row in series
        if any(v is not None for v in (*row["new"], *row["prior"]))
    ]


def sparkline(values: Sequence[float | None], top: float | None = None) -> str:
    """SVG path data of a line; a gap where a value is unknown. `top`: the value at the upper edge."""
    known = [v for v in values if v is not None]
    top = top or max(known, default=0) or 1
    step = WIDTH / max(len(values) - 1, 1)
    parts, pen = [], "M"
    for i, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{i * step:.1f} {HEIGHT - 2 - (HEIGHT - 4) * min(max(value / top, 0), 1):.1f}")
        pen = "L"
    return " ".join(parts)
