"""The label queue over HTTP: what a person says is a label, nothing tells which version answered, and the scorers are shown beside what people say."""

import re
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from lastgood import tables
from lastgood.alerts.web.app import create_app
from lastgood.dashboards.exporter import Exporter
from lastgood.record.exported import CATALOGUE
from lastgood.record.telemetry import arrow_schema
from lastgood.settings import EndpointSettings, Policy, Scorer, Scoring, Settings
from lastgood.tables import Store, delta

TOKEN = "only-ann-knows"
EVIL = "<script>alert(1)</script>"


def put(store: Store, table: tables.Table, rows: list[dict[str, Any]]) -> None:
    schema = arrow_schema(table.fields)
    delta.append(store.path(table), pa.Table.from_pylist([dict.fromkeys(schema.names) | row for row in rows], schema))


def pair(i: int, **more: Any) -> dict[str, Any]:
    base = {
        "endpoint": "chat", "candidate": "3", "prior": "2", "scorer": "helpful", "scorer_version": "model judge-1 0a1b2c3d", "pair_id": f"pair {i}",
        "again": False, "request_ids": [f"old {i}", f"new {i}"], "alike": "same", "scores": [1.0, 0.2], "reasons": [None, "too short"],
        "errors": [None, None], "asked": i % 2 == 0, "chance": 0.5, "label_wait_s": 86_400.0, "tokens_in": 10, "tokens_out": 5, "money": 0.01,
        "seconds": 0.1, "judged_at": START + timedelta(seconds=i),
    }  # fmt: skip
    return base | more


class Queue:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LASTGOOD_PERSON_TOKEN", f"ann:{TOKEN}")
        own = EndpointSettings(
            policy=Policy(score_ranges={"stars": (1, 5)}),
            scoring=Scoring(scorers=(Scorer(name="helpful", model="judge-1"), Scorer(name="stars", model="judge-1"))),
        )
        self.house = House(folder, MemoryWorkspace(endpoint("2", "3")), Settings(endpoints={"chat": own}))
        self.store = Store(str(folder / "tables"))
        for table in (tables.JUDGED, tables.SCORES, tables.REQUESTS):
            delta.create(self.store.path(table), arrow_schema(table.fields))
        put(self.store, tables.JUDGED, [pair(i) for i in range(4)])
        put(self.store, tables.REQUESTS, [
            {"endpoint": "chat", "request_id": f"{side} {i}", "model_version": version, "input": f"question {i} {EVIL}", "output": f"answer {i} of a model"}
            for i in range(6) for side, version in (("old", "2"), ("new", "3"))
        ])  # fmt: skip
        self.client = TestClient(
            create_app(self.house.controller, data=self.store), base_url="http://127.0.0.1", follow_redirects=False
        )

    def page(self) -> str:
        answer = self.client.get("/labels")
        assert answer.status_code == 200, answer.text
        return answer.text

    def form(self, page: str, grade: str) -> dict[str, str]:
        form = re.search(r"<form method=\"post\".*?</form>", page, re.DOTALL)
        assert form and f'value="{grade}"' in form[0], page
        fields = {
            name: unescape(value)
            for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', form[0])
        }
        return fields | {"grade": grade, "person_token": TOKEN}

    def say(self, grade: str) -> dict[str, str]:
        form = self.form(self.page(), grade)
        answer = self.client.post("/labels", data=form)
        assert answer.status_code == 303, answer.text
        return form

    def labels(self) -> list[dict[str, Any]]:
        return sorted(delta.read(self.store.path(tables.SCORES)).to_pylist(), key=lambda row: row["request_id"])


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(tmp_path, monkeypatch)


def test_people_label_answers_blindly_and_the_queue_ends(queue: Queue) -> None:
    first = queue.page()
    assert "4 answers wait" in first and EVIL not in first and "&lt;script&gt;" in first
    assert not re.search(r"version [23]\b|0\.2|too short", first.partition("The scorers")[0]), (
        "neither who answered nor what the scorer said"
    )
    asked = [queue.say(grade)["request"] for grade in ("good", "bad", "good", "half")]
    assert sorted(asked) == ["new 0", "new 2", "old 0", "old 2"], "of two pairs in question both answers"
    assert {row["request_id"]: row["value"] for row in queue.labels()} == dict(
        zip(asked, (1.0, 0.0, 1.0, 0.5), strict=True)
    )
    assert {(row["source"], row["name"]) for row in queue.labels()} == {("ann", "helpful")}
    page = queue.page()
    assert "No answer waits for a label" in page and "2 of 2" in page


def test_who_cannot_tell_sees_another_one_and_what_is_not_kept_is_not_asked_about(queue: Queue) -> None:
    """Nobody stands before an answer for ever: neither before one in a language that they do not read, nor before one that is gone."""
    first = queue.form(queue.page(), "good")["request"]
    assert f"/labels?after={first.replace(' ', '%20')}" in queue.page()
    seen = [first]
    for _ in range(4):
        answer = queue.client.get("/labels", params={"after": seen[-1]}).text
        seen.append(queue.form(answer, "good")["request"])
    assert seen[4] == first and len(set(seen)) == 4, "the whole queue, and round again"
    put(queue.store, tables.JUDGED, [pair(7, asked=True, request_ids=["gone", "gone too"], judged_at=START - timedelta(minutes=1))])  # fmt: skip
    assert queue.form(queue.page(), "good")["request"] == first
    for _ in range(4):
        queue.say("good")
    assert "The answers that wait are not kept" in queue.page() and "2 answers wait" in queue.page()


def test_who_labels_knows_what_is_asked_and_what_was_said_before(queue: Queue) -> None:
    talk = {"endpoint": "chat", "model_version": "2", "conversation_id": "c"}
    put(queue.store, tables.REQUESTS, [
        talk | {"request_id": f"turn {i}", "input": f"turn {i}", "output": f"reply {i}", "requested_at": START + timedelta(seconds=i)} for i in range(10)
    ])  # fmt: skip
    put(queue.store, tables.JUDGED, [pair(5, asked=True, request_ids=["turn 8", "new 4"], judged_at=START - timedelta(minutes=1))])  # fmt: skip
    pages = [queue.page()]
    pages.append(queue.client.get("/labels", params={"after": queue.form(pages[0], "good")["request"]}).text)
    (page,) = [page for page in pages if "reply 8" in page]
    assert "Say how well the answer serves the person who asks." in page, "as the scorer was told"
    assert "Earlier in the conversation (6 requests)" in page and "reply 7" in page and "reply 2" in page
    assert "reply 1<" not in page and "reply 9" not in page, "the newest before it, and nothing of what came after"


def test_a_label_outside_of_its_range_is_none_and_counted_and_settings_are_those_of_now(queue: Queue) -> None:
    put(queue.store, tables.SCORES, [
        {"endpoint": "chat", "request_id": "old 0", "name": "helpful", "value": 5.0, "source": "ann", "at": START, "received_at": START},
        {"endpoint": None, "request_id": "new 0", "name": "helpful", "value": 1.0, "source": None, "at": START, "received_at": START},
    ])  # fmt: skip
    page = queue.page()
    assert "3 answers wait" in page and "(1 outside of the range)" in page
    own = queue.house.controller.settings.endpoints["chat"]
    changed = own.model_copy(update={"policy": Policy(score_ranges={"helpful": (1, 5)})})
    queue.house.controller.settings.endpoints["chat"] = changed
    page = queue.page()
    assert "2 answers wait" in page and "outside of the range" not in page, "1 is the worst now, and 5 the best"


def test_scorers_whose_word_is_the_truth_and_those_nobody_corrects_are_watched_too(queue: Queue) -> None:
    put(queue.store, tables.JUDGED, [
        pair(8, scorer="exact", chance=0.0, asked=False, errors=["ValueError: no number", None]),
        pair(9, scorer="exact", chance=0.0, asked=False, alike="rehearsed", request_ids=[]),
    ])  # fmt: skip
    lines = queue.client.get("/labels?csv=scorers").text.splitlines()
    told = next(
        row
        for line in lines[1:]
        if (row := dict(zip(lines[0].split(","), line.split(","), strict=True)))["scorer"] == "exact"
    )
    assert (told["pairs"], told["failed"], told["calls"], told["calls_today"], told["failed_today"]) == (
        "1",
        "1",
        "4",
        "4",
        "1",
    )
    assert "nobody is asked" in queue.page()


def test_a_label_is_in_the_range_that_the_policy_gives_its_name(queue: Queue) -> None:
    put(
        queue.store,
        tables.JUDGED,
        [pair(5, scorer="stars", asked=True, request_ids=["old 4", "new 4"], judged_at=START - timedelta(minutes=1))],
    )
    queue.say("half")
    assert [(row["name"], row["value"]) for row in queue.labels()] == [("stars", 3.0)]


def test_what_waits_for_no_label_gets_none(queue: Queue) -> None:
    form = queue.form(queue.page(), "good")
    for wrong in ({"request": "old 1"}, {"request": "none"}, {"scorer": "other"}, {"endpoint": "else"}):
        assert queue.client.post("/labels", data=form | wrong).status_code == 409
    assert queue.client.post("/labels", data=form).status_code == 303
    assert queue.client.post("/labels", data=form).status_code == 409, "once"
    queue.house.clock.forward(2 * 86_400)
    assert "No answer waits" in queue.page()
    assert len(queue.labels()) == 1


def test_nobody_labels_without_a_name_or_from_elsewhere(queue: Queue) -> None:
    form = queue.form(queue.page(), "good")
    assert queue.client.post("/labels", data=form | {"person_token": "guess"}).status_code == 403
    assert queue.client.post("/labels", data=form | {"form": "made up"}).status_code in (400, 403, 404, 410)
    assert queue.client.post("/labels", data=form, headers={"Origin": "http://evil.example"}).status_code == 403
    assert queue.client.post("/labels", data=form | {"grade": "delete"}).status_code == 400
    assert not queue.labels()


def test_the_scorers_stand_beside_what_people_say(queue: Queue) -> None:
    put(queue.store, tables.JUDGED, [
        pair(0, again=True, asked=False, chance=0.0, scores=[0.6, 0.4], judged_at=START + timedelta(days=1)),
        pair(6, errors=["timeout", None], scores=[0.5, 0.2], asked=False),
    ])  # fmt: skip
    queue.house.clock.forward(2 * 86_400)
    row = next(iter(queue.client.get("/labels?csv=scorers").text.splitlines()[1:])).split(",")
    names = queue.client.get("/labels?csv=scorers").text.splitlines()[0].split(",")
    told = dict(zip(names, row, strict=True))
    assert (told["pairs"], told["failed"], told["asked"], told["labelled"], told["unlabelled"]) == (
        "5",
        "1",
        "2",
        "0",
        "2",
    )
    assert (
        float(told["moved"]) == pytest.approx(0.3)
        and told["calls"] == "12"
        and float(told["money"]) == pytest.approx(0.06)
    )
    assert "2 too late" in queue.page()


def test_metrics_say_how_scorers_do(queue: Queue) -> None:
    """Each of them is on the board and in an alert (tests/golden)."""
    put(queue.store, tables.JUDGED, [pair(6, errors=["timeout", None], scores=[0.5, 0.2], asked=False),
                                     pair(1, again=True, asked=False, chance=0.0, scores=[0.5, 0.2], judged_at=START + timedelta(days=1))])  # fmt: skip
    for grade in ("good", "bad", "good", "bad"):
        queue.say(grade)
    exporter = Exporter(queue.store, clock=queue.house.clock)
    exporter.refresh()
    shown = {
        sample.name: sample.value
        for family in text_string_to_metric_families(exporter.text(generate_latest, "text").decode())
        for sample in family.samples if sample.name.startswith("lastgood_scorer_")
    }  # fmt: skip
    assert shown.keys() == {metric.name for metric in CATALOGUE if metric.name.startswith("lastgood_scorer_")}
    assert (shown["lastgood_scorer_answers"], shown["lastgood_scorer_failed"], shown["lastgood_scorer_unlabelled"]) == (
        12,
        1,
        0,
    )
    assert shown["lastgood_scorer_moved"] == pytest.approx(0.25) and 0 <= shown["lastgood_scorer_agreement"] <= 1
