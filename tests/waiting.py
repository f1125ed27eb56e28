"""How tests wait: for a condition, not for a time. The limit is there for a hang; a busy machine does not reach it."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

Value = TypeVar("Value")
HANG_S = 400.0
"""No answer within this is a hang (pytest's own limit for a test is above it)."""


def until(done: Callable[[], Value], what: str, every_s: float = 0.05) -> Value:
    """What `done` gives once it is true; a server that does not answer yet counts as not yet."""
    end = time.monotonic() + HANG_S
    while True:
        try:
            if value := done():
                return value
        except httpx.HTTPError:
            pass
        assert time.monotonic() < end, f"not seen within {HANG_S:.0f} s: {what}"
        time.sleep(every_s)
