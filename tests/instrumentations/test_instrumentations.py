"""Real packages drive the real receiver: one record for each request, with the figures that the package's spans hold."""

import json
import os
from collections import Counter

import pytest

from benchmarks import instrumentations as driven
from lastgood.collectors.otlp import dialects


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


UNDEFINED = {
    "gen_ai.prompt.0.content", "gen_ai.completion.0.content", "gen_ai.completion.0.finish_reason",  # made of a prefix and a number
    "gen_ai.server.time_to_first_token",  # a metric's name, which spans carry too
    "gen_ai.usage.cache_write.input_tokens",  # the conventions' own repository, whose packages are not out
    "mlflow.model_version",  # a tag of Databricks' own
}  # fmt: skip
"""Names by the conventions that no package defines."""


def test_the_names_that_are_read_are_those_that_the_packages_define() -> None:
    """A name that a package renames is missing from what is made anew."""
    if not driven.PYTHON.exists() and not os.environ.get("LASTGOOD_REQUIRE_SERVERS"):
        pytest.skip(f"no {driven.PYTHON}: `make instrumentations` installs the packages that define names")
    assert driven.names() == (driven.FOLDER / "names.json").read_text(), (
        "python -m benchmarks.instrumentations --names FILE"
    )


def test_every_name_of_the_conventions_is_one_that_a_package_defines() -> None:
    defined = json.loads((driven.FOLDER / "names.json").read_text())["names"]
    own = (dialects.GENAI, dialects.GENAI_FORMER, dialects.MLFLOW, dialects.OPENINFERENCE)
    read = {name for dialect in own for sources in dialect.values() for name, _ in sources}
    assert read - set(defined) == UNDEFINED & read
    assert len(read & set(defined)) > 50


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
