"""Figures -> what a page shows of them (pure)."""

from collections.abc import Sequence

WIDTH, HEIGHT = 300, 48


def percent(value: float | None) -> str:
    """A share 0-1 in per cent; a dash when it is not known."""
    return "-" if value is None else f"{100 * value:.3g} %"


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
