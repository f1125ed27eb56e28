"""One way to say a share and a number of things."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lastgood.record.words import counted, percent

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "-"), (math.nan, "-"), (0.0, "0%"), (1.0, "100%"), (0.2, "20%"), (0.074, "7.4%"), (0.4839, "48.4%"), (0.004, "0.4%"), (0.00123, "0.12%"),
        (0.00001, "0.001%"), (0.9997, "99.97%"), (0.99999, "99.999%"), (0.1 + 0.2, "30%"), (1.5, "150%"), (-0.02, "-2%"),
    ],
)  # fmt: skip
def test_a_share_in_per_cent(share: float | None, text: str) -> None:
    assert percent(share) == text


@given(st.floats(1e-9, 1 - 1e-9))
def test_a_share_between_reads_neither_nothing_nor_all_and_is_near(share: float) -> None:
    said = float(percent(share).removesuffix("%"))
    assert 0 < said < 100
    assert abs(said - 100 * share) <= 0.0501


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 requests"),
        (1, "1 request"),
        (0.6, "1 request"),
        (1.4, "1 request"),
        (2, "2 requests"),
        (1204.0, "1,204 requests"),
    ],
)
def test_a_number_of_things(number: float, text: str) -> None:
    assert counted(number, "request") == text


def test_other_plurals() -> None:
    assert counted(2, "entry", "entries") == "2 entries"
    assert counted(1, "entry", "entries") == "1 entry"


SOURCES = [
    path
    for folder in ("alerts", "collectors", "dashboards", "jobs", "lastgood")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".html", ".md") and path.name != "words.py" and not path.is_symlink()
]


@pytest.mark.parametrize(
    ("odd", "meaning"),
    [
        (re.compile(r":[^{}\s]*\.\d%\}"), "a share with a format of its own: percent()"),
        (re.compile(r"[0-9}](?: |\u00a0|&nbsp;)%(?=$|[\s.,;:)\"'<|])", re.MULTILINE), "a space before the sign: 7.4%"),
        (re.compile(r"\{\{ ?\"s\" if|\{'s' if|else 's'\}"), "a plural of its own: counted()"),
    ],
)
def test_nothing_says_them_in_a_way_of_its_own(odd: re.Pattern[str], meaning: str) -> None:
    assert len(SOURCES) > 200
    # Jinja's own `}} %}` and the remainder `loop.index0 % 4` are no percentages
    texts = {path: re.sub(r"\{%.*?%\}", "", path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {str(path.relative_to(ROOT)): odd.findall(text) for path, text in texts.items() if odd.search(text)} == {}, (
        meaning
    )
