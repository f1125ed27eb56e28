"""Flags of answers, on Arrow columns."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lastgood.jobs.quality import DISTINCT_SHARE, FLAGS, LEAST_WORDS, REPETITION_CHARS, flags

words = st.lists(st.sampled_from(["a", "b", "A", "ä", "long", "\n", "word"]), max_size=60).map(" ".join)


def flagged(output: str, asked: str | None = None, reason: str | None = None, **noted: str) -> set[str]:
    attributes = pa.array([list(noted.items()) or None], pa.map_(pa.string(), pa.string()))
    columns = (pa.array([value], pa.string()) for value in (output, asked, reason))
    return {name for name, marks in flags(*columns, attributes).items() if marks[0]}


@given(words | st.text(max_size=300))
def test_repetition_is_the_share_of_distinct_words(text: str) -> None:
    seen = text.strip()[:REPETITION_CHARS].lower().split()
    few = len(seen) >= LEAST_WORDS and len(set(seen)) < DISTINCT_SHARE * len(seen)
    plain = all(character in " \n\t" or not character.isspace() for character in text.strip())
    assert not plain or ("repetitive" in flagged(text)) == few


def test_each_flag_is_raised_by_its_text() -> None:
    raised = {
        "empty": flagged(" \n"),
        "refusal": flagged("I'm sorry, but I can't help with that"),
        "repetitive": flagged("so " * 30),
        "truncated": flagged("and then", reason="length"),
        "template": flagged("<|im_start|>assistant hello"),
        "echo": flagged("what is the capital of France? Paris", "what is the capital of France?"),
        "script": flagged("это ответ на совсем другом языке", "a question that is asked in English"),
        "not_json": flagged("yes", response_format="json"),
        "not_schema": flagged('{"b": 1}', response_format="json:a"),
    }
    assert tuple(raised) == FLAGS
    assert all(name in names for name, names in raised.items())
    assert "refusal" in flagged("no", refusal="1")


def test_a_good_answer_has_none() -> None:
    assert not flagged("Paris is the capital of France, on the Seine.", "What is the capital?", "stop")
    assert not flagged('{"a": 1}', "give JSON", "stop", response_format="json:a")
