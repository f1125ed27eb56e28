"""Real packages drive the real receiver: one record for each request, with the figures that the package's spans hold."""

import os
from collections import Counter

import pytest

from benchmarks import instrumentations as driven


@pytest.mark.parametrize("dialect", driven.DIALECTS)
def test_every_request_is_one_record_whoever_reports_it(dialect: str) -> None:
    if not driven.PYTHON.exists() and not os.environ.get("LASTGOOD_REQUIRE_SERVERS"):
        pytest.skip(f"no {driven.PYTHON}: `make instrumentations` installs the packages that are driven")
    outcomes = driven.run(dialect)
    assert {outcome.scenario: outcome.wrong() for outcome in outcomes if outcome.wrong()} == {}
    page = (driven.FOLDER.parent.parent / "docs" / "reference" / "instrumentations.md").read_text().splitlines()
    made = driven.page(outcomes, {}).splitlines()
    assert [line for line in made if line.startswith(f"| {dialect} |")] == [
        line for line in page if line.startswith(f"| {dialect} |")
    ]


def test_the_page_has_every_dialect_and_what_is_wrong_shows() -> None:
    page = (driven.FOLDER.parent.parent / "docs" / "reference" / "instrumentations.md").read_text()
    shown = Counter(line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| "))
    assert set(driven.DIALECTS) <= set(shown)
    lost = driven.Outcome("openai-v2", "success", [])
    assert (lost.lost, lost.tokens_wrong, lost.wrong()) == (1, True, ["1 requests lost", "tokens wrong"])
    row = {
        "tokens_in": 11,
        "tokens_out": 5,
        "error_code": None,
        "endpoint": "10.0.0.1",
        "latency_ms": 5.0,
        "ttft_ms": None,
    }
    assert driven.Outcome("openai-v2", "success", [row, row]).wrong() == [
        "1 requests doubled", "tokens wrong", "endpoint 10.0.0.1", "endpoint 10.0.0.1",
    ]  # fmt: skip
