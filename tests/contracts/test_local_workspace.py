"""The local workspace serves real models by the contract, misbehaves as told, and logs like the service."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from waiting import HANG_S

from lastgood.tables import delta
from lastgood.workspace.local import CHAT, MODELS, TABULAR, LocalConfig, Prompts, Running, row, serve

ASK = {"prompt": "What does the with statement do?", "system_message": "s", "max_tokens": 80, "metadata": {"team": "a"}}


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Running]:
    config = LocalConfig(str(tmp_path / "payload"), latency_scale=0.02, payload_batch_s=60, duplicate_share=0.2)
    with serve(config) as running:
        yield running


@pytest.fixture
def http(local: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=local.url, headers={"authorization": f"Bearer {local.token}"}, timeout=HANG_S) as client:
        yield client


def call(http: httpx.Client, body: Any = ASK, version: str | None = None, endpoint: str = CHAT) -> httpx.Response:
    model = MODELS[endpoint].rsplit(".", 1)[-1]
    path = f"/serving-endpoints/{endpoint}" + (f"/served-models/{model}-{version}" if version else "") + "/invocations"
    return http.post(path, json=body)


def test_an_answer_has_the_fields_of_the_contract(http: httpx.Client) -> None:
    answer = call(http)
    document = answer.json()
    assert document.keys() == {"generated_text", "finish_reason", "usage", "model_version", "latency_ms", "request_id"}
    assert (document["model_version"], answer.headers["served-model-name"]) == ("2", "support_chat-2")
    assert answer.headers["x-databricks-request-id"] == document["request_id"]
    said = document["generated_text"].split()
    assert 0 < len(said) <= 80
    assert document["usage"]["completion_tokens"] == len(said)
    assert call(http, ASK | {"max_tokens": 3}).json()["finish_reason"] == "length"


WRONG: dict[str, tuple[Any, str]] = {
    "no prompt": ({}, "prompt: expected str, found NoneType"),
    "prompt is a number": ({"prompt": 5}, "prompt: expected str, found int"),
    "max_tokens is a text": (ASK | {"max_tokens": "9"}, "max_tokens: expected int, found str"),
    "max_tokens is true": (ASK | {"max_tokens": True}, "max_tokens: expected int, found bool"),
    "max_tokens is negative": (ASK | {"max_tokens": -1}, "max_tokens: expected at least 1, found -1"),
    "temperature is a list": (ASK | {"temperature": []}, "temperature: expected int or float, found list"),
    "metadata is a text": (ASK | {"metadata": "x"}, "metadata: expected dict, found str"),
    "the body is a list": ([1], "body: expected a JSON object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_request_that_breaks_the_contract_is_told_how(http: httpx.Client, case: str) -> None:
    body, said = WRONG[case]
    answer = call(http, body)
    assert (answer.status_code, answer.json()) == (400, {"error_code": "BAD_REQUEST", "message": said})


def test_what_is_not_json_unknown_or_unauthorised_is_refused(http: httpx.Client, local: Running) -> None:
    path = f"/serving-endpoints/{CHAT}/invocations"
    assert http.post(path, content=b"{nope").status_code == 400
    assert call(http, version="9").status_code == 404
    assert http.post("/serving-endpoints/ghost/invocations", json=ASK).status_code == 404
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert httpx.post(local.url + path, json=ASK, headers=headers).json()["error_code"] == "UNAUTHENTICATED"
    assert http.put(f"/local/faults/{CHAT}/2", json={"slow": 1}).status_code == 400
    assert call(http, {"instances": [[1.0]]}, endpoint=TABULAR).status_code == 400


def test_the_tabular_model_reads_every_shape_alike(http: httpx.Client) -> None:
    record = row(np.random.default_rng(3))
    shapes = (
        {"dataframe_records": [record]},
        {"dataframe_split": {"columns": list(record)[::-1], "data": [list(record.values())[::-1]]}},
        {"instances": [list(record.values())]},
    )
    answers = [call(http, body, endpoint=TABULAR).json()["predictions"] for body in shapes]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0] in ([0], [1])


def test_versions_answer_differently_and_repeatably(http: httpx.Client) -> None:
    rng = np.random.default_rng(1)
    prompts = [Prompts().draw(rng) for _ in range(10)]
    said = {v: [call(http, {"prompt": p}, v).json()["generated_text"] for p in prompts] for v in ("1", "2")}
    assert said["2"] == [call(http, {"prompt": p}, "2").json()["generated_text"] for p in prompts]
    assert sum(a != b for a, b in zip(said["1"], said["2"], strict=True)) >= 8


def test_faults_change_what_is_served_and_only_their_version(http: httpx.Client) -> None:
    http.put(f"/local/faults/{CHAT}/2", json={"error_share": 0.5, "stale_features": True})
    answers = {v: [call(http, version=v) for _ in range(60)] for v in ("1", "2")}
    failed = {v: sum(one.status_code == 500 for one in said) for v, said in answers.items()}
    assert failed["1"] == 0
    assert 15 <= failed["2"] <= 45
    ages = {v: [float(one.headers["x-feature-age-ms"]) for one in said] for v, said in answers.items()}
    assert max(ages["1"]) <= 300_000 < 8 * 3_600_000 <= min(ages["2"])
    http.put(f"/local/faults/{CHAT}/2", json={"worse_answers": 1.0})
    texts = [call(http, version="2").json()["generated_text"] for _ in range(20)]
    assert any(text == "" for text in texts)
    assert any(text.startswith("I'm sorry") for text in texts)
    http.put(f"/local/faults/{CHAT}/2", json={"latency_factor": 20.0})
    took = {v: statistics.median(call(http, version=v).json()["latency_ms"] for _ in range(15)) for v in ("1", "2")}
    assert took["2"] > 2 * took["1"]
    http.put(f"/local/faults/{CHAT}/*", json={"crash": True})
    http.put(f"/local/faults/{CHAT}/2", json={"crash": True})
    assert {call(http, version=v).status_code for v in ("1", "2")} == {503}


def test_the_rate_limit_is_429_with_a_time_to_wait(tmp_path: Path) -> None:
    with serve(LocalConfig(rate_limit_per_s=3, latency_scale=0.0)) as running:
        headers = {"authorization": f"Bearer {running.token}"}
        with httpx.Client(base_url=running.url, headers=headers) as http:
            answers = [call(http) for _ in range(12)]
    limited = [one for one in answers if one.status_code == 429]
    assert [one.status_code for one in answers[:3]] == [200, 200, 200]
    assert limited
    assert limited[0].headers["retry-after"] == "1"


def test_the_inference_table_holds_each_logged_request_late_and_sometimes_twice(
    http: httpx.Client, local: Running
) -> None:
    ids = {call(http, ASK | {"client_request_id": f"mine-{i}"}).json()["request_id"] for i in range(60)}
    call(http, {"prompt": 5})
    huge = call(http, {"prompt": "word " * 250_000}).json()["request_id"]
    assert httpx.post(f"{local.url}/serving-endpoints/{CHAT}/invocations", json=ASK).status_code == 401
    counted = local.flush()
    rows = delta.read(local.service.payload.table).to_pylist()
    distinct = {one["databricks_request_id"]: one for one in rows}
    assert len(distinct) == counted["rows"] == 62
    assert len(rows) - len(distinct) == counted["duplicates"] > 0
    assert ids < distinct.keys()
    assert {one["client_request_id"] for key, one in distinct.items() if key in ids} == {f"mine-{i}" for i in range(60)}
    assert (distinct[huge]["request"], distinct[huge]["logging_error_codes"]) == (None, ["MAX_REQUEST_SIZE_EXCEEDED"])
    assert sorted(one["status_code"] for one in distinct.values())[-1] == 400
    entities = {one["served_entity_id"]: one for one in delta.read(local.service.payload.entities_table).to_pylist()}
    joined = {entities[one["served_entity_id"]]["entity_version"] for one in distinct.values()}
    assert joined == {"2"}
    assert {one["endpoint_name"] for one in entities.values()} == {CHAT, TABULAR}
