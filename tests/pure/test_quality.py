"""Flags of answers, on Arrow columns."""

from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.flags.labelled import Result, answers, measured
from lastgood.errors import ConfigError
from lastgood.jobs import quality
from lastgood.jobs.flags import LEAST_WORDS, LOOPS, flags
from lastgood.record.answer_flags import FLAGS, PROVEN, BadAnswers
from lastgood.settings import load

words = st.lists(st.sampled_from(["a", "b", "A", "long", "\n", "word"]), min_size=13, max_size=60).map(" ".join)


def flagged(output: str, asked: str | None = None, reason: str | None = None, **noted: str) -> set[str]:
    attributes = pa.array([list(noted.items()) or None], pa.map_(pa.string(), pa.string()))
    columns = (pa.array([value], pa.string()) for value in (output, asked, reason))
    return {name for name, marks in flags(*columns, attributes).items() if marks[0]}


@given(
    st.lists(st.sampled_from(["a", "bc", "d", "word"]), min_size=1, max_size=20), st.integers(1, 30), st.integers(0, 60)
)
def test_a_text_that_ends_in_a_loop_is_repetitive(run: list[str], times: int, before: int) -> None:
    """A loop that is most of the text is seen; a text of words of its own, each once, is never one."""
    own = [f"w{i}x" for i in range(before)]
    text = " ".join([*own, *run * times])
    if times > LOOPS and len(run) * times >= max(LEAST_WORDS, 2 * before + len(run)):
        assert "repetitive" in flagged(text)
    assert "repetitive" not in flagged(" ".join(own))


@pytest.mark.parametrize("result", measured(), ids=lambda result: result.flag)
def test_a_flag_makes_an_answer_bad_only_where_it_is_right_on_labelled_answers(result: Result) -> None:
    assert result.texts >= 40
    assert result.recall >= 0.8
    assert (result.precision >= 0.95) == (result.flag in PROVEN)


def test_labelled_answers_are_of_eight_languages_and_of_every_flag() -> None:
    assert {result.flag for result in measured()} == set(FLAGS) - {"toxic"}
    assert len(
        {
            (answer.text, answer.asked, answer.finish_reason, answer.response_format, answer.section)
            for answer in answers()
        }
    ) == len(answers())


INNOCENT = [
    ("I'm sorry for the delay, your parcel arrives tomorrow.", None, "stop"),
    ("I am afraid of spiders, said the boy.", "a story", "stop"),
    ("Use `{{ name }}` in the template.", "Jinja?", "stop"),
    ("```yaml\nif: ${{ github.ref }}\nname: {{ x }}\n```", "GitHub Actions?", "stop"),
    ("run: echo ${{ github.sha }}", "GitHub Actions?", "stop"),
    ("Это очень длинный перевод предложения на русский язык", "Translate to Russian: this is a very long sentence in English", "stop"),
    ("4", "how many? one token", "length"),
    ("| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 20, "a table", "stop"),
    ("0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1", "numbers", "stop"),
    ("Es tut mir leid, dass du warten musstest. Das Paket kommt morgen an.", None, "stop"),
]  # fmt: skip
GUILTY = [
    ("refusal", "I'm sorry, but I can't help with that."), ("refusal", "I am unable to do that."), ("refusal", "I’m afraid I can’t do that"),
    ("refusal", "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen."), ("refusal", "Ich kann dir dabei leider nicht helfen."),
    ("refusal", "Je suis désolé, mais je ne peux pas répondre."), ("refusal", "Lo siento, no puedo ayudar con eso."),
    ("refusal", "Mi dispiace, ma non posso aiutarti."), ("refusal", "Desculpe, mas não posso ajudar."),
    ("refusal", "抱歉，我无法回答这个问题。"), ("refusal", "申し訳ありませんが、お答えできません。"),
    ("repetitive", "我很高兴帮助你" * 20), ("repetitive", "and so on " * 30), ("template", "Hello {{ name }}, welcome"),
    ("template", "<|im_end|> more"), ("truncated", "a long answer that was cut in the middle of its last"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "asked", "reason"), INNOCENT)
def test_the_innocent_are_not_accused(answer: str, asked: str | None, reason: str) -> None:
    assert flagged(answer, asked, reason) == set()


@pytest.mark.parametrize(("flag", "answer"), GUILTY)
def test_what_is_bad_is_seen_in_many_languages(flag: str, answer: str) -> None:
    assert flag in flagged(answer, reason="length" if flag == "truncated" else "stop")


def test_each_flag_is_raised_by_its_text() -> None:
    raised = {
        "empty": flagged(" \n"),
        "refusal": flagged("I'm sorry, but I can't help with that"),
        "repetitive": flagged("so " * 30),
        "truncated": flagged("and then the whole of the answer was cut off in", reason="length"),
        "template": flagged("<|im_start|>assistant hello"),
        "echo": flagged("what is the capital of France? Paris", "what is the capital of France?"),
        "script": flagged("это ответ на совсем другом языке", "a question that is asked in plain words"),
        "not_json": flagged("yes", response_format="json"),
        "not_schema": flagged('{"b": 1}', response_format="json:a"),
    }
    assert (*raised, "toxic") == FLAGS
    assert all(name in names for name, names in raised.items())
    assert "refusal" in flagged("no", refusal="1")


def test_a_good_answer_has_none() -> None:
    assert not flagged("Paris is the capital of France, on the Seine.", "What is the capital?", "stop")
    assert not flagged('{"a": 1}', "give JSON", "stop", response_format="json:a")


keyed_rows = st.lists(
    st.fixed_dictionaries({
        "requester": st.sampled_from(["ann", "bob", None]), "output": st.sampled_from(["", "fine", None]), "weight": st.sampled_from([1.0, 4.0]),
        "model_version": st.sampled_from("12"), "error_code": st.sampled_from([None, None, "HTTP_500"]),
    }),
    min_size=1, max_size=20,
)  # fmt: skip


@given(keyed_rows, st.integers(0, 20))
def test_answers_are_counted_by_requester_also_in_parts(rows: list[dict[str, Any]], cut: int) -> None:
    fixed = {
        "endpoint": "chat",
        "stratum": "?/?",
        "window_start": datetime(2026, 3, 1, tzinfo=UTC),
        "input": "a",
        "finish_reason": "stop",
    }
    kinds = {
        "window_start": pa.timestamp("us", "UTC"),
        "weight": pa.float64(),
        "attributes": pa.map_(pa.string(), pa.string()),
    }
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in quality.COUNTED])
    parts = [pa.Table.from_pylist([fixed | row for row in part], schema) for part in (rows[:cut], rows[cut:])]
    wanted: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["error_code"] is None and row["output"] is not None:
            callers = wanted.setdefault(row["model_version"], {})
            if row["requester"]:
                sums = callers.setdefault(sha256(row["requester"].encode()).hexdigest()[:12], [0.0, 0.0])
                sums[0] += row["weight"]
                sums[1] += row["weight"] * (row["output"] == "")
    for made in (quality.count(pa.concat_tables(parts)), quality.add(pa.concat_tables(map(quality.count, parts)))):
        assert {row["model_version"]: dict(row["answer_callers"]) for row in made.to_pylist()} == wanted


def test_a_flag_can_be_left_out_for_an_endpoint() -> None:
    """It is counted there and makes no answer bad; elsewhere it does. Words of toxic answers count where they are given."""
    settings = load(None, toxic_words=("darn",), endpoints={"proofreader": {"flags_shown_only": ["echo"]}})
    asked = "please correct: this is a text"
    rows = [
        {
            "endpoint": endpoint, "model_version": "1", "stratum": "?/?", "window_start": datetime(2026, 3, 1, tzinfo=UTC), "weight": 1.0,
            "error_code": None, "output": output, "input": asked, "finish_reason": "stop", "attributes": None, "requester": "ann",
        }
        for endpoint in ("proofreader", "chat") for output in (asked, "", "darn it", "fine")
    ]  # fmt: skip
    kinds = {
        "window_start": pa.timestamp("us", "UTC"), "weight": pa.float64(), "attributes": pa.map_(pa.string(), pa.string()),
    }  # fmt: skip
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in quality.COUNTED])
    made = quality.count(pa.Table.from_pylist(rows, schema), settings.bad_answers).to_pylist()
    seen = {row["endpoint"]: dict(row["quality"]) for row in made}
    assert {name: (counts["bad"], counts["echo"], counts["toxic"]) for name, counts in seen.items()} == {
        "chat": (3.0, 1.0, 1.0),
        "proofreader": (2.0, 1.0, 1.0),
    }
    assert BadAnswers().bits("chat") == sum(1 << FLAGS.index(flag) for flag in PROVEN - {"toxic"})


@pytest.mark.parametrize("name", ["ecoh", "EMPTY", ""])
def test_a_flag_that_does_not_exist_is_refused_with_its_key(name: str) -> None:
    with pytest.raises(ConfigError, match="flags_shown_only"):
        load(None, endpoints={"chat": {"flags_shown_only": [name]}})
