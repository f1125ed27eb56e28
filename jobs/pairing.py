"""Answered requests of two versions -> pairs of the same or similar ones, blind to the answers (pure)."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from lastgood.record.windows import stratum


@dataclass(frozen=True)
class Asked:
    """A request that was answered. text: hash of what was asked, None where it is not known; hour: epoch hours; place: its place in the lot."""

    request_id: str
    hour: int
    text: str | None
    tokens_in: float | None
    place: int


@dataclass(frozen=True)
class Matched:
    """Request of the prior version, of the new one, and why they are a pair."""

    prior: str
    new: str
    alike: str


def pairs(prior: Iterable[Asked], new: Iterable[Asked], most: int) -> list[Matched]:
    """At most `most` pairs, each request in one at most: those of the same input first, then of one hour and length of prompt. Which requests of a kind
    meet, and which pairs are taken, is by lot."""
    left, right = ({asked.request_id: asked for asked in sorted(side, key=_lot)} for side in (prior, new))
    chosen: list[Matched] = []
    for alike, kind in (("same", _same), ("similar", _similar)):
        met = sorted(_met(left.values(), right.values(), kind), key=lambda pair: max(_lot(pair[0]), _lot(pair[1])))
        for a, b in islice(met, most - len(chosen)):
            chosen.append(Matched(a.request_id, b.request_id, alike))
            del left[a.request_id], right[b.request_id]
    return chosen


def _lot(asked: Asked) -> tuple[int, str]:
    return asked.place, asked.request_id


def _same(asked: Asked) -> object:
    return asked.text


def _similar(asked: Asked) -> object:
    return asked.hour, stratum("", asked.tokens_in)


def _met(
    left: Collection[Asked], right: Collection[Asked], kind: Callable[[Asked], object]
) -> Iterator[tuple[Asked, Asked]]:
    """The n-th of each kind on one side with the n-th on the other."""
    groups: dict[object, tuple[list[Asked], list[Asked]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((left, right)):
        for asked in rows:
            if (key := kind(asked)) is not None:
                groups[key][side].append(asked)
    for a, b in groups.values():
        yield from zip(a, b, strict=False)


def drawn(pair_id: str, chance: float) -> bool:
    """Whether people are asked about the pair: by a hash, so by nothing that is in it."""
    return int(sha256(f"label {pair_id}".encode()).hexdigest()[:12], 16) / 16**12 < chance
