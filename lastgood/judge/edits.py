"""The ledger of changes that no configuration tells (prompts, tools, parameters, ...) -> which effective versions are judged, against which (pure)."""

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from lastgood.judge.ledger import Pair, Served
from lastgood.record.contents import MARK, PARTS, base, hash_of

LATELY = timedelta(hours=1)
"""An effective version serves as long as its newest window is at most so much older than the endpoint's."""
ALIKE = 0.5
"""A change takes the place of the content that is most alike, at least so much (0-1): two applications on one endpoint are no change."""
LOOKED_AT = 4_000
"""Characters of two texts that are compared."""
MOST_MATCHES = 20_000
"""Places of two texts that have the same word; where there are more, words and pairs of neighbours are counted, whatever their order."""


@dataclass(frozen=True)
class Change:
    """A content of an endpoint that came: since when, by whom, in the place of which. `parts`: part -> digest; `texts`: part -> text, where kept."""

    content: str
    model_version: str
    since: datetime
    replaces: str | None = None
    who: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


def differing(new: Change, old: Change | None) -> list[str]:
    """The parts in which two contents differ; of a content that replaces none, all that it has."""
    return [part for part in PARTS if new.parts.get(part) != (old.parts.get(part) if old else None)]


def alike(new: Change, old: Change) -> float:
    """How much two contents have in common, 0-1: parts that are the same count whole, other texts as far as their words are the same."""
    shares = []
    for part in sorted({*new.parts, *old.parts}):
        if new.parts.get(part) == old.parts.get(part):
            shares.append(1.0)
        else:
            ours, theirs = (change.texts.get(part, "")[:LOOKED_AT].split() for change in (new, old))
            shares.append(_common(ours, theirs))
    return sum(shares) / len(shares) if shares else 0.0


def _common(ours: list[str], theirs: list[str]) -> float:
    """The share of words that two texts have in common, 0-1."""
    if not ours or not theirs:
        return 0.0
    first, second = Counter(ours), Counter(theirs)
    if sum(first[word] * second[word] for word in first) <= MOST_MATCHES:
        return difflib.SequenceMatcher(None, ours, theirs, autojunk=False).ratio()
    grams = [Counter([*words, *pairwise(words)]) for words in (ours, theirs)]
    return 2 * (grams[0] & grams[1]).total() / (grams[0].total() + grams[1].total())


def replaced(new: Change, known: Iterable[Change]) -> str | None:
    """The content that a new one takes the place of: the most alike, of those the newest; None where none is alike enough.

    A content of one part whose texts are not kept cannot be compared: it takes the place of the newest one, where there is a single one.
    """
    others = [change for change in known if change.content != new.content]
    if not new.texts and len(new.parts) == 1 and len(others) == 1:
        return others[0].content
    best = max(((alike(new, change), change.since, change.content) for change in others), default=None)
    return best[2] if best and best[0] >= ALIKE else None


def refined(
    pairs: Sequence[Pair], traffic: Mapping[str, float], changes: Iterable[Change], served: Sequence[Served]
) -> list[Pair]:
    """Pairs of served versions -> pairs of effective versions, where those are told; the newest deployment first.

    A content that came after its version was deployed is judged against the content whose place it took, under the same version. One that
    came with the version, or before it, is judged against the prior version, under the same content where that served, else under the one
    whose place it took, else, where each of the two versions has a single content, under that.
    traffic: served version -> per cent now. served: effective versions as the windows show them.
    """
    by_content, seen = {change.content: change for change in changes}, {each.version for each in served}
    newest = max((each.last for each in served), default=None)
    now = sorted(
        each.version
        for each in served
        if newest
        and each.last >= newest - LATELY
        and hash_of(each.version) in by_content
        and traffic.get(base(each.version), 0) > 0
    )
    by_version, made = {pair.candidate: pair for pair in pairs}, []
    for version in now:
        own, change = base(version), by_content[hash_of(version) or ""]
        pair = made_of(own, change, by_version.get(own), seen)
        if pair:
            made.append(pair)
    champions = {pair.candidate for pair in made if pair.prior is None} & {pair.prior for pair in made}
    told = {name for version in now for name in (base(version), version)}
    kept = [
        pair
        for pair in pairs
        if pair.candidate not in told or (hash_of(pair.candidate) and pair.candidate not in {p.candidate for p in made})
    ]
    kept += [pair for pair in made if pair.candidate not in champions]
    return sorted(kept, key=lambda pair: (pair.since, pair.candidate), reverse=True)


def made_of(own: str, change: Change, registered: Pair | None, seen: set[str]) -> Pair | None:
    """The pair of one content under a served version; None for the first content of a version that is the champion of others."""
    version = own + MARK + change.content
    later = registered is None or change.since > registered.since
    before = own + MARK + (change.replaces or "")
    if later and before in seen:
        return Pair(version, before, change.since)
    if registered is None:
        return None
    options = [f"{registered.prior}{MARK}{content}" for content in (change.content, change.replaces)]
    ours, theirs = ([each for each in seen if hash_of(each) and base(each) == name] for name in (own, registered.prior))
    if len(ours) == 1 and len(theirs) <= 1 and registered.prior:
        options += theirs or [registered.prior]
    prior = next((option for option in options if option in seen), None)
    return Pair(version, prior, registered.since if prior or not later else change.since)
