"""How a version's false-rollback budget is shared out (pure): which judge, since when, and how strong its evidence must be.

The policy's budget (1%: `rollback_e` of 100) is for one version over 30 days, and is renewed every 30 days it goes on serving. It counts
from the newest deployment, which the ledger of configurations knows, so it is the same after a restart and on every replica:

    the scheduled judge has three quarters, the live judge one quarter;
    of each, half is for the first two epochs (a day each; an hour each, live), the other half is spread evenly over all later ones;
    of a live epoch, the first history has 80%; a restart or a second replica begins another one, and these share the rest, each half of
    what the one before it had;
    the first try of a version has 90%, later tries share the rest in the same way.

Every epoch looks at its own and the epoch before, so late evidence is never cut off at an edge.
"""

from datetime import datetime, timedelta

from lastgood.record.verdict import LIVE, SCHEDULED

JUDGES = {SCHEDULED: 0.75, LIVE: 0.25}
EPOCHS = {SCHEDULED: timedelta(days=1), LIVE: timedelta(hours=1)}
RENEWED = timedelta(days=30)
EARLY = 0.5
FIRST_HISTORY, FIRST_TRY = 0.8, 0.9


def _series(first: float, nth: int) -> float:
    """`first` for the first, and the rest for all others together: each half of the one before."""
    return first if nth <= 1 else (1 - first) * 0.5 ** (nth - 1)


def of_try(nth: int) -> float:
    """Share of the budget of the nth try of one version (1, 2, ...): sums to 1."""
    return _series(FIRST_TRY, nth)


def of_history(nth: int) -> float:
    """Share of a live epoch of the nth history that looks at it (1, 2, ...): sums to 1."""
    return _series(FIRST_HISTORY, nth)


def epoch(judge: str, deployed: datetime, now: datetime) -> int:
    """Number of the epoch that `now` is in, from the version's newest deployment."""
    return max(0, int((now - deployed) / EPOCHS[judge]))


def segment(judge: str, deployed: datetime, now: datetime, alone: bool = False) -> tuple[datetime, float]:
    """(where evidence begins, share of the budget it may spend). `alone`: no other judge looks at the version."""
    length, number = EPOCHS[judge], epoch(judge, deployed, now)
    part = EARLY if number < 2 else (1 - EARLY) * (length / RENEWED)
    return deployed + max(0, number - 1) * length, part * (1.0 if alone else JUDGES[judge])
