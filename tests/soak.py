"""How much a test repeats: little in the suite, with seeds that stay; SOAK times as much in `make soak`, with seeds of the day."""

import os
import secrets

SOAK = int(os.environ.get("SOAK", "1"))
SOAKING = SOAK > 1


def scaled(number: int) -> int:
    """A number of examples, kills or seeds: as it is in the suite, SOAK times that in `make soak`."""
    return number * SOAK


def seed(fixed: int) -> int:
    """The seed of a random test: always the same in the suite, a new one in `make soak` (a failure prints it)."""
    drawn = secrets.randbelow(2**32) if SOAKING else fixed
    print(f"seed {drawn}")
    return drawn
