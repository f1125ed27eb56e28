"""`lastgood ...` in the test's own process: the entry point, its words, its exit code; jobs run on the tests' Spark."""

import sys

import pytest

from lastgood.cli.app import main


def lastgood(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["lastgood", *words])
        patch.delenv("COLUMNS", raising=False)  # the width of the terminal that the suite was started in
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err
