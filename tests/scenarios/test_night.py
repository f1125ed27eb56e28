"""A night of the on-call engineer, one incident of each kind: `benchmarks.night` plays the large one."""

import logging
from pathlib import Path

import pytest

from benchmarks.night import FAULTS, Night


def test_every_incident_ends_with_a_reason_and_nobody_is_called_in_vain(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    night = Night(tmp_path, len(FAULTS) + 5, len(FAULTS), seed=2, tick_s=120)
    night.run()
    figures = night.figures()
    table = "\n".join(night.table())
    assert figures["incidents"] >= len(FAULTS), table
    promised = (
        "needless_pages",
        "repeated_pages",
        "unpaged_bad_minutes",
        "double_rollbacks",
        "open_without_reason",
        "left_on_bad_without_page",
    )
    needless = [label for label in night.labels if not label[3]]
    assert {name: figures[name] for name in promised} == dict.fromkeys(promised, 0), f"{table}\n{needless}"
    night.acts.close()
