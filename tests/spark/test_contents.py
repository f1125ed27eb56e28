"""A prompt edit is judged as a model version is: from the bodies of an inference table to verdicts and what is done about them, on Delta."""

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from jobs_support import put, row

from lastgood import tables
from lastgood.alerts.decide import Note, Say, Situation, decide
from lastgood.collectors.inference_tables import Shape, shaped
from lastgood.jobs.conform import conform
from lastgood.jobs.judge import run_judge
from lastgood.jobs.maintain import _expire
from lastgood.jobs.windows import windows
from lastgood.judge import State
from lastgood.record.contents import base
from lastgood.record.redact import Capture
from lastgood.settings import EndpointSettings, load
from lastgood.tables import Store, delta
from lastgood.tables.edits import changes, rare, shown
from lastgood.tables.runs import Context
from lastgood.workspace import Endpoint, ServedEntity, deployments

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD = "You help customers of a shop.\nBe kind, and answer in at most 50 words.\nToday is {}."
NEW = "You help customers of a shop.\nNever be kind, and answer in at most 50 words.\nToday is {}."
JUDGED_BY = EndpointSettings(versions_by=("prompt", "tools", "parameters"), payload_table="payload")
Make = Callable[..., Context]


def logged(i: int, second: float, prompt: str, status: int = 200, version: str = "3") -> dict[str, Any]:
    """A row of an inference table in its first generation."""
    messages = [
        {"role": "system", "content": prompt.format(START + timedelta(seconds=second))},
        {"role": "user", "content": "hi"},
    ]
    answer = {
        "choices": [{"message": {"content": "ho"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 30},
    }
    return {
        "databricks_request_id": f"r{i}", "timestamp_ms": int((START + timedelta(seconds=second)).timestamp() * 1000), "execution_time_ms": 40 + i % 30,
        "request_metadata": [("endpoint_name", "chat"), ("model_name", "chat-3"), ("model_version", version)], "status_code": status,
        "request": json.dumps({"messages": messages, "temperature": 0.2}), "response": json.dumps(answer) if status == 200 else None,
        "requester": f"u{i % 40}",
    }  # fmt: skip


SCHEMA = pa.schema({
    "databricks_request_id": pa.string(), "timestamp_ms": pa.int64(), "execution_time_ms": pa.int64(), "status_code": pa.int32(),
    "request_metadata": pa.map_(pa.string(), pa.string()), "request": pa.string(), "response": pa.string(), "requester": pa.string(),
})  # fmt: skip


def collected(store: Store, rows: list[dict[str, Any]], at: datetime) -> None:
    batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
    delta.append(
        store.path(tables.INBOX), pa.Table.from_batches([shaped(batch, Shape("legacy", "chat", contents=True), at)])
    )


def deployed(store: Store, at: datetime) -> None:
    deployments.record(
        store, [Endpoint("chat", 1, (ServedEntity("chat-3", "prod.ml.chat", "3"),), {"chat-3": 100})], at
    )


def by_version(store: Store) -> Counter[str]:
    return Counter(delta.read(store.path(tables.REQUESTS))["model_version"].to_pylist())


def test_an_edited_prompt_that_fails_is_accused_and_a_person_is_told_what_changed(make: Make) -> None:
    r = random.Random(3)
    ctx = make(now=START + timedelta(minutes=31), endpoints={"chat": JUDGED_BY})
    deployed(ctx.store, START - timedelta(days=1))
    rows = [
        logged(i, i * 0.6, OLD if i < 2000 else NEW, 500 if r.random() < (0.01 if i < 2000 else 0.3) else 200)
        for i in range(3000)
    ]
    for part in (rows[:1500], rows[1500:2300], rows[2300:]):
        collected(ctx.store, part, ctx.clock())
        conform(ctx)
    counted = by_version(ctx.store)
    (old, first), (new, second) = counted.most_common(2)
    assert (first, second, base(old), base(new), len(counted)) == (2000, 1000, "3", "3", 2)
    windows(ctx)
    verdicts = {verdict.candidate: verdict for verdict in run_judge(ctx)}
    assert set(verdicts) == {new}
    assert verdicts[new].prior == old and verdicts[new].bad, verdicts[new].reason

    told = shown(changes(ctx.store, "chat"), new)
    assert told is not None and told.before == old.partition("~")[2]
    assert [edit.part for edit in told.edits] == ["prompt"]
    assert (
        "-Be kind, and answer in at most 50 words." in told.edits[0].lines
        and "+Never be kind, and answer in at most 50 words." in told.edits[0].lines
    )
    assert changes(ctx.store, "chat")[1].since == START + timedelta(seconds=1200)

    now = verdicts[new].judged_at
    entity = Endpoint("chat", 1, (ServedEntity("chat-3", "prod.ml.chat", "3"),), {"chat-3": 100})
    decision = decide(Situation("chat", now, JUDGED_BY, tuple(verdicts.values()), entity))
    says = [effect.sentence for effect in decision.effects if isinstance(effect, Say)]
    assert len(says) == 1 and not any("proposed" in why for why in decision.because)
    if verdicts[new].state is State.ROLL_BACK:
        assert "put back the prompt" in says[0] and any(isinstance(effect, Note) for effect in decision.effects)


def test_a_prompt_that_differs_in_every_request_makes_no_versions_and_is_counted(make: Make) -> None:
    ctx = make(now=START + timedelta(minutes=31), endpoints={"chat": JUDGED_BY})
    names = ["".join(random.Random(i).choices("abcdefghij", k=9)) for i in range(400)]
    collected(ctx.store, [logged(i, i, f"You help {name}.") for i, name in enumerate(names)], ctx.clock())
    conform(ctx)
    assert by_version(ctx.store) == {"3": 400}
    assert rare(ctx.store, ctx.clock()) == {"chat": 400} and changes(ctx.store, "chat") == []


def test_a_rarely_asked_endpoint_has_its_version_after_some_runs_and_a_repeated_run_changes_nothing(make: Make) -> None:
    ctx = make(now=START + timedelta(minutes=31), endpoints={"chat": JUDGED_BY})
    for i in range(30):
        if i % 6 == 0:
            collected(ctx.store, [logged(j, j * 10, OLD) for j in range(i, i + 6)], ctx.clock())
            conform(ctx)
    assert by_version(ctx.store).total() == 30 and sorted(by_version(ctx.store).values()) == [12, 18]
    (known,) = changes(ctx.store, "chat")
    assert known.since == START
    before = by_version(ctx.store)
    collected(ctx.store, [logged(j, j * 10, OLD) for j in range(30)], ctx.clock())
    conform(ctx)
    assert by_version(ctx.store) in (before, Counter({f"3~{known.content}": 30}))


def test_version_and_prompt_may_be_told_by_different_sources_and_spans_do_not_speak_for_bodies(make: Make) -> None:
    ctx = make(now=START + timedelta(minutes=31), endpoints={"chat": JUDGED_BY})
    at = START + timedelta(minutes=31)
    spans = [
        row(
            i,
            model_version="3",
            requested_at=START + timedelta(seconds=i),
            attributes=[("lastgood.content.prompt", "0000000000")],
        )
        for i in range(40)
    ]
    put(ctx.store, spans)
    conform(ctx)
    assert by_version(ctx.store) == {"3": 40}
    bodies = [
        logged(i, i, OLD) | {"request_metadata": [("endpoint_name", "chat"), ("model_name", "chat-3")]}
        for i in range(40)
    ]
    collected(ctx.store, bodies, at)
    conform(ctx)
    (known,) = changes(ctx.store, "chat")
    assert by_version(ctx.store) == {f"3~{known.content}": 40}


@pytest.mark.parametrize("capture", ["full", "none"])
def test_texts_of_changes_go_with_the_capture_setting_and_counts_of_rare_ones_with_time(
    make: Make, capture: str
) -> None:
    ctx = make(now=START + timedelta(minutes=31), endpoints={"chat": JUDGED_BY})
    rows = [logged(i, i, OLD) for i in range(30)] + [logged(30, 30, "another")]
    collected(ctx.store, rows, ctx.clock())
    conform(ctx)
    settings = load(
        storage=ctx.store.location, endpoints={"chat": JUDGED_BY.model_copy(update={"capture": Capture(capture)})}
    )
    _expire(replace(ctx, settings=settings, clock=lambda: START + timedelta(days=3)), tables.CONTENTS)
    (known,) = changes(ctx.store, "chat")
    assert set(known.texts) == ({"prompt", "tools", "parameters"} if capture == "full" else set())
    assert delta.read(ctx.store.path(tables.CONTENTS)).num_rows == 1


def test_contents_that_are_known_are_never_too_rare_however_many_there_are(make: Make) -> None:
    ctx = make(now=START + timedelta(minutes=31), endpoints={"chat": JUDGED_BY})
    prompts = ["Answer " + "very " * (i + 1) + "kindly." for i in range(20)]
    collected(ctx.store, [logged(i, i, prompts[i % 20]) for i in range(400)], ctx.clock())
    conform(ctx)
    assert len(changes(ctx.store, "chat")) == 20 and rare(ctx.store, ctx.clock()) == {}
    tomorrow = replace(ctx, clock=lambda: START + timedelta(days=1, minutes=31))
    later = [logged(1000 + i, 86_400 + i, prompts[i % 20]) for i in range(200)] + [
        logged(2000 + i, 86_400 + i, "Be rude.") for i in range(25)
    ]
    collected(ctx.store, later, tomorrow.clock())
    conform(tomorrow)
    assert len(changes(ctx.store, "chat")) == 21 and rare(ctx.store, tomorrow.clock()) == {}
    assert "3" not in by_version(ctx.store)
