"""What makes a version beside the registered one: read of bodies and spans alike, digests that templates do not move, pairs by content."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from lastgood.collectors.otlp.capture import Rules, redact
from lastgood.collectors.otlp.columns import TraceDecoder
from lastgood.collectors.otlp.rows import SpanDecoder
from lastgood.judge.edits import Change, refined, replaced
from lastgood.judge.ledger import Pair, Served
from lastgood.record import contents
from lastgood.record.redact import Capture, Redactor

T = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOOL = {"name": "look_up", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}
BODY = {
    "model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    "temperature": 0, "max_tokens": 50, "tools": [{"type": "function", "function": TOOL}],
}  # fmt: skip
SPANS = {
    "conventions": {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.request.temperature": 0.0, "gen_ai.request.max_tokens": 50,
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]), "gen_ai.tool.definitions": json.dumps([TOOL]),
    },
    "conventions, in messages": {
        "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.request.temperature": 0.0, "gen_ai.request.max_tokens": 50,
        "gen_ai.input.messages": json.dumps([
            {"role": "system", "parts": [{"type": "text", "content": "Be brief."}]}, {"role": "user", "parts": [{"type": "text", "content": "hi"}]},
        ]), "gen_ai.tool.definitions": json.dumps([{"type": "function", "function": TOOL}]),
    },
    "openinference": {
        "openinference.span.kind": "LLM", "llm.invocation_parameters": json.dumps({"model": "m", "temperature": 0.0, "max_tokens": 50}),
        "llm.input_messages.0.message.role": "system", "llm.input_messages.0.message.content": "Be brief.",
        "llm.input_messages.1.message.role": "user", "llm.input_messages.1.message.content": "hi",
        "llm.tools.0.tool.json_schema": json.dumps({"type": "function", "function": TOOL}),
    },
    "openllmetry": {
        "llm.request.type": "chat", "gen_ai.request.model": "m", "gen_ai.request.temperature": 0.0, "gen_ai.request.max_tokens": 50,
        "gen_ai.prompt.0.role": "system", "gen_ai.prompt.0.content": "Be brief.", "gen_ai.prompt.1.role": "user", "gen_ai.prompt.1.content": "hi",
        "gen_ai.tool.definitions": json.dumps([TOOL]),
    },
    "mlflow": {"mlflow.spanType": "CHAT_MODEL", "mlflow.spanInputs": json.dumps(BODY)},
}  # fmt: skip


def digests(told: contents.Contents) -> dict[str, str]:
    return {name: value for name, value in contents.attributes(told, set()) if name in contents.DIGESTS}


@pytest.mark.parametrize("dialect", SPANS)
def test_a_span_and_the_body_of_one_request_tell_the_same(dialect: str) -> None:
    assert digests(contents.of_span(SPANS[dialect])) == digests(contents.of_body(json.dumps(BODY)))


@pytest.mark.parametrize(
    "same",
    [
        {**BODY, "messages": [{"role": "developer", "content": [{"type": "text", "text": "Be  brief.\n"}]}, {"role": "user", "content": "other"}]},
        {"model": "m", "instructions": "Be brief.", "input": [{"role": "user", "content": "x"}], "temperature": 0.0, "max_output_tokens": 50, "tools": [TOOL]},
        {"model": "m", "system": [{"type": "text", "text": "Be brief."}], "messages": [], "temperature": 0, "max_tokens": 50, "tools": [TOOL], "seed": 4},
    ],
)  # fmt: skip
def test_one_question_in_other_words_of_an_interface_is_the_same_version(same: dict[str, object]) -> None:
    assert digests(contents.of_document(same)) == digests(contents.of_document(BODY))


@pytest.mark.parametrize("part", ["prompt", "tools", "parameters", "route"])
def test_an_edit_changes_its_part_alone(part: str) -> None:
    edited = {
        "prompt": {"messages": [{"role": "system", "content": "Be BRIEF."}]}, "tools": {"tools": [{**TOOL, "description": "x"}]},
        "parameters": {"temperature": 0.1}, "route": {"model": "other"},
    }[part]  # fmt: skip
    ours, theirs = digests(contents.of_document(BODY)), digests(contents.of_document({**BODY, **edited}))
    assert {name for name in ours if ours[name] != theirs[name]} == {contents.PREFIX + part}


def test_what_a_template_fills_in_is_no_edit_but_a_number_of_the_prompt_is() -> None:
    prompts = [
        "You are Ada. It is Sunday, November 29, 2026, 10:21 am. Session 3f2504e0-4f89-11d3-9a0c-0305e82c3301 of ada@example.org. At most 50 words.",
        "You are Ada. It is Monday, 30 Nov 2026, 7:05. Session 99999999-4f89-11d3-9a0c-0305e82c33ff of bob.b@example.com. At most 50 words.",
        "You are Ada. It is Tuesday, 2026-12-01T08:00:00Z, 8:00. Session 00000000-4f89-11d3-9a0c-0305e82c33ff of c@d.de. At most 50 words.",
    ]
    assert len(set(map(contents.digest, prompts))) == 1
    assert contents.digest(prompts[0]) != contents.digest(prompts[0].replace("50 words", "500 words"))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("Sun, 29 Nov 2026 03:22:48 GMT", "Mon, 30 Nov 2026 04:00:01 GMT"), ("Sun Nov 29 03:22:48 2026", "Fri Jan  1 03:22:48 2027"),
        ("Sun Nov 29 2026 9:10:11", "Mon Nov 30 2026 9:10:12"), ("3:22:48\u202fPM", "4:00:00\u202fAM"), ("2026/11/29", "2026/12/1"),
        ("epoch 1764386568.123", "epoch 1764386999.9"), ("user_123456789012", "user_999956789012"),
    ],
)  # fmt: skip
def test_moments_and_ids_in_the_forms_that_libraries_print_are_no_edit(ours: str, theirs: str) -> None:
    assert contents.digest(f"Be kind. {ours} Be brief.") == contents.digest(f"Be kind. {theirs} Be brief.")


@pytest.mark.parametrize(
    "words",
    ["Mark {} answers", "Decide {} times", "Augment {} rows", "Marble {}", "{} Marks", "Janes {}", "Sun {}", "at 1.{}"],
)
def test_words_that_begin_as_months_do_hide_no_number(words: str) -> None:
    assert contents.digest(words.format(4)) != contents.digest(words.format(5))


GEMINI = {
    "contents": [{"role": "user", "parts": [{"text": "hi"}]}], "systemInstruction": {"parts": [{"text": "Be brief."}]}, "model": "m",
    "generationConfig": {"temperature": 0, "maxOutputTokens": 50}, "tools": [{"functionDeclarations": [TOOL]}],
}  # fmt: skip


@pytest.mark.parametrize(
    "same",
    [
        GEMINI,
        {**GEMINI, "generationConfig": None, "generation_config": {"temperature": 0.0, "max_output_tokens": 50}, "tools": [{"function_declarations": [TOOL]}]},
        {**BODY, "tools": [{"type": "function", **TOOL, "strict": None}]},
        {**BODY, "tools": [{"name": "look_up", "input_schema": TOOL["parameters"], "cache_control": {"type": "ephemeral"}}]},
    ],
)  # fmt: skip
def test_tools_and_parameters_of_every_interface_are_read_alike(same: dict[str, object]) -> None:
    assert digests(contents.of_document(same)) == digests(contents.of_document(BODY))


@pytest.mark.parametrize(
    "more",
    [
        {"reasoning": {"effort": "high"}}, {"text": {"format": {"type": "json_schema"}}}, {"thinking": {"type": "enabled", "budget_tokens": 9}},
        {"generationConfig": {"topP": 0.1}}, {"generationConfig": {"responseSchema": {}}}, {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}},
    ],
)  # fmt: skip
def test_parameters_that_only_one_interface_has_are_parameters(more: dict[str, object]) -> None:
    assert digests(contents.of_document({**BODY, **more})) != digests(contents.of_document(BODY))
    assert digests(contents.of_document({**BODY, "text": "a question"})) == digests(contents.of_document(BODY))


def test_the_order_of_geminis_tools_is_no_edit() -> None:
    both = [TOOL, {"name": "other"}]
    ours, theirs = ({**GEMINI, "tools": [{"functionDeclarations": given}]} for given in (both, both[::-1]))
    assert digests(contents.of_document(ours)) == digests(contents.of_document(theirs))


@pytest.mark.parametrize(
    "told",
    [
        contents.of_document({"messages": [[{"type": "system", "content": "Be brief."}, {"type": "human", "content": "hi"}]]}),
        contents.of_span({"mlflow.spanInputs": json.dumps([[{"type": "system", "content": "Be brief."}]])}),
        contents.of_span({
            "llm.input_messages.0.message.role": "system", "llm.input_messages.0.message.contents.0.message_content.type": "text",
            "llm.input_messages.0.message.contents.0.message_content.text": "Be", "llm.input_messages.0.message.contents.1.message_content.text": "brief.",
        }),
    ],
)  # fmt: skip
def test_a_system_prompt_is_found_in_langchains_messages_and_in_openinferences_parts(told: contents.Contents) -> None:
    assert digests(told)[contents.PREFIX + "prompt"] == contents.digest("Be brief.")


def test_bedrocks_parameters_and_tools_are_read() -> None:
    body = {
        "modelId": "m", "system": [{"text": "Be brief."}], "messages": [], "inferenceConfig": {"temperature": 0, "maxTokens": 50},
        "toolConfig": {"tools": [{"toolSpec": {"name": "look_up"}}]},
    }  # fmt: skip
    told = contents.of_document(body)
    assert (told["prompt"], told["parameters"]) == ("Be brief.", "max_tokens=50.0\ntemperature=0.0")
    assert "look_up" in told["tools"]


def test_half_an_emoji_in_a_question_does_not_hide_its_prompt() -> None:
    asked = {**BODY, "messages": [*BODY["messages"][:1], {"role": "user", "content": "cut \ud83d"}]}
    assert digests(contents.of_body(json.dumps(asked))) == digests(contents.of_document(BODY))
    for odd in (
        '{"messages": [], "top_p": NaN, "top_k": 1e400}',
        '{"messages": [], "n": NaN, "top_k": 1%s}' % ("0" * 400),
        '"\\ud83d"',
        b"\xff",
        "{",
    ):
        contents.attributes(contents.of_body(odd), set())


@pytest.mark.parametrize("depth", [400, 900, 1020])
@pytest.mark.parametrize("where", ['{"messages":[{"role":"system","content":%s}]}', '{"messages":[],"tools":%s}'])
def test_a_body_that_is_nested_deep_is_no_crash(where: str, depth: int) -> None:
    text = where % ("[" * depth + "]" * depth)
    for told in (contents.of_body(text), contents.of_span({"mlflow.spanInputs": text})):
        contents.attributes(told, set())


@pytest.mark.parametrize("value", [b"x", ["a", b"b"], "\ud800", float("nan"), 2**70, {1: object}])
def test_no_value_of_an_attribute_is_a_crash(value: object) -> None:
    for name in (
        "gen_ai.request.temperature",
        "gen_ai.request.stop_sequences",
        "gen_ai.prompt.name",
        "gen_ai.tool.definitions",
    ):
        contents.attributes(contents.of_span({name: value}), set())


@pytest.mark.parametrize(
    "told", ["no JSON", '{"prompt": "cut', "[1]", '{"prompt": 3}', '{"other": "x"}', "\ud800", "", None]
)
def test_texts_that_a_sender_wrote_or_that_were_cut_are_none(told: str | None) -> None:
    assert contents.texts_of(told) == {}


KEYS = (
    "messages",
    "role",
    "content",
    "parts",
    "text",
    "tools",
    "function",
    "system",
    "input",
    "generationConfig",
    "model",
    "stop",
)
LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=9)


@given(
    st.recursive(
        LEAVES, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(KEYS), x, max_size=4), max_leaves=12
    )
)
def test_no_body_and_no_span_is_a_crash(document: object) -> None:
    text = json.dumps(document)
    for told in (
        contents.of_body(text),
        contents.of_span({"mlflow.spanInputs": text, "gen_ai.input.messages": text, "gen_ai.tool.definitions": text}),
    ):
        contents.attributes(told, set())


def test_effective_versions_are_told_from_others() -> None:
    assert (contents.base("3~0a1b2c3d"), contents.hash_of("3~0a1b2c3d")) == ("3", "0a1b2c3d")
    for other in ("3", "1.4.2+0a1b2c3d", "gpt@0a1b2c3d", "3~main", "~", "3~0A1B2C3D"):
        assert (contents.base(other), contents.hash_of(other)) == (other, None)


def export(attributes: dict[str, object]) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "chat"
    group.resource.attributes.add(key="vcs.ref.head.revision").value.string_value = "abc123"
    for i in range(3):
        span = group.scope_spans.add().spans.add(
            trace_id=bytes([i + 1] * 16), span_id=bytes([i + 1] * 8), name="chat", kind=3
        )
        span.start_time_unix_nano, span.end_time_unix_nano = 10**18, 10**18 + 10**6
        for name, value in attributes.items():
            held = span.attributes.add(key=name).value
            if isinstance(value, str):
                held.string_value = value
            elif isinstance(value, float):
                held.double_value = value
            else:
                held.int_value = int(str(value))
    return request


@pytest.mark.parametrize("capture", Capture)
@pytest.mark.parametrize("dialect", SPANS)
def test_both_decoders_tell_the_parts_whatever_is_captured(dialect: str, capture: Capture) -> None:
    request = export(SPANS[dialect])
    rule = Redactor(capture)
    if rule.active:
        redact(request, Rules(lambda endpoint: rule, contents=True))
    by_rows = SpanDecoder(contents=True).traces(request, T).rows
    by_columns = TraceDecoder(contents=True).decode([(request.SerializeToString(), T)]).table.to_pylist()
    wanted = digests(contents.of_span(SPANS[dialect]))
    for rows in (by_rows, by_columns):
        for i, row in enumerate(rows):
            told = dict(row["attributes"])
            assert len(told) == len(row["attributes"]), "an attribute twice"
            assert {name: told[name] for name in wanted} == wanted
            assert told[contents.WHO] == "abc123"
            texts = contents.TEXTS in told
            assert (
                texts == (i == 0 or capture is Capture.REDACTED)
                if capture in (Capture.FULL, Capture.REDACTED)
                else not texts
            )


@pytest.mark.parametrize("capture", [Capture.FULL, Capture.REDACTED])
def test_texts_are_whole_and_digests_are_kept_of_a_span_with_many_attributes(capture: Capture) -> None:
    prompt = "You are a clerk. " * 200
    request = export(
        {**{f"a.{i}": "x" for i in range(80)}, **SPANS["conventions"], "gen_ai.system_instructions": prompt}
    )
    rule = Redactor(capture)
    if rule.active:
        redact(request, Rules(lambda endpoint: rule, contents=True))
    by_columns = TraceDecoder(contents=True).decode([(request.SerializeToString(), T)]).table.to_pylist()
    for rows in (SpanDecoder(contents=True).traces(request, T).rows, by_columns):
        assert contents.texts_of(dict(rows[0]["attributes"])[contents.TEXTS])["prompt"] == prompt
        assert all(dict(row["attributes"])[contents.PREFIX + "prompt"] == contents.digest(prompt) for row in rows)


def change(content: str, minutes: float, version: str = "3", replaces: str | None = None, prompt: str = "") -> Change:
    return Change(
        content,
        version,
        T + timedelta(minutes=minutes),
        replaces,
        None,
        {"prompt": contents.digest(prompt)},
        {"prompt": prompt} if prompt else {},
    )


A, B, C = "aaaaaaaa", "bbbbbbbb", "cccccccc"


def served(version: str, first: float, last: float) -> Served:
    return Served(version, T + timedelta(minutes=first), T + timedelta(minutes=last), 100)


def test_an_edited_prompt_is_judged_against_the_one_before_and_a_new_version_against_the_prior_one_with_the_same_prompt() -> (
    None
):
    alone = [Pair("3", None, T)]
    edit = refined(
        alone,
        {"3": 100},
        [change(A, 0), change(B, 600, replaces=A)],
        [served(f"3~{A}", 0, 601), served(f"3~{B}", 600, 700)],
    )
    assert edit == [Pair(f"3~{B}", f"3~{A}", T + timedelta(minutes=600))]
    canary = [Pair("4", "3", T + timedelta(minutes=60))]
    both = [served(f"3~{A}", 0, 100), served(f"4~{A}", 60, 100)]
    assert refined(canary, {"3": 90, "4": 10}, [change(A, 0)], both) == [
        Pair(f"4~{A}", f"3~{A}", T + timedelta(minutes=60))
    ]


def test_a_prompt_that_comes_with_its_version_is_judged_with_it_and_several_candidates_stand_side_by_side() -> None:
    canary, known = (
        [Pair("4", "3", T + timedelta(minutes=60))],
        [change(A, 0), change(B, 61, "4", replaces=A), change(C, 80, replaces=A)],
    )
    serving = [served(f"3~{A}", 0, 100), served(f"4~{B}", 61, 100), served(f"3~{C}", 80, 100)]
    assert refined(canary, {"3": 90, "4": 10}, known, serving) == [
        Pair(f"3~{C}", f"3~{A}", T + timedelta(minutes=80)), Pair(f"4~{B}", f"3~{A}", T + timedelta(minutes=60)),
    ]  # fmt: skip


def test_two_applications_on_one_endpoint_are_no_change_and_an_edit_of_one_replaces_its_own() -> None:
    shop, desk = (
        "You help customers of a shop to choose shoes. Be kind and brief.",
        "Classify tickets of the service desk as one of: network, mail, printer.",
    )
    known = [change(A, 0, prompt=shop), change(B, 1, prompt=desk)]
    assert replaced(known[1], known[:1]) is None
    assert replaced(change(C, 60, prompt=shop.replace("kind", "very kind")), known) == A
    pairs = refined([Pair("3", None, T)], {"3": 100}, known, [served(f"3~{A}", 0, 100), served(f"3~{B}", 1, 100)])
    assert {(pair.candidate, pair.prior) for pair in pairs} == {(f"3~{A}", None), (f"3~{B}", None)}


def test_what_no_longer_serves_is_not_judged_and_without_contents_pairs_stay() -> None:
    pairs = [Pair("4", "3", T)]
    assert refined(pairs, {"3": 50, "4": 50}, [], [served("3", 0, 100), served("4", 0, 100)]) == pairs
    old = [served(f"4~{A}", 0, 10), served("4", 0, 300), served("3", 0, 300)]
    assert refined(pairs, {"3": 50, "4": 50}, [change(A, 0, "4")], old) == pairs


def test_without_a_ledger_of_configurations_the_windows_tell_the_versions_and_an_edit_is_one_pair() -> None:
    """Pairs of effective versions already: the edit keeps what it replaced, another version its prior one."""
    pairs = [Pair(f"4~{A}", f"3~{A}", T + timedelta(minutes=70)), Pair(f"3~{B}", f"4~{A}", T + timedelta(minutes=60))]
    serving = [served(f"3~{A}", 0, 100), served(f"4~{A}", 70, 100), served(f"3~{B}", 60, 100)]
    traffic = {"3": 60.0, "4": 40.0}
    known = [change(A, 0), change(B, 60, replaces=A)]
    assert refined(pairs, traffic, known, serving) == [pairs[0], Pair(f"3~{B}", f"3~{A}", T + timedelta(minutes=60))]


def test_a_version_that_comes_with_a_prompt_of_its_own_is_judged_against_the_only_one_of_the_prior_version() -> None:
    canary, traffic = [Pair("4", "3", T + timedelta(minutes=60))], {"3": 90.0, "4": 10.0}
    known, new = [change(A, 0), change(C, 61, "4")], served(f"4~{C}", 61, 100)
    (pair,) = refined(canary, traffic, known, [served(f"3~{A}", 0, 100), served("3", 0, 5), new])
    assert pair == Pair(f"4~{C}", f"3~{A}", T + timedelta(minutes=60))
    (pair,) = refined(canary, traffic, known, [served("3", 0, 100), new])
    assert pair == Pair(f"4~{C}", "3", T + timedelta(minutes=60)), "the setting was made with the deployment"
    two = [served(f"3~{A}", 0, 100), served(f"3~{B}", 0, 100), new]
    assert Pair(f"4~{C}", None, T + timedelta(minutes=61)) in refined(canary, traffic, [*known, change(B, 0)], two)


def test_an_edit_stays_judged_while_a_newer_one_is_judged_against_it() -> None:
    known = [change(A, 0), change(B, 600, replaces=A), change(C, 620, replaces=B)]
    serving = [served(f"3~{A}", 0, 610), served(f"3~{B}", 600, 630), served(f"3~{C}", 620, 640)]
    pairs = refined([Pair("3", None, T)], {"3": 100}, known, serving)
    assert [(pair.candidate, pair.prior) for pair in pairs] == [(f"3~{C}", f"3~{B}"), (f"3~{B}", f"3~{A}")]


@pytest.mark.parametrize("words", ["a b ", "very "])
def test_texts_of_few_words_are_compared_in_little_time(words: str) -> None:
    long, began = words * 1000, time.perf_counter()
    known = [change(f"{i:08}", i, prompt=long + "c") for i in range(40)]
    assert replaced(change(A, 60, prompt=long), known) is not None
    assert time.perf_counter() - began < 2
