"""Made pairs of answers: what they are worth, what a model that is wrong one time in five says of them, and whom people are asked about."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lastgood.judge.corrected import Judgements

Floats = npt.NDArray[np.float64]
GOOD = 0.8
"""Share of good answers of the prior version."""
EQUAL, HARSH, LENIENT = ((0.2, 0.2), (0.2, 0.2)), ((0.2, 0.2), (0.25, 0.0)), ((0.2, 0.2), (0.15, 0.4))
"""How often the model is wrong of (good, bad) answers of the prior and of the new version: one in five of a version as good as the prior."""
DAY = 86_400.0


@dataclass(frozen=True)
class World:
    """wrong: as EQUAL; drop: in the share of good answers; alike: how often both versions' answers are the same (1: to the same request)."""

    wrong: tuple[tuple[float, float], tuple[float, float]] = EQUAL
    drop: float = 0.0
    alike: float = 0.8
    chance: float = 0.2
    silent: float = 0.0
    """Share of the pairs in question that people do not label; of those whose new answer is bad thrice as many."""


def pairs(world: World, n: int, seed: int) -> Judgements:
    """n pairs, one a minute, labelled within two hours."""
    r = np.random.default_rng(seed)
    good = np.empty((n, 2), bool)
    good[:, 0] = r.random(n) < GOOD
    good[:, 1] = np.where(r.random(n) < world.alike, good[:, 0], r.random(n) < GOOD) & (
        r.random(n) >= world.drop / GOOD
    )
    wrong = np.stack([np.where(good[:, arm], *world.wrong[arm]) for arm in (0, 1)], 1)
    asked = r.random(n) < world.chance
    quiet = r.random(n) < world.silent * np.where(good[:, 1], 1.0, 3.0)
    at = 60.0 * np.arange(n, dtype=np.float64)
    labels = np.where((asked & ~quiet)[:, None], good.astype(float), np.nan)
    labelled = np.where(asked & ~quiet, at + r.random(n) * 7200, np.nan)
    scores = (good ^ (r.random((n, 2)) < wrong)).astype(float)
    return Judgements(at, scores, labels, asked, np.full(n, world.chance), labelled, DAY)
