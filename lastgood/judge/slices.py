"""Requests of two versions -> the slices of them in which the new one fails more often (pure).

Every value of every attribute, and every pair of values, is a slice with an e-process of its own against "here the new version is no worse".
e-BH (Wang, Ramdas 2022) decides at what level they are named, however they depend: where no slice is hurt, one is named with a probability of at
most `alpha`, however often one looks, because naming one takes a weighted mean of e-processes of at least 1 / alpha (Ville).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lastgood.judge import eprocess
from lastgood.record.words import percent

ALPHA = 0.01
SINGLE = 0.6
"""Share of the weight on slices of one attribute; the rest is on pairs."""
MOST_VALUES, MOST_SLICES = 40, 4000
LONGEST = 60
"""Characters of a name or value in a sentence."""
LEAST = 20
"""Requests of each version that a slice needs."""
SMOOTH = 500.0
"""Requests at the prior's overall rate that are added to those of a slice's."""
UNHURT = 20.0
"""Evidence below which the requests outside a slice count as not hurt."""
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Counts = Ints


@dataclass(frozen=True)
class Attribute:
    """What requests differ in and no answer has caused: `values` by code, the code of each request (-1: not known)."""

    name: str
    values: Sequence[str]
    codes: Ints


@dataclass(frozen=True)
class Slice:
    """`where`: attribute -> value. `new`, `prior`: (bad, seen) inside; `outside`: of the new version's and the prior's other requests. `share`: of
    the new version's requests. `only`: nothing says that the others are hurt."""

    where: Mapping[str, str]
    e_value: float
    new: tuple[int, int]
    prior: tuple[int, int]
    outside: tuple[tuple[int, int], tuple[int, int]]
    share: float
    only: bool

    @property
    def sentence(self) -> str:
        """In words, to stand first."""
        where = ", ".join(f"{_short(name)} {_short(value)}" for name, value in self.where.items())
        rates = " against ".join(percent(bad / seen) for bad, seen in (self.new, self.prior))
        head = "Only" if self.only else "Most of all"
        return f"{head} {where} ({percent(self.share)} of the requests): {rates} fail"


def _short(text: str) -> str:
    """What a caller wrote, on one line and no longer than a line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def search(
    attributes: Sequence[Attribute], new: Bools, bad: Bools, minutes: Ints, alpha: float = ALPHA, tolerance: float = 1.0
) -> list[Slice]:
    """Slices in which the new version fails more than `tolerance` times as often, the one that explains most first.

    new, bad: [requests]; minutes: [requests], counted from the first one judged. Versions are compared within minutes, and within the values of
    attributes along which the new version's share is uneven: else who asks would look like what the version does.
    """
    if not len(new):
        return []
    known = [attribute for attribute in attributes if 1 < len(attribute.values) <= MOST_VALUES]
    groups: list[tuple[Sequence[Attribute], Ints, int]] = [
        ((attribute,), attribute.codes, len(attribute.values)) for attribute in known
    ]
    for a, b in itertools.combinations(known, 2):
        both = np.where((a.codes >= 0) & (b.codes >= 0), a.codes * len(b.values) + b.codes, -1)
        groups.append(((a, b), both, len(a.values) * len(b.values)))
    cells, minute_of = _cells(attributes, new, bad, minutes)
    side = new * 2 + bad
    where: list[dict[str, str]] = []
    totals: list[Counts] = []
    tables: list[Counts] = []
    for members, codes, size in groups:
        total = _counted(codes, side, size)
        table = _counted(
            np.where((codes >= 0) & (cells >= 0), codes * len(minute_of) + cells, -1), side, size * len(minute_of)
        )
        for code in np.flatnonzero((total.sum(2) >= LEAST).all(1)):
            where.append(_named(members, int(code)))
            totals.append(total[code])
            tables.append(table.reshape(size, len(minute_of), 2, 2)[code])
    if not where or not len(minute_of):
        return []
    order = np.argsort([len(each) for each in where], kind="stable")[:MOST_SLICES]
    where, evidence = [where[i] for i in order], np.stack([tables[i] for i in order])
    e_values = _evidence(evidence, minute_of, tolerance)
    weight = _weight(np.array([len(each) for each in where]))
    whole, every = _counted(cells, side, len(minute_of)), _counted(np.zeros_like(side), side, 1)[0]
    overall = float(every[0, 1] / max(1, every[0].sum()))
    cost = 0.5 * math.log(len(new))  # of an attribute more, as BIC has it

    def explains(i: int) -> float:
        return _fit(totals[order[i]], overall) + math.log(weight[i]) - cost * len(where[i])

    made = []
    for i in sorted(_e_bh(weight * e_values, alpha), key=explains, reverse=True):
        elsewhere = _evidence((whole - evidence[i])[None], minute_of, tolerance)[0]
        inside, e_value = totals[order[i]], min(float(e_values[i]), math.exp(eprocess.MAX_LOG))
        share = float(inside[1].sum() / max(1, every[1].sum()))
        made.append(Slice(where[i], e_value, *_sides(inside), _sides(every - inside), share, bool(elsewhere < UNHURT)))
    return made


def _counted(codes: Ints, side: Ints, size: int) -> Counts:
    """Requests by code, version and whether they failed, [size, 2, 2]; those of no code (-1) are left out."""
    use = codes >= 0
    return np.bincount(codes[use] * 4 + side[use], minlength=4 * size).reshape(size, 2, 2)


def _cells(attributes: Sequence[Attribute], new: Bools, bad: Bools, minutes: Ints) -> tuple[Ints, Ints]:
    """(cell of each request, minute of each cell): a minute, and a value of each attribute that is uneven. Cells that hold no evidence (no failure,
    or one version only) are -1."""
    strata = np.zeros(len(new), np.int64)
    for attribute in attributes:
        if _uneven(attribute, new):
            strata = np.unique(strata * (len(attribute.values) + 1) + attribute.codes + 1, return_inverse=True)[1]
    keys, cell = np.unique(minutes * (int(strata.max()) + 1) + strata, return_inverse=True)
    count = _counted(cell, new * 2 + bad, len(keys))
    kept = (count.sum(2) > 0).all(1) & (count[:, :, 1].sum(1) > 0)
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    return place[cell], keys[kept] // (int(strata.max()) + 1)


def _uneven(attribute: Attribute, new: Bools) -> bool:
    """Whether the new version's share differs between the values by more than chance: chi-square, six standard deviations above its mean."""
    use = attribute.codes >= 0
    seen = np.bincount(attribute.codes[use], minlength=1)
    hits = np.bincount(attribute.codes[use], weights=new[use], minlength=1)
    mean = new[use].mean() if use.any() else 0.0
    values = seen > 0
    if values.sum() < 2 or mean in (0.0, 1.0):
        return False
    free = values.sum() - 1
    statistic = ((hits[values] - seen[values] * mean) ** 2 / (seen[values] * mean * (1 - mean))).sum()
    return bool(statistic > free + 6 * math.sqrt(2 * free))


def _named(members: Sequence[Attribute], code: int) -> dict[str, str]:
    if len(members) == 1:
        return {members[0].name: members[0].values[code]}
    first, second = divmod(code, len(members[1].values))
    return {members[0].name: members[0].values[first], members[1].name: members[1].values[second]}


def _evidence(tables: Counts, minute_of: Ints, tolerance: float) -> Floats:
    """E-values [slices] of counts [slices, cells, version, bad]: from the start, and from some later minute on."""
    counts = tables.astype(float).swapaxes(0, 1)
    seen, hits = counts.sum(-1), counts[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(seen.sum(-1) > 0, seen[..., 1] / seen.sum(-1), 0.0)
    logs = eprocess.log_e(share, hits[..., 1], hits.sum(-1), tolerance)
    minutes, begins = np.unique(minute_of, return_index=True)
    logs = np.add.reduceat(logs, begins, axis=0)
    weights: Floats = eprocess.WORSE_WEIGHTS / eprocess.WORSE_WEIGHTS.sum()
    _, values, _ = eprocess.advance(eprocess.start(*logs.shape[1:]), logs, (minutes + 1).astype(np.float64), weights)
    return np.asarray(values[-1])


def _weight(depth: Ints) -> Floats:
    """The weights of slices, which sum to at most 1: SINGLE on those of one attribute together, the rest on pairs."""
    singles, pairs = max(int((depth == 1).sum()), 1), max(int((depth > 1).sum()), 1)
    return np.where(depth == 1, SINGLE / singles, (1 - SINGLE) / pairs)


def _e_bh(weighed: Floats, alpha: float) -> list[int]:
    """Slices that are named: the most k of which each has w e >= 1 / (k alpha)."""
    order = np.argsort(-weighed, kind="stable")
    passes = np.flatnonzero(weighed[order] * np.arange(1, len(order) + 1) >= 1 / alpha)
    return [int(i) for i in order[: passes[-1] + 1]] if len(passes) else []


def _fit(total: Counts, overall: float) -> float:
    """Log-likelihood ratio of "the new version has a rate of its own here" to "it fails as the prior does": of two slices that share most failures, it
    is larger where fewer good requests are taken in. The prior's rate leans on its `overall` one where a slice has few of its requests."""
    (bad, seen), (bad_prior, prior) = _sides(total)
    expected = min(max((bad_prior + SMOOTH * overall) / (prior + SMOOTH), 1e-9), 1 - 1e-9)
    rate = bad / seen
    ratio = bad * math.log(rate / expected) if bad else 0.0
    return ratio + ((seen - bad) * math.log((1 - rate) / (1 - expected)) if bad < seen else 0.0)


def _sides(total: Counts) -> tuple[tuple[int, int], tuple[int, int]]:
    """(bad, seen) of the new version and of the prior."""
    return (int(total[1, 1]), int(total[1].sum())), (int(total[0, 1]), int(total[0].sum()))
