"""What an answer looks like, without a model: flags from texts (pure, on Arrow columns).

A flag is a sign, no proof; the judge compares shares of the new version with the prior version's on the same strata. How often each is
right is measured on labelled answers by `python -m benchmarks.flags`. Which of them make an
answer bad: `lastgood.record.answer_flags`.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.jobs import refusals

Bools = npt.NDArray[np.bool_]
INVISIBLE = "[\\s\\p{Z}\\p{Cf}\u3164\u2800]+"
"""Spaces of every kind, joiners, marks of direction, and the two blanks that Unicode calls a letter and a symbol."""
TOKENS = (
    r"<\|[a-zA-Z0-9_]+\|>|<｜[^｜\n]{1,40}｜>|\[/?INST\]|<</?SYS>>|<unk>|<pad>|\[PAD\]|<(start|end)_of_turn>|<[be]os>|^[^<]*</s>|^<s>[^<]*$|(^|\n)### (Instruction|Response|Input|Human|Assistant):"
    r"|\{%-?\s*(if|for|endif|endfor|else|elif|set|block|include)\b[^%]*%\}"
)
PLACEHOLDER = (
    r"(^|[^\w\\$}{\"'>=(/])\{\{(\s*[\p{L}_][\p{L}\w.]*\s*(\|[^{}]*)?|[#/](if|each|unless|with)\b[^{}]*)\}\}"
    r"|(^|[ \n(])\{(\w{1,30}_\w{1,30}|name|context|question|input|query|text|history|documents?|answer|user|product|company)\}([ ,.!?:;)\n]|$)"
)
"""A variable of Jinja, Handlebars or `str.format` that nobody filled in."""
TEMPLATE = rf"{TOKENS}|{PLACEHOLDER}"
TEMPLATES = r"(?i)\{[\w{%]|<\||f-string|format|python|latex|\bcurly|\bbraces?\b|\burls?\b|\bapi\b|\[INST|<<SYS|template|placeholder|jinja|handlebars|mustache|\bvue\b|angular|liquid|helm|prompt|token|vorlage|platzhalter|modèle|plantilla|modello|modelo|шаблон|模板|占位|テンプレート|템플릿"
"""Prompts that speak of templates or tokens: their answers show some on purpose."""
CODE = r"(?s)```.*?(```|$)|`[^`\n]*`"
"""Code is shown on purpose: a template in it leaked nothing, and it is in no language of people."""
CODE_LIKE = r"(?m)^\s*(def |class |import |from \w+ import|SELECT |select |function |const |let |var |public |#include|<[a-zA-Z!/]|[{\[]|https?://)"
OTHER_LANGUAGE = (
    r"(?i)translat|übersetz|traduc|tradui|tradur|перевод|перевед|翻译|翻譯|翻訳|번역|ترجم|अनुवाद|(->|→|\b(in|into|to|auf|ins|en|em|para o))\s+"
    r"(english|russian|chinese|mandarin|japanese|korean|arabic|hindi|greek|hebrew|ukrainian|thai|bulgarian|persian|urdu"
    r"|russisch\w*|chinesisch\w*|japanisch\w*|koreanisch\w*|arabisch\w*|griechisch\w*|ukrainisch\w*|hebräisch\w*"
    r"|russe|chinois|japonais|coréen|arabe|grec|ruso|chino|japonés|coreano|árabe|griego|russo|cinese|giapponese|arabo|greco|chinês|japonês|grego)\b"
    r"|\b(a|an|the|how would a|how do) (russian|chinese|japanese|korean|greek|arab)\b|\b(russian|chinese|japanese|korean|greek|arabic|cyrillic) (word|letter|character|name|text|sentence)"
    r"|(英|法|德|俄|日|韩|西班牙|阿拉伯|意大利|葡萄牙)(文|语|語)|(英|フランス|ドイツ|ロシア|中国|韓国|スペイン|イタリア)語|(영|프랑스|독일|일본|중국|러시아|스페인)어"
    r"|(по-|на )(английск|немецк|французск|испанск|итальянск|китайск|японск|латин)|بال(إنجليزية|فرنسية|ألمانية)|(अंग्रेज़ी|अंग्रेजी) में|στα (αγγλικά|γαλλικά|γερμανικά)"
)
"""Prompts that ask for another language."""
SHORT_CHARS = 40
"""An answer that ends by length before this was asked to be short."""
REFUSAL_CHARS, REPETITION_CHARS, SCRIPT_CHARS = 400, 4_000, 200
"""How much of an answer's beginning is looked at: a refusal comes first, and repetition does not wait for page two."""
SCRIPT_LETTERS, ECHO_BYTES = 20, 20
"""Shorter texts say nothing. A sign of Chinese, Japanese or Korean says as much as two letters: it counts as two, and has three bytes."""
QUOTES = "\"'“”„«»「」> "
LEAST_WORDS, LEAST_LETTERS, DISTINCT_SHARE = 12, 60, 0.5
"""Only a text of so many words (letters, in a script without spaces) of which at most that share is distinct can be caught in a loop."""
LOOPS, LOOPED_SHARE, PERIOD = 4, 0.35, 80
"""A loop is the same run of at most PERIOD words (letters), LOOPS times in a row, in at least that share of the text."""
LEAST_SIGNS, SIGNS_SHARE = 100, 0.8
"""The same for a text of so many signs that has hardly any words: `????`, `ahahah`; not a key, a number or a line to sign on."""


def bools(column: pa.Array) -> Bools:
    """Truths as NumPy has them; null is False."""
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False), bool)


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
    refused_by_field = bools(pc.equal(entry(attributes, "refusal"), "1"))
    cut = pc.and_(
        pc.equal(pc.utf8_lower(finish_reason), "length"), pc.greater_equal(pc.utf8_length(trimmed), SHORT_CHARS)
    )
    made = {
        "empty": _empty(trimmed),
        "refusal": refusals.refused(pc.utf8_slice_codeunits(trimmed, 0, REFUSAL_CHARS)) | refused_by_field,
        "repetitive": _repetitive(texts, trimmed),
        "truncated": bools(cut),
        "template": _leaks(output, prompt),
        "echo": _echo(trimmed, prompt),
        "script": _other_scripts(texts, trimmed, prompt),
    }
    made |= _json_flags(output, attributes)
    if banned:
        listed = r"(?i)\b(" + "|".join(map(re.escape, banned)) + r")\b"
        made["toxic"] = bools(pc.match_substring_regex(output, listed))
    return made


def _empty(trimmed: pa.Array) -> Bools:
    """Nothing that can be seen."""
    short = bools(pc.less_equal(pc.utf8_length(trimmed), 8))
    seen = pc.replace_substring_regex(trimmed.filter(pa.array(short)), INVISIBLE, "")
    return _where(short, bools(pc.equal(seen, "")).tolist())


def _repetitive(texts: list[str], trimmed: pa.Array) -> Bools:
    """Caught in a loop; code, JSON and HTML repeat themselves on purpose."""
    maybe = np.fromiter(map(_few_distinct, texts), bool, len(texts))
    prose = pc.replace_substring_regex(trimmed.filter(pa.array(maybe)), CODE, "").to_pylist()
    return _where(maybe, map(_looped, prose))


def _few_distinct(text: str) -> bool:
    """Most often the first part of a text has enough distinct words for the whole: the rest is then not looked at."""
    text = text[:REPETITION_CHARS].lower()
    most = text.count(" ") + text.count("\n") + text.count("\t") + 1
    if most < LEAST_WORDS:
        return len(text) >= (LEAST_SIGNS if text.isascii() else LEAST_LETTERS)
    first = set(_words(text[: len(text) // 2]))
    if len(first) - 1 >= DISTINCT_SHARE * most:  # the last word of the part may be cut
        return False
    words = _words(text)
    return len(set(words)) < DISTINCT_SHARE * max(len(words), 1)


def _words(text: str) -> list[str]:
    """Not the bars and figures of a table, nor the numbers of a list."""
    return [word for word in text.split() if any(map(str.isalpha, word))]


def _looped(text: str) -> bool:
    text = text[:REPETITION_CHARS].lower().strip()
    if text[:1] in tuple("{[<"):
        return False
    words = _words(text)
    if len(words) >= LEAST_WORDS:
        return _in_loop(words, LEAST_WORDS)
    letters = [letter for letter in text if letter.isalpha()]
    if len(letters) >= LEAST_LETTERS and not "".join(letters).isascii():
        return _in_loop(letters, LEAST_LETTERS // 2)
    parts = text.split()
    signs = list("".join(parts))
    return len(parts) < LEAST_WORDS and len(signs) >= LEAST_SIGNS and _in_loop(signs, LEAST_SIGNS // 2, SIGNS_SHARE)


def _in_loop(units: list[str], least: int, share: float = LOOPED_SHARE) -> bool:
    """Whether the same run of units comes LOOPS times in a row, over at least `least` units and that share of them."""
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(unit, len(numbers)) for unit in units])
    for period in range(1, min(PERIOD, len(codes) // LOOPS) + 1):
        breaks = np.flatnonzero(np.concatenate([[True], codes[period:] != codes[:-period], [True]]))
        longest = int(np.diff(breaks).max()) - 1 + period
        if longest >= max(LOOPS * period, least, share * len(codes)):
            return True
    return False


def _leaks(output: pa.Array, prompt: pa.Array) -> Bools:
    """Template tokens outside code, in answers to prompts that do not speak of such."""
    maybe = bools(pc.match_substring_regex(output, TEMPLATE))
    maybe[maybe] = ~bools(pc.match_substring_regex(prompt.filter(pa.array(maybe)), TEMPLATES))
    bare = pc.replace_substring_regex(output.filter(pa.array(maybe)), CODE, "")
    return _where(maybe, bools(pc.match_substring_regex(bare, TEMPLATE)).tolist())


def _echo(trimmed: pa.Array, prompt: pa.Array) -> Bools:
    """The answer begins with the whole prompt, whatever the case; only where their beginnings agree is it looked at in full."""
    trimmed, prompt = (pc.utf8_ltrim(side, characters=QUOTES) for side in (trimmed, prompt))
    begins = pc.equal(*(pc.utf8_lower(pc.utf8_slice_codeunits(side, 0, ECHO_BYTES // 3)) for side in (trimmed, prompt)))
    maybe = bools(pc.and_(begins, pc.greater_equal(pc.binary_length(prompt), ECHO_BYTES)))
    at = np.flatnonzero(maybe)
    pairs = zip(*(pc.utf8_lower(side.take(pa.array(at))).to_pylist() for side in (trimmed, prompt)), strict=True)
    return _where(maybe, (answer.startswith(asked) for answer, asked in pairs))


@lru_cache(maxsize=20_000)
def _script(letter: str) -> str:
    """Of one character: LATIN, CYRILLIC, CJK, ...; "" where it is no letter. The scripts of Japanese are one with those of Chinese."""
    if not letter.isalpha():
        return ""
    name = unicodedata.name(letter, "").partition(" ")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "IDEOGRAPHIC") else name


def _main_script(text: str, least: int) -> str:
    """The script of more than half of the letters of a text's beginning; "" where there is none, or few letters."""
    scripts = [script for letter in text[:SCRIPT_CHARS] if (script := _script(letter))]
    if len(scripts) + sum(script in ("CJK", "HANGUL") for script in scripts) < least:
        return ""
    often = max(set(scripts), key=scripts.count)
    return often if 2 * scripts.count(often) > len(scripts) else ""


def _names_only(text: str) -> bool:
    """Names, brands and numbers stay in Latin letters in any language: two of three words begin with a capital, more than in German."""
    words = _words(text[:SCRIPT_CHARS])
    return 3 * sum(not word.islower() for word in words) > 2 * len(words)


def _other_script(answer: str, asked: str) -> bool:
    given = _main_script(answer, SCRIPT_LETTERS)
    wanted = given and _main_script(asked, SCRIPT_LETTERS // 2)
    return bool(wanted) and given != wanted and not (given == "LATIN" and _names_only(answer))


def _other_scripts(texts: list[str], trimmed: pa.Array, prompt: pa.Array) -> Bools:
    """In another script than the prompt, which asked for no other language, nor code. Only a text beyond ASCII can be."""
    wide = pc.or_(
        *(pc.greater(pc.binary_length(side), pc.utf8_length(side).cast(pa.int32())) for side in (trimmed, prompt))
    )
    maybe = bools(wide)
    maybe[maybe] = ~bools(pc.match_substring_regex(prompt.filter(pa.array(maybe)), OTHER_LANGUAGE))
    prose = pc.replace_substring_regex(trimmed.filter(pa.array(maybe)), CODE, "")
    prose = pc.if_else(pc.match_substring_regex(prose, CODE_LIKE), "", prose).to_pylist()
    prompts = prompt.filter(pa.array(maybe)).to_pylist()
    return _where(maybe, map(_other_script, prose, prompts))


def _fails_json(output: str, asked: str) -> tuple[bool, bool]:
    """(is no JSON, lacks a required key), of an answer to `json` or `json:key,key`."""
    try:
        document = orjson.loads(output)
    except orjson.JSONDecodeError:
        return True, False
    required = asked.partition(":")[2]
    return False, bool(required) and not (isinstance(document, dict) and set(required.split(",")) <= document.keys())


def _json_flags(output: pa.Array, attributes: pa.Array) -> dict[str, Bools]:
    asked = pc.coalesce(entry(attributes, "response_format"), entry(attributes, "gen_ai.output.type"))
    wanted = bools(pc.starts_with(asked, "json"))
    at = pa.array(np.flatnonzero(wanted))
    pairs = zip(output.take(at).to_pylist(), asked.take(at).to_pylist(), strict=True)
    verdicts = [_fails_json(*pair) for pair in pairs]
    return {
        "not_json": _where(wanted, (no_json for no_json, _ in verdicts)),
        "not_schema": _where(wanted, (lacks for _, lacks in verdicts)),
    }


def entry(maps: pa.Array, name: str) -> pa.Array:
    """The entry of that name in each map; null where there is none."""
    if maps.null_count == len(maps):
        return pa.nulls(len(maps), pa.string())
    return pc.map_lookup(maps, name, "first")
