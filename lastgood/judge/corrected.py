"""Answers that a model judged, a few of them labelled by people too -> bets on "the new version is as good" that the judge's errors cannot bias (pure).

A unit is a pair: an answer of each version to the same or a similar request, judged blindly. Of each pair it was drawn, with a chance known before and
whatever the answers are, whether people label both. With j, h the judge's and the people's difference (new - prior) and p the chance,

    d = c j + (h - c j) / p  where people were asked,  d = c j  where not,   E[d] = E[h]  for every c fixed before the pair

(prediction-powered inference: Angelopoulos et al. 2023, Science 382:669; drawn one by one: Zrnic, Candes 2024; e-values: Csillag, Struchiner, Goedert
2025). c is the regression of h on j over earlier labelled pairs: a judge that is no use is left out, whatever its bias. |d| <= 2 / p - 1, so
1 - lambda (d + tolerance) / (2 / p - 1 + tolerance) is a bet against "h is at least -tolerance on average" (Waudby-Smith, Ramdas 2024).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lastgood.judge.eprocess import LAMBDAS

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
FIRST_C, FIRST_WEIGHT = 0.5, 3.0
"""c before any label, and how much squared difference it weighs."""


@dataclass(frozen=True)
class Judgements:
    """Pairs of one scorer, in the order in which they were judged. at [n]: epoch seconds; scores, labels [n, (prior, new)], 0-1; labels NaN where
    people said nothing; asked [n]: whether they were to; chance [n]: of being asked; labelled_at [n]: when the later label came, NaN where none;
    patience_s: how long after it was judged a pair waits for its labels."""

    at: Floats
    scores: Floats
    labels: Floats
    asked: Bools
    chance: Floats
    labelled_at: Floats
    patience_s: float

    @property
    def silent(self) -> Bools:
        """Pairs of which people were asked and did not say all, or said it too late."""
        late = ~(self.labelled_at <= self.at + self.patience_s)
        return np.asarray(self.asked & (np.isnan(self.labels).any(1) | late))

    def take(self, kept: Bools | slice) -> "Judgements":
        """Only those pairs."""
        arrays: dict[str, Any] = {
            name: value[kept] for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        return replace(self, **arrays)


@dataclass(frozen=True)
class Bets:
    """What each pair adds. at [n]: when it counts, never before an earlier pair; logs [n, LAMBDAS]; values [n, (prior, new)]: estimates whose mean is the
    people's; unlabelled: pairs that people were asked and did not label in time."""

    at: Floats
    logs: Floats
    values: Floats
    unlabelled: int = 0

    @property
    def difference(self) -> tuple[float, float] | None:
        """(mean of new - prior, its standard error); None of fewer than two pairs."""
        apart = self.values[:, 1] - self.values[:, 0]
        return (float(apart.mean()), float(apart.std(ddof=1) / len(apart) ** 0.5)) if len(apart) > 1 else None


def settled(given: Judgements, now: float) -> Judgements:
    """The pairs that count by now: all before the first one that still waits for its labels."""
    waits = given.silent & (given.at + given.patience_s > now)
    return given.take(slice(0, int(np.argmax(waits)) if waits.any() else len(waits)))


def bets(given: Judgements, tolerance: float) -> Bets:
    """Of settled pairs, against "people find the new version worse by at most `tolerance`". Pairs with a chance of 0 say nothing and are left out. Where
    people were asked and were silent, the new version is taken to be right and the prior wrong: what is not labelled cannot speak against it."""
    given = given.take(given.chance > 0)
    silent = given.silent
    labels = np.where(silent[:, None], np.array([0.0, 1.0]), np.nan_to_num(given.labels))
    judged, labelled = given.scores[:, 1] - given.scores[:, 0], labels[:, 1] - labels[:, 0]
    known = given.asked & ~silent
    both = _before(np.where(known, judged * labelled, 0.0)) + FIRST_C * FIRST_WEIGHT
    alone = _before(np.where(known, judged**2, 0.0)) + FIRST_WEIGHT
    c = np.clip(both / alone, 0.0, 1.0)[:, None]
    asked, chance = given.asked[:, None], given.chance[:, None]
    values = c * given.scores + np.where(asked, (labels - c * given.scores) / chance, 0.0)
    reach = 2 / given.chance - 1
    loss = -(values[:, 1] - values[:, 0] + tolerance) / (reach + tolerance)
    labelled_at = np.fmax(
        given.labelled_at, given.at
    )  # a label may be older than the judgement: nothing was known of the pair before
    moments = np.where(given.asked, np.where(silent, given.at + given.patience_s, labelled_at), given.at)
    return Bets(np.maximum.accumulate(moments), np.log1p(LAMBDAS * loss[:, None]), values, int(silent.sum()))


def _before(values: Floats) -> Floats:
    """Sums of all earlier ones."""
    return np.concatenate([[0.0], np.cumsum(values)[:-1]]) if len(values) else values
