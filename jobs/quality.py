"""Output quality without a model: what answers look like, counted per window (pure, Arrow table to Arrow table; Spark at the end).

A successful answer is bad when it is empty, a refusal, repetitive, cut by length, leaks template tokens, echoes the prompt, is in another
script than the prompt, is not the JSON that was asked for or lacks its required keys, or (with words given) holds one of them. No flag
is proof; the judge compares shares of the new version with the prior version's on the same strata.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lastgood import tables
from lastgood.jobs import counting
from lastgood.jobs.counting import GRAIN, KEY
from lastgood.judge.outcomes import OUTCOMES, SPREAD
from lastgood.record.telemetry import arrow_schema, spark_ddl

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
MOST = 1e12
"""Outcomes above this are no measure of anything (and infinite sums would hide the others)."""
CANNOT = r"(can(no|')t|unable|not able|won't|will not|not allowed|not comfortable)"
OPENING = (
    rf"(?i)^\W*(i'?m|i am|we are) ((really |very |so )?(sorry|afraid)\b[^.!?\n]{{0,80}}\b{CANNOT}|(unable|not able))\b"
)
"""Being sorry is no refusal; being sorry and not able is."""
REFUSAL = (
    r"(?i)\bas an? (ai|language model)\b|\bi can(no|')t (help|assist|answer)"
    r"|^\W*(es )?tut mir leid\b[^.!?\n]{0,60}\bkann ich\b[^.!?\n]{0,60}\bnicht\b|\bich kann (ihnen |dir )?(dabei |damit )?(leider )?nicht (helfen|weiterhelfen)"
    r"|^\W*(je suis )?désolée?[^.!?\n]{0,60}\bne (peux|puis)\b|^\W*lo siento\b[^.!?\n]{0,60}\bno puedo\b"
    r"|^\W*mi dispiace\b[^.!?\n]{0,60}\bnon posso\b|^\W*(desculpe|sinto muito)\b[^.!?\n]{0,60}\bnão posso\b"
    r"|^(很)?(抱歉|对不起)[^。！？\n]{0,40}(不能|无法)|^申し訳[^。！？\n]{0,40}(できません|できない)"
)
TEMPLATE = r"<\|[a-z_]+\|>|\[/?INST\]|(^|[^$])\{\{[^}]*\}\}|<unk>"
CODE = r"(?s)```.*?(```|$)|`[^`\n]*`"
"""Code is shown on purpose: a template in it leaked nothing."""
TRANSLATION = r"(?i)translat|übersetz|traduc|tradui|tradur|перевод|перевед|翻译|翻訳|번역"
SHORT_CHARS = 40
"""An answer that ends by length before this was asked to be short."""
GRAM, LEAST_GRAMS = 4, 60
REFUSAL_CHARS, REPETITION_CHARS, SCRIPT_CHARS, SCRIPT_LETTERS, ECHO_CHARS = 400, 4_000, 200, 20, 20
"""How much of an answer's beginning is looked at: a refusal comes first, and repetition does not wait for page two."""
LEAST_WORDS, DISTINCT_SHARE = 12, 0.35
COUNTED = (*KEY, "weight", "error_code", "output", "input", "finish_reason", "attributes", "requester")
"""Columns of requests that are read."""
SCHEMA = arrow_schema(tables.QUALITY.fields)
FLAGS = ("empty", "refusal", "repetitive", "truncated", "template", "echo", "script", "not_json", "not_schema")
"""Flags in the order of their bits; `toxic` comes after them where words are given."""
MEASURED = (*OUTCOMES, *(f"{name}_sq" for name in SPREAD))
ROWS = 20_000
"""Answers looked at at once: their texts are held."""


def _bools(column: pa.Array) -> Bools:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), bool)


def _repetitive(text: str) -> bool:
    """Few distinct words. Most often the first part of a text has enough of them for the whole: the rest is then not looked at."""
    text = text[:REPETITION_CHARS].lower()
    most = text.count(" ") + text.count("\n") + text.count("\t") + 1
    if most < LEAST_WORDS:
        return len(text) >= LEAST_GRAMS and _grams(text)
    first = set(text[: len(text) // 2].split())
    if len(first) - 1 >= DISTINCT_SHARE * most:  # the last word of the part may be cut
        return False
    words = text.split()
    if len(words) < LEAST_WORDS or len(set(words)) >= DISTINCT_SHARE * len(words):
        return False
    spoken = [word for word in words if any(map(str.isalpha, word))]  # not the bars and figures of a table
    return len(spoken) >= LEAST_WORDS and len(set(spoken)) < DISTINCT_SHARE * len(spoken)


def _grams(text: str) -> bool:
    """Few distinct runs of characters, of a text in a script without spaces; base64 and figures are none."""
    letters = "".join(filter(str.isalpha, text))
    if letters.isascii() or len(letters) < LEAST_GRAMS:
        return False
    grams = [letters[i : i + GRAM] for i in range(len(letters) - GRAM + 1)]
    return len(set(grams)) < DISTINCT_SHARE * len(grams)


@lru_cache(maxsize=20_000)
def _script(letter: str) -> str:
    """Of one character: `latin`, `other`, or "" where it is no letter."""
    if not letter.isalpha():
        return ""
    return "latin" if unicodedata.name(letter, "").startswith("LATIN") else "other"


def _latin(text: str) -> float | None:
    """Share of Latin letters among the letters of a text's beginning; None where there are few."""
    scripts = [script for letter in text[:SCRIPT_CHARS] if (script := _script(letter))]
    return scripts.count("latin") / len(scripts) if len(scripts) >= SCRIPT_LETTERS else None


def _other_script(answer: str, asked: str) -> bool:
    ours, theirs = _latin(answer), _latin(asked)
    return ours is not None and theirs is not None and abs(ours - theirs) > 0.5


def _fails_json(output: str, asked: str) -> tuple[bool, bool]:
    """(is no JSON, lacks a required key), of an answer to `json` or `json:key,key`."""
    try:
        document = orjson.loads(output)
    except orjson.JSONDecodeError:
        return True, False
    required = asked.partition(":")[2]
    return False, bool(required) and not (isinstance(document, dict) and set(required.split(",")) <= document.keys())


def _where(mask: Bools, verdict: Iterable[bool]) -> Bools:
    """A verdict on the rows of `mask`, False elsewhere."""
    out = np.zeros(len(mask), bool)
    out[mask] = np.fromiter(verdict, bool)
    return out


def flags(
    output: pa.Array,
    asked: pa.Array,
    finish_reason: pa.Array,
    attributes: pa.Array,
    banned: tuple[str, ...] = (),
) -> dict[str, Bools]:
    """Flag -> which answers have it. Answers are texts without nulls; `asked` and `finish_reason` may have some."""
    trimmed = pc.utf8_trim_whitespace(output)
    prompt = pc.fill_null(pc.utf8_trim_whitespace(asked), "")
    texts = trimmed.to_pylist()
    beginning = pc.replace_substring(pc.utf8_slice_codeunits(trimmed, 0, REFUSAL_CHARS), "\u2019", "'")
    refused = pc.or_(pc.match_substring_regex(beginning, OPENING), pc.match_substring_regex(beginning, REFUSAL))
    said_no = _bools(pc.equal(_entry(attributes, "refusal"), "1"))
    made = {
        "empty": _bools(pc.equal(trimmed, "")),
        "refusal": _bools(refused) | said_no,
        "repetitive": np.fromiter(map(_repetitive, texts), bool, len(texts)),
        "truncated": _bools(
            pc.and_(
                pc.equal(pc.utf8_lower(finish_reason), "length"), pc.greater_equal(pc.utf8_length(trimmed), SHORT_CHARS)
            )
        ),
        "template": _leaks(output),
        "echo": _echo(texts, trimmed, prompt),
        "script": _other_scripts(texts, trimmed, prompt),
    }
    made |= _json_flags(output, attributes)
    if banned:
        listed = r"(?i)\b(" + "|".join(map(re.escape, banned)) + r")\b"
        made["toxic"] = _bools(pc.match_substring_regex(output, listed))
    return made


def _leaks(output: pa.Array) -> Bools:
    """Template tokens outside code."""
    maybe = _bools(pc.match_substring_regex(output, TEMPLATE))
    bare = pc.replace_substring_regex(output.filter(pa.array(maybe)), CODE, "")
    return _where(maybe, _bools(pc.match_substring_regex(bare, TEMPLATE)).tolist())


def _echo(texts: list[str], trimmed: pa.Array, prompt: pa.Array) -> Bools:
    """The answer begins with the whole prompt; only where their beginnings agree is it looked at in full."""
    begins = pc.equal(pc.utf8_slice_codeunits(trimmed, 0, ECHO_CHARS), pc.utf8_slice_codeunits(prompt, 0, ECHO_CHARS))
    maybe = _bools(pc.and_(begins, pc.greater_equal(pc.utf8_length(prompt), ECHO_CHARS)))
    at = np.flatnonzero(maybe)
    prompts = prompt.take(pa.array(at)).to_pylist()
    return _where(maybe, (texts[i].startswith(asked) for i, asked in zip(at, prompts, strict=True)))


def _other_scripts(texts: list[str], trimmed: pa.Array, prompt: pa.Array) -> Bools:
    """Only a text with characters beyond ASCII can be in another script."""
    wide = pc.or_(
        *(pc.greater(pc.binary_length(side), pc.utf8_length(side).cast(pa.int32())) for side in (trimmed, prompt))
    )
    maybe = _bools(wide)
    asked = prompt.filter(pa.array(maybe))
    maybe[maybe] = ~_bools(pc.match_substring_regex(asked, TRANSLATION))
    at = np.flatnonzero(maybe)
    prompts = prompt.take(pa.array(at)).to_pylist()
    return _where(maybe, (_other_script(texts[i], asked) for i, asked in zip(at, prompts, strict=True)))


def _json_flags(output: pa.Array, attributes: pa.Array) -> dict[str, Bools]:
    asked = pc.coalesce(_entry(attributes, "response_format"), _entry(attributes, "gen_ai.output.type"))
    wanted = _bools(pc.starts_with(asked, "json"))
    at = pa.array(np.flatnonzero(wanted))
    pairs = zip(output.take(at).to_pylist(), asked.take(at).to_pylist(), strict=True)
    verdicts = [_fails_json(*pair) for pair in pairs]
    return {
        "not_json": _where(wanted, (no_json for no_json, _ in verdicts)),
        "not_schema": _where(wanted, (lacks for _, lacks in verdicts)),
    }


def _entry(maps: pa.Array, name: str) -> pa.Array:
    """The entry of that name in each map; null where there is none."""
    if maps.null_count == len(maps):
        return pa.nulls(len(maps), pa.string())
    return pc.map_lookup(maps, name, "first")


def _grained(values: Floats) -> Floats:
    """In multiples of 1 / GRAIN; NaN for what is not finite."""
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(values) < MOST, np.round(values * GRAIN) / GRAIN, np.nan)


def _number(text: str | None) -> float:
    try:
        return np.nan if text is None else float(text)
    except ValueError:
        return np.nan


def _outcomes(attributes: pa.Array) -> tuple[Bools, Bools, dict[str, Floats]]:
    """(which requests have labels or feedback, which have a label's truth, outcome -> value or NaN)."""
    many = len(attributes)
    if attributes.null_count == many:
        return np.zeros(many, bool), np.zeros(many, bool), {}
    truth = _bools(_entry(attributes, "label.truth").is_valid())
    told, known = truth.copy(), {}
    for name, key in OUTCOMES.items():
        values = _entry(attributes, key)
        told |= _bools(values.is_valid())
        if values.null_count < many:
            known[name] = _grained(np.array([_number(value) for value in values.to_pylist()]))
    for name in SPREAD:
        if name in known:
            known[f"{name}_sq"] = _grained(known[name] ** 2)
    return told, truth, known


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def marked(requests: pa.Table, banned: tuple[str, ...] = ()) -> pa.Table:
    """Keyed requests (COUNTED) -> for each that succeeded and has an output or a label: its key, weight, `marks` (a bit for each flag,
    null without an output), and what labels say. Without texts."""
    told, truth, known = _outcomes(_one_chunk(requests["attributes"]))
    seen = _bools(requests["output"].is_valid())
    taken = pa.array(_bools(pc.is_null(requests["error_code"])) & (seen | told))
    shown = requests.filter(pc.and_(taken, pa.array(seen)))
    output, asked, reason, noted = (
        _one_chunk(shown[name]) for name in ("output", "input", "finish_reason", "attributes")
    )
    bits = np.zeros(shown.num_rows, np.int64)
    for i, flagged in enumerate(flags(output, asked, reason, noted, banned).values()):
        bits |= flagged.astype(np.int64) << i
    marks = np.zeros(requests.num_rows, np.int64)
    marks[np.asarray(taken) & seen] = bits
    weight = np.round(requests["weight"].to_numpy().astype(np.float64) * GRAIN) / GRAIN
    made = {name: requests[name] for name in KEY} | {
        "weight": pa.array(weight), "marks": pa.array(marks, mask=~seen), "truth": pa.array(truth),
    }  # fmt: skip
    made |= {name: pa.array(known.get(name, np.full(len(seen), np.nan))) for name in MEASURED}
    who, people = counting.hashed(requests["requester"])
    named = np.asarray(requests["requester"].is_valid().to_numpy())
    made["who"] = people.take(pa.array(who, mask=~named))
    return pa.table(made).filter(taken)


def tallied(requests: pa.Table, banned: tuple[str, ...] = ()) -> pa.Table:
    """What `marked` gives -> rows of the `quality` table."""
    k, keys = counting.grouped(requests)
    many = len(keys["endpoint"])
    seen = _bools(requests["marks"].is_valid())
    marks = pc.fill_null(requests["marks"], 0).to_numpy()
    weight = np.where(seen, requests["weight"].to_numpy(), 0.0)
    sums: dict[str, npt.NDArray[Any]] = {
        "answers": np.bincount(k, weight, many),
        "bad": np.bincount(k, weight * (marks != 0), many),
    }
    for i, name in enumerate((*FLAGS, *(("toxic",) if banned else ()))):
        sums[name] = np.bincount(k, weight * ((marks >> i) & 1), many)
    sums["labelled"] = np.bincount(k, _bools(requests["truth"]), many)
    values = {name: requests[name].to_numpy() for name in MEASURED}
    sums |= {f"{name}_n": np.bincount(k, np.isfinite(values[name]), many) for name in OUTCOMES}
    sums |= {name: np.bincount(k, np.nan_to_num(value), many) for name, value in values.items()}
    who, people = counting.codes(requests["who"])
    known = seen & (who >= 0)
    of_caller = np.stack([weight, weight * (marks != 0)], axis=1)[known]
    return _table(keys, sums, counting.vectors(k[known], who[known], of_caller, many, people))


def count(requests: pa.Table, banned: tuple[str, ...] = ()) -> pa.Table:
    """Keyed requests (COUNTED) -> rows of the `quality` table. Flags are of successful requests whose output was captured (`answers`);
    labels and feedback are counted of all successful requests."""
    return tallied(marked(requests, banned), banned)


def _table(keys: dict[str, pa.Array], sums: Mapping[str, npt.NDArray[Any]], callers: pa.Array) -> pa.Table:
    many = len(keys["endpoint"])
    names = pa.array(list(sums) * many, pa.string())
    items = pa.array(np.stack([np.asarray(each, np.float64) for each in sums.values()], axis=1).ravel())
    maps = pa.MapArray.from_arrays(pa.array(np.arange(many + 1, dtype=np.int32) * len(sums)), names, items)
    made = keys | {"quality": maps, "answer_callers": callers}
    return pa.Table.from_arrays([made[field.name].cast(field.type) for field in SCHEMA], schema=SCHEMA)


def add(parts: pa.Table) -> pa.Table:
    """Rows of `quality`, several of a key -> one of each key. All have the same names in their map."""
    if not parts.num_rows:
        return SCHEMA.empty_table()
    k, keys = counting.grouped(parts)
    maps = _one_chunk(parts["quality"])
    names = maps[0].as_py()
    values = counting.entries(maps)[2].to_numpy().reshape(len(maps), len(names))
    many = len(keys["endpoint"])
    callers = counting.add_vectors(parts["answer_callers"], k, many, 2)
    return _table(keys, {name: np.bincount(k, values[:, i], many) for i, (name, _) in enumerate(names)}, callers)


def count_batches(batches: Iterable[pa.RecordBatch], banned: tuple[str, ...] = ()) -> Iterator[pa.RecordBatch]:
    """Batches of keyed requests -> packed rows of `quality`; a window may come in several parts."""
    narrow = (batch for table in counting.gathered(batches, ROWS) for batch in marked(table, banned).to_batches())
    for table in counting.gathered(narrow, counting.ROWS):
        yield counting.pack(tallied(table, banned))


def quality_flags(requests: "DataFrame", words: tuple[str, ...] = ()) -> "DataFrame":
    """Keyed requests -> rows of the `quality` table, by Spark's workers."""
    packed = requests.select(*COUNTED).mapInArrow(partial(count_batches, banned=words), counting.PACKED)
    together = packed.repartition("bucket").sortWithinPartitions("bucket")
    return together.mapInArrow(partial(counting.add_batches, add=add), spark_ddl(tables.QUALITY.fields))
