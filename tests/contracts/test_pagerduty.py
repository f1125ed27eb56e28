"""The Events v2 client against a receiver held to the same contract, over real HTTP."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tenacity import wait_none

from lastgood.alerts.notify.fake_pagerduty import FakePagerDuty, serve_fake
from lastgood.alerts.notify.pagerduty import MAX_BYTES, PagerDuty, event, fit
from lastgood.errors import RefusedError, TransientError

ROUTING_KEY = "r" * 32


@pytest.fixture(scope="module")
def receiver() -> Iterator[FakePagerDuty]:
    with serve_fake() as fake:
        yield fake


@pytest.fixture
def fake(receiver: FakePagerDuty) -> FakePagerDuty:
    receiver.answers.clear()
    receiver.clear()
    return receiver


@pytest.fixture
def client(fake: FakePagerDuty) -> Iterator[PagerDuty]:
    built = PagerDuty(fake.url, ROUTING_KEY, wait=wait_none())
    yield built
    built.close()


def trigger(**more: Any) -> dict[str, Any]:
    return event(
        "trigger", "inc1", "errors on version 3", source="lastgood/chat", links={"Evidence": "http://x/r/t"}, **more
    )


def test_an_alert_is_triggered_acknowledged_and_resolved(fake: FakePagerDuty, client: PagerDuty) -> None:
    for document in (trigger(details={"requests": 1200}), event("acknowledge", "inc1"), event("resolve", "inc1")):
        client.send(document)
    first, *rest = fake.events()
    assert first["routing_key"] == ROUTING_KEY
    assert first["payload"]["custom_details"] == {"requests": 1200}
    assert first["links"] == [{"text": "Evidence", "href": "http://x/r/t"}]
    assert [(e["event_action"], e["dedup_key"]) for e in rest] == [("acknowledge", "inc1"), ("resolve", "inc1")]


def test_429_and_500_are_retried_and_the_event_arrives_once(fake: FakePagerDuty, client: PagerDuty) -> None:
    fake.answers += [429, 500]
    client.send(trigger())
    assert len(fake.events()) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_receiver_that_stays_down_is_a_transient_error(fake: FakePagerDuty, client: PagerDuty, status: int) -> None:
    fake.answers += [status] * 5
    with pytest.raises(TransientError, match=str(status)):
        client.send(trigger())
    assert len(fake.answers) == 2, "three attempts were made"
    assert fake.events() == []


def test_no_connection_is_a_transient_error() -> None:
    client = PagerDuty("http://127.0.0.1:9/v2/enqueue", ROUTING_KEY, wait=wait_none())
    with pytest.raises(TransientError, match="cannot be reached"):
        client.send(trigger())
    client.close()


def test_a_bad_event_is_refused_for_good(fake: FakePagerDuty, client: PagerDuty) -> None:
    with pytest.raises(RefusedError, match=r"payload\.summary"):
        client.send(event("trigger", "inc1", "", source="lastgood/chat"))
    assert fake.events() == []


def test_a_huge_event_is_cut_until_it_is_accepted(fake: FakePagerDuty, client: PagerDuty) -> None:
    details = {"reason": "errors", "log": "x" * MAX_BYTES, "rows": [{"a": "ü" * 50}] * 5000}
    client.send(event("trigger", "inc1", "s" * 5000, source="lastgood/chat", details=details))
    (got,) = fake.events()
    assert got["payload"]["custom_details"]["reason"] == "errors"
    assert got["payload"]["custom_details"]["log"].endswith("(cut)")
    assert len(got["payload"]["summary"]) == 1024


def test_many_small_details_are_dropped_when_there_is_no_other_way() -> None:
    body = fit(trigger(details={f"k{i}": "v" * 900 for i in range(700)}))
    assert len(body) <= MAX_BYTES
    assert json.loads(body)["payload"]["summary"] == "errors on version 3"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"routing_key": ""}, "'routing_key' is missing or blank"),
        ({"event_action": None}, "'event_action' is missing or blank"),
        ({"event_action": "page"}, "'event_action' is not one of"),
        ({"payload": {"source": "s", "severity": "error"}}, "'payload.summary' is missing or blank"),
        ({"payload": {"summary": "s", "severity": "error"}}, "'payload.source' is missing or blank"),
        ({"payload": {"summary": "s", "source": "s"}}, "'payload.severity' is missing or blank"),
        ({"payload": {"summary": "s", "source": "s", "severity": "bad"}}, "'payload.severity' is not one of"),
        ({"event_action": "resolve", "dedup_key": ""}, "'dedup_key' is missing or blank"),
    ],
)
def test_the_receiver_refuses_what_the_contract_forbids(
    fake: FakePagerDuty, change: dict[str, Any], problem: str
) -> None:
    answer = httpx.post(fake.url, json={"routing_key": ROUTING_KEY, **trigger(), **change})
    assert answer.status_code == 400
    assert answer.json()["status"] == "invalid event"
    assert any(problem in error for error in answer.json()["errors"])


def test_the_receiver_answers_an_accepted_event_with_its_key(fake: FakePagerDuty) -> None:
    answer = httpx.post(fake.url, json={"routing_key": ROUTING_KEY, **trigger()})
    assert answer.status_code == 202
    assert answer.json() == {"status": "success", "message": "Event processed", "dedup_key": "inc1"}
    assert httpx.post(fake.url, content=b"[").status_code == 400
    assert httpx.post(fake.url, content=b" " * (MAX_BYTES + 1)).status_code == 400
