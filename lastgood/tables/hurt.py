"""The requests of two versions, read back without Spark -> which of them the new version hurts (lastgood.judge.slices)."""

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.judge.slices import MOST_VALUES, Attribute, Slice, search
from lastgood.record.fault import fault
from lastgood.tables import Store

MOST_REQUESTS = 60_000
"""The newest so many are looked at."""
COLUMNS = (
    "endpoint",
    "model_version",
    "requested_at",
    "error_code",
    "team",
    "env",
    "requester",
    "streaming",
    "tokens_in",
    "attributes",
    "input",
)
WORDS_FIRST = 3
TOKENS = (100, 300, 1000, 3000, 10_000)
CAUSED = re.compile(
    r"(?:eval|run|label|answer|error|finish|output|usage|completion|response|status|exception)\b", re.IGNORECASE
)
"""Attributes that tell of the answer: a slice is of what was asked."""
SCRIPTS = {
    "Chinese or Japanese": "[\\x{3040}-\\x{30ff}\\x{4e00}-\\x{9fff}]", "Korean": "[\\x{ac00}-\\x{d7af}]", "Cyrillic": "[\\x{0400}-\\x{04ff}]",
    "Arabic": "[\\x{0600}-\\x{06ff}]", "Devanagari": "[\\x{0900}-\\x{097f}]", "Greek": "[\\x{0370}-\\x{03ff}]", "Hebrew": "[\\x{0590}-\\x{05ff}]",
    "Thai": "[\\x{0e00}-\\x{0e7f}]",
}  # fmt: skip
WORDS = {
    "German": "der|die|das|und|ist|nicht|ein|eine|wie|ich|mit|für|auf|bitte|kann|was",
    "French": "le|la|les|des|est|une|je|pour|dans|que|vous|avec|sur|pas|comment",
    "Spanish": "el|los|las|es|una|por|que|para|como|con|del|cómo|qué|puedo|mi",
    "Italian": "il|gli|che|di|per|una|come|con|non|sono|della|posso|mio",
    "Portuguese": "o|os|uma|que|para|como|com|não|do|da|você|posso|meu",
    "Dutch": "de|het|een|en|is|niet|ik|van|voor|met|hoe|kan|mijn",
    "English": "the|and|is|of|to|in|what|how|my|for|you|can|please|it|with",
}
"""Frequent words by which a text's language is guessed."""


def hurt(store: Store, endpoint: str, new: str, prior: str, since: datetime, faults: Collection[str]) -> list[Slice]:
    """Slices of the requests since a moment in which version `new` fails more often than `prior`, the one that explains most first. `faults`: the classes
    of failures that count. Attributes are what requests say of themselves: team, environment, requester, streaming, tokens of the prompt, hour, language
    and first words (where the text was captured) and whatever else a source gave that takes few values. Errors: as the tables' homes."""
    wanted: Any = [("endpoint", "=", endpoint), ("requested_at", ">=", since)]
    rows = store.home(tables.REQUESTS).read(list(COLUMNS), wanted)
    if not rows.num_rows:  # a table that is not there yet has no columns either
        return []
    rows = rows.filter(pc.is_in(rows["model_version"], pa.array([new, prior])))
    if rows.num_rows > MOST_REQUESTS:
        rows = rows.sort_by("requested_at").slice(rows.num_rows - MOST_REQUESTS)
    if not rows.num_rows:
        return []
    seconds = rows["requested_at"].cast(pa.int64()).to_numpy() // 1_000_000
    codes = pc.fill_null(rows["error_code"], "").combine_chunks().dictionary_encode()
    counted = np.array([bool(code) and fault(code) in faults for code in codes.dictionary.to_pylist()])
    bad = counted[codes.indices.to_numpy()]
    return search(
        attributes(rows), pc.equal(rows["model_version"], new).to_numpy(), bad, (seconds - seconds.min()) // 60
    )


def attributes(rows: pa.Table) -> list[Attribute]:
    """What requests say of themselves, each with at most MOST_VALUES values (the most frequent; the others are not known); and every requester, by whom
    versions are compared where routing is sticky."""
    texts = {name: rows[name] for name in ("team", "env", "requester")}
    texts["streaming"] = pc.if_else(pc.fill_null(rows["streaming"], False), "yes", "no")
    texts["hour (UTC)"] = pc.hour(rows["requested_at"]).cast(pa.string())
    tokens = pc.fill_null(rows["tokens_in"], -1).to_numpy()
    names = pa.array([f"up to {TOKENS[0]}", *(f"{a} to {b}" for a, b in pairwise(TOKENS)), f"over {TOKENS[-1]}"])
    places = pa.array(np.searchsorted(TOKENS, tokens), mask=tokens < 0)
    texts["prompt tokens"] = names.take(places)
    texts["language"] = languages(rows["input"])
    texts["prompt begins"] = beginnings(rows["input"])
    for name, column in _given(rows["attributes"]).items():
        if name not in texts or texts[name].null_count == len(rows):  # else a caller's word replaces what is known
            texts[name] = column
    return [*(_coded(name, column) for name, column in texts.items()), _coded("requesters", rows["requester"], 1 << 40)]


def _given(column: pa.ChunkedArray) -> dict[str, pa.Array]:
    """The map of attributes as a column for each name that tells of the request."""
    maps = column.combine_chunks()
    if not len(maps) or maps.null_count == len(maps):
        return {}
    parents = np.repeat(np.arange(len(maps)), np.diff(maps.offsets.to_numpy()))
    keys, items = maps.keys, maps.items
    names = [name for name in pc.unique(keys).to_pylist()[:500] if name and not CAUSED.match(name)]
    made: dict[str, pa.Array] = {}
    for name in names:
        at = pc.equal(keys, name)
        where, values = parents[at.to_numpy(zero_copy_only=False)], items.filter(at)
        if 1 < pc.count_distinct(values).as_py() <= MOST_VALUES:
            place = np.full(len(maps), -1)
            place[where] = np.arange(len(where))
            made[name] = values.take(pa.array(place, mask=place < 0))
    return made


def languages(texts: pa.ChunkedArray) -> pa.Array:
    """The language of each text, guessed by its script, else by frequent words; null where there is no text or no word is known."""
    lower = pc.utf8_lower(pc.utf8_slice_codeunits(texts.combine_chunks(), 0, 400))
    best, most = pa.nulls(len(lower), pa.string()), pa.array(np.zeros(len(lower), np.int64))
    counts = [(name, pc.count_substring_regex(lower, rf"\b(?:{words})\b")) for name, words in WORDS.items()]
    counts += [(name, pc.count_substring_regex(lower, script)) for name, script in SCRIPTS.items()]
    for name, count in counts:
        more = pc.fill_null(pc.greater(count, most), False)
        best, most = pc.if_else(more, name, best), pc.if_else(more, count.cast(pa.int64()), most)
    return best


def beginnings(texts: pa.ChunkedArray) -> pa.Array:
    """The first WORDS_FIRST words of each text, which tell the prompts of one template from others; null where there is no text."""
    lower = pc.utf8_trim_whitespace(pc.utf8_lower(pc.utf8_slice_codeunits(texts.combine_chunks(), 0, 200)))
    return pc.struct_field(
        pc.extract_regex(lower, rf"^(?P<words>\S{{1,40}}(?:\s+\S{{1,40}}){{0,{WORDS_FIRST - 1}}})"), "words"
    )


def _coded(name: str, column: pa.ChunkedArray | pa.Array, most: int = MOST_VALUES) -> Attribute:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    coded = whole.dictionary_encode()
    codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    values: Sequence[str] = coded.dictionary.to_pylist()
    if len(values) > most:
        frequent = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(values)), kind="stable")[:most]
        place = np.full(len(values) + 1, -1)
        place[frequent] = np.arange(most)
        codes, values = place[codes], [values[i] for i in frequent]
    return Attribute(name, values, codes)
