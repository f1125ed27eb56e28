"""Healthy history -> how often the judge would have rolled back a healthy version on it, and what would keep the budget (pure)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import beta

from lastgood.judge.columns import Ints
from lastgood.judge.judge import Evidence, History, first_rollback
from lastgood.judge.records import Records, columns_of
from lastgood.settings import Policy

UNITS = ("request", "requester", "pod")
TEMPERINGS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
TOLERANCES = ((1.4, 0.12), (1.6, 0.15), (1.8, 0.2), (2.2, 0.25), (3.0, 0.35))
"""(error ratio, latency share) from mild to lax."""


@dataclass(frozen=True)
class Rate:
    """False rollbacks among splits, with the 95% Clopper-Pearson limits."""

    splits: int
    rollbacks: int

    @property
    def rate(self) -> float:
        return self.rollbacks / self.splits if self.splits else 0.0

    @property
    def low(self) -> float:
        return float(beta.ppf(0.025, self.rollbacks, self.splits - self.rollbacks + 1)) if self.rollbacks else 0.0

    @property
    def high(self) -> float:
        if self.rollbacks >= self.splits:
            return 1.0
        return float(beta.ppf(0.975, self.rollbacks + 1, self.splits - self.rollbacks))


def _owner(records: Records, unit: str) -> Ints:
    """Whose each request is, -1 for nobody's."""
    owner = {"requester": records.who, "pod": records.pod}.get(unit, records.pod[:0])
    return owner if len(owner) else np.full(len(records.at), -1)


def _draw(owner: Ints, share: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(a version per request for those of nobody, a version per owner)."""
    alone = (rng.random(len(owner)) < share).astype(np.int64)
    return alone, (rng.random(int(owner.max(initial=0)) + 1) < share).astype(np.int64)


def labels(records: Records, unit: str, share: float, rng: np.random.Generator) -> Ints:
    """A random split of healthy history: 1 is the pretended new version. Whoever has no requester or pod is drawn by request."""
    owner = _owner(records, unit)
    alone, drawn = _draw(owner, share, rng)
    return np.where(owner >= 0, drawn[np.maximum(owner, 0)], alone)


def owners(records: Records, unit: str) -> int:
    """How many requesters or pods there are to split; 0 where requests are split one by one."""
    owner = _owner(records, unit)
    return len(np.unique(owner[owner >= 0]))


def seeds(records: Records, unit: str, share: float, splits: int, seed: int) -> list[int]:
    """Which of the random splits 0 ... splits - 1 are judged: those that differ, with something on both sides. Few pods have few
    splits (n of them 2^n - 2), and one split judged again is no new evidence."""
    owner, different = _owner(records, unit), dict[bytes, int]()
    present = np.unique(owner[owner >= 0])
    if not len(present) or (owner < 0).any():
        return list(range(splits))
    for i in range(splits):
        drawn = _draw(owner, share, np.random.default_rng([seed, i]))[1][present]
        if drawn.any() and not drawn.all():
            different.setdefault(drawn.tobytes(), i)
    return list(different.values())


def units(records: Records) -> list[str]:
    """By what this history can be split."""
    present = {
        "request": True,
        "requester": bool((records.who >= 0).any()),
        "pod": len(np.unique(records.pod[records.pod >= 0])) > 1,
    }
    return [unit for unit in UNITS if present[unit]]


def _rolls_back(records: Records, arm: Ints, policy: Policy, width: float) -> bool:
    cols = columns_of(records.labelled(arm), width, policy.feature_age_limit_ms)
    return first_rollback(Evidence("", "new", "prior", cols, round(width)), policy, History())[1] is not None


def measure(records: Records, unit: str, policy: Policy, splits: int, share: float, width: float, seed: int,
            tick: Callable[[], None] = lambda: None) -> tuple[Rate, list[int]]:  # fmt: skip
    """The rate over random splits that differ (see seeds), and the seeds of those that rolled back."""
    hits, judged = [], seeds(records, unit, share, splits, seed)
    for i in judged:
        if _rolls_back(records, labels(records, unit, share, np.random.default_rng([seed, i])), policy, width):
            hits.append(i)
        tick()
    return Rate(len(judged), len(hits)), hits


def keeps(rate: Rate, budget: float) -> bool:
    """Whether the measured rate is within the budget, and its upper limit within one and a half times."""
    return rate.rate <= budget and rate.high <= 1.5 * budget


def corrections(policy: Policy) -> Iterator[tuple[str, Policy]]:
    """From the mildest: tempering alone, or tolerances alone; both together would be too conservative."""
    for eta in TEMPERINGS:
        yield f"tempering: {eta}", policy.model_copy(update={"tempering": eta})
    for errors, slow in TOLERANCES:
        new = {"error_tolerance": errors, "latency_tolerance": slow, "quality_tolerance": errors}
        yield f"error_tolerance: {errors}, latency_tolerance: {slow}", policy.model_copy(update=new)


def remedies(records: Records, unit: str, policy: Policy, splits: int, hits: list[int], budget: float, share: float,
             width: float, seed: int) -> dict[str, Rate]:  # fmt: skip
    """The mildest tempering and the mildest tolerance that keep the budget on the splits that rolled back (less evidence on every
    split cannot add others but by its mixtures; run `measure` with the chosen one to confirm)."""
    rates: dict[str, Rate] = {}
    for name, milder in corrections(policy):
        kind = name.split(":", 1)[0]
        if any(name.startswith(kind) for name in rates):
            continue
        drawn = (labels(records, unit, share, np.random.default_rng([seed, i])) for i in hits)
        rate = Rate(splits, sum(_rolls_back(records, arm, milder, width) for arm in drawn))
        if keeps(rate, budget) or not rate.rollbacks:  # few splits cannot show more than none
            rates[name] = rate
    return rates
