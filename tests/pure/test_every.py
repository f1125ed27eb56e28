"""Tasks of the service: one that fails is tried again, counted and logged, and ends nobody else's."""

import asyncio
import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from lastgood.errors import TransientError
from lastgood.service import loop
from lastgood.service.serve import every


def test_a_task_that_fails_is_tried_again_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    stop, failed, calls = asyncio.Event(), Counter[str](), Counter[str]()
    faults = [ZeroDivisionError("unforeseen"), TransientError("foreseen"), KeyError("x"), None]

    def ill() -> None:
        calls["ill"] += 1
        if fault := faults[calls["ill"] - 1]:
            raise fault

    def well() -> None:
        calls["well"] += 1

    async def both() -> None:
        async def end() -> None:
            while calls["ill"] < len(faults):
                await asyncio.sleep(0.01)
            stop.set()

        await asyncio.gather(every("ill", 0.01, ill, stop, failed), every("well", 0.01, well, stop, failed), end())

    with caplog.at_level(logging.WARNING):
        asyncio.run(both())
    assert failed == {"ill": 2}
    assert calls["well"] > 1
    assert "ill failed" in caplog.text and "ZeroDivisionError: unforeseen" in caplog.text


def test_a_job_that_fails_however_it_does_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []
    monkeypatch.setitem(loop.JOBS, "collect", lambda _: 1 / 0)
    monkeypatch.setitem(loop.JOBS, "conform", lambda _: None)
    context: Any = SimpleNamespace(span=None, dry_run=False)
    with pytest.raises(ZeroDivisionError):
        loop.run_all(context, ["collect", "conform"], said.append)
    assert [(one["job"], one.get("error")) for one in said] == [
        ("collect", "ZeroDivisionError: division by zero"),
        ("conform", None),
    ]
