"""The pages' colours can be read: WCAG 2 contrast of every text colour on every ground it stands on, light and dark."""

import re
from pathlib import Path

import lastgood.alerts.web

STYLE = (Path(next(iter(lastgood.alerts.web.__path__))) / "templates/style.html").read_text()


def luminance(colour: str) -> float:
    value = colour.lstrip("#")
    value = "".join(c * 2 for c in value) if len(value) == 3 else value
    parts = [int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_at_least_4_5() -> None:
    themes = [dict(re.findall(r"--(\w+):(#[0-9a-f]+)", block)) for block in re.findall(r":root\{[^}]+\}", STYLE)]
    assert len(themes) == 3, "light, dark, printed"
    for theme in themes:
        pairs = [(text, ground) for text in ("fg", "soft", "bad", "good", "act") for ground in ("bg", "card")]
        for text, ground in [*pairs, ("on", "act")]:
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
