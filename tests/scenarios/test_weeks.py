"""The pages of the weeks between over HTTP, over six made-up weeks in tables without Spark: every figure is what the tables say."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint, settings, verdict
from fleet_support import fleet_tables, put, window
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from waiting import HANG_S

from lastgood import tables
from lastgood.alerts.rules import document
from lastgood.alerts.web.app import create_app
from lastgood.alerts.web.chart import nice
from lastgood.alerts.web.chart import path as drawn
from lastgood.alerts.web.weeks import Flagged
from lastgood.record.definitions import BY_ANCHOR
from lastgood.record.verdict import State
from lastgood.record.windows import RELATIVE_ERROR, bucket
from lastgood.service.serve import flagged
from lastgood.settings import Mode, Web
from lastgood.tables.drifted import binned
from lastgood.tables.fleet import Fleet, Row
from lastgood.tables.history import Span, counts, delays, merged, windows
from lastgood.tables.measures import report_path

EVIL = "<script>alert(1)</script>"


class Pages:
    """The pages over the small fleet of fleet_support, with an open incident of `chat`."""

    def __init__(self, folder: Path, flags: Flagged = lambda rows: {}, **web: Any) -> None:
        self.house = House(folder, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE, Web(**web)))
        self.house.controller.handle(verdict())
        self.house.tick()
        self.store = fleet_tables(folder / "tables")
        self.fleet = Fleet(self.store, self.house.clock)
        self.fleet.refresh()
        app = create_app(
            self.house.controller, fleet=lambda: (self.fleet.rows, self.fleet.read_at), data=self.store, flags=flags
        )
        self.client = TestClient(app, base_url="http://127.0.0.1")

    def page(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def csv(self, path: str) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.page(path))))


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    built = Pages(tmp_path)
    yield built
    built.house.close()


def test_an_endpoint_shows_its_versions_beside_each_other_as_the_windows_say(pages: Pages) -> None:
    rows = {row["model_version"]: row for row in pages.csv("/endpoints/chat?range=6h&csv=versions")}
    assert {v: float(row["requests"]) for v, row in rows.items()} == {"2": 900, "3": 300}
    assert float(rows["3"]["error_rate"]) == pytest.approx(0.05) and float(rows["2"]["error_rate"]) == 0
    assert float(rows["3"]["p99_ms"]) == pytest.approx(900, rel=RELATIVE_ERROR)
    assert rows["2"]["bad_answers"] == "", "what is unknown is empty"
    page = pages.page("/endpoints/chat?range=6h")
    for part in (
        "5%",
        "75%",
        "25%",
        "HTTP_500",
        "model",
        "incident on version 3",
        "6.1% of requests fail on version 3",
    ):
        assert part in page, part
    assert "<script" not in page and " style=" not in page


def test_a_series_has_each_version_in_each_step_in_which_it_served(pages: Pages) -> None:
    rows = pages.csv("/endpoints/chat?range=6h&csv=series")
    assert len(rows) == 6 and {row["start"] for row in rows} == {
        (START - timedelta(minutes=n)).isoformat() for n in (40, 20, 5)
    }
    assert sum(float(row["requests"]) for row in rows) == 1200


def test_steps_sum_to_the_whole_whatever_their_width(pages: Pages) -> None:
    for width in (timedelta(hours=2), timedelta(hours=9), timedelta(hours=30)):
        span = Span.around(START - width, START, timedelta(minutes=1))
        whole = merged(counts(windows(pages.store, "chat", span)))
        assert {v: c.requests for v, c in whole.items()} == {"2": 900, "3": 300}, span.step
    days = Span.around(START - timedelta(days=6), START, timedelta(minutes=1))
    assert days.step >= timedelta(hours=1)
    assert merged(counts(windows(pages.store, "chat", days)))["2"].requests == sum(100 * n for n in range(24))


def test_a_span_covers_its_range_in_whole_steps() -> None:
    for hours in (0.2, 1, 7, 25, 200, 5000, 26_000):
        span = Span.around(START - timedelta(hours=hours), START)
        assert span.since <= START - timedelta(hours=hours) and span.until >= START
        assert span.starts[0] == span.since and span.starts[-1] + span.step == span.until
        assert len(span.starts) <= 182


def test_marks_tell_deploys_and_incidents_in_the_order_of_time(pages: Pages) -> None:
    at = START - timedelta(hours=3)
    rows = [("2", 100, at), ("2", 75, at + timedelta(hours=1)), ("3", 25, at + timedelta(hours=1))]
    put(pages.store, tables.DEPLOYMENTS, [
        {"endpoint": "chat", "config_version": 1 if share == 100 else 2, "served_entity": f"chat-{v}", "model_version": v, "traffic": share,
         "observed_at": when}
        for v, share, when in rows
    ])  # fmt: skip
    told = pages.csv("/endpoints/chat?range=6h&csv=events")
    assert [row["kind"] for row in told] == ["deploy", "deploy", "incident"]
    assert told[1]["what"] == "deployed version 3: version 2 75%, version 3 25%"
    assert 'class="trouble"' in pages.page("/endpoints/chat?range=6h")


def test_labels_say_how_late_they_came(pages: Pages) -> None:
    asked = [(f"r{n}", START - timedelta(days=5) + n * timedelta(hours=1)) for n in range(10)]
    put(pages.store, tables.SAMPLES, [
        {"endpoint": "chat", "model_version": "2", "window_start": at, "request_id": name, "requested_at": at} for name, at in asked
    ])  # fmt: skip
    put(pages.store, tables.SCORES, [
        {"endpoint": "chat", "request_id": name, "name": "label", "value": 1.0, "at": at, "received_at": at + timedelta(hours=n)}
        for n, (name, at) in enumerate(asked, 1)
    ])  # fmt: skip
    (told,) = delays(pages.store, "chat", Span.around(START - timedelta(days=7), START))
    assert (told.name, told.n, told.median) == ("label", 10, timedelta(hours=5.5))
    assert told.p90 == timedelta(hours=9.1)
    (row,) = pages.csv("/endpoints/chat?csv=delays")
    assert float(row["median_s"]) == 5.5 * 3600


def test_cost_is_by_version_and_team_in_its_currency(pages: Pages) -> None:
    rows = pages.csv("/endpoints/chat?range=7d&csv=cost")
    assert {(row["model_version"], row["money"], row["currency"]) for row in rows} == {
        ("2", "12.5", "USD"),
        ("3", "12.5", "USD"),
    }
    (no_price,) = [row for row in pages.csv("/endpoints/search?range=7d&csv=cost") if row["team"] == "b"]
    assert no_price["money"] == "" and no_price["currency"] == ""
    assert "no price" in pages.page("/endpoints/search?range=7d")


def test_an_endpoint_that_nobody_knows_is_not_found_and_odd_names_are_text(pages: Pages) -> None:
    assert pages.client.get("/endpoints/nobody").status_code == 404
    odd = "a/b <script>"
    put(pages.store, tables.WINDOWS, [window(odd, "1", START - timedelta(minutes=3), 10.0)])
    page = pages.page(f"/endpoints/{quote(odd, safe='')}?range=6h")
    assert "<script>" not in page and "a/b &lt;script&gt;" in page


@pytest.mark.parametrize(
    "query",
    [
        "?range=2y",
        "?from=yesterday",
        "?to=0001-01-01",
        "?from=2026-03-01T11:59&to=2026-03-01T12:00",
        "?from=2031-01-01",
        "?csv=all",
    ],
)
def test_a_range_that_means_nothing_is_refused_by_name(pages: Pages, query: str) -> None:
    answer = pages.client.get(f"/endpoints/chat{query}")
    assert answer.status_code == 400 and f"{query[1:].partition('=')[0]} must be" in answer.text


def test_every_link_of_the_ranges_is_a_page(pages: Pages) -> None:
    page = pages.page("/endpoints/chat?from=2026-03-01T06:00&to=2026-03-01T12:00")
    links = {link.replace("&amp;", "&") for link in re.findall(r'href="(/endpoints/chat\?[^"]+)"', page)}
    assert len(links) > 20
    for link in links:
        assert pages.client.get(link).status_code == 200, link


def test_a_name_with_blanks_around_it_has_links_that_work(pages: Pages) -> None:
    """A page knows only what the tables say, whatever it is called; what a person types may have blanks around it."""
    name = " chat two "
    put(pages.store, tables.WINDOWS, [window(name, "1", START - timedelta(minutes=5), 100)])
    put(pages.store, tables.REQUESTS, [asked(1, 10) | {"endpoint": name}])
    pages.fleet.refresh()
    (link,) = set(re.findall(r'href="(/endpoints/[^"]*two[^"]*)"', pages.page("/fleet")))
    page = pages.page(link)
    links = {found.replace("&amp;", "&") for found in re.findall(r'href="(/[^"]*two[^"]*)"', page)}
    assert len(links) > 8
    for found in links:
        answer = pages.client.get(found)
        assert answer.status_code == 200 and "No request is kept that fits" not in answer.text, found
    assert "chat" in pages.page("/incidents?endpoint=%20chat%20") and "r1" in pages.page(
        f"/requests?endpoint={quote(name)}"
    )


def test_every_figure_leads_to_its_definition(pages: Pages) -> None:
    defined = set(re.findall(r'<dt id="([^"]+)"', pages.page("/definitions")))
    assert defined == set(BY_ANCHOR)
    linked = set()
    for path in ("/endpoints/chat?range=6h", "/endpoints/search"):
        page = pages.page(path)
        linked |= set(re.findall(r'href="/definitions#([^"]+)"', page))
        for caption in re.findall(r"<figcaption>(.*?)</figcaption>", page):
            assert "/definitions#" in caption
    assert {"requests", "error-rate", "latency", "cost-by-token"} <= linked <= defined


def test_the_first_page_names_what_is_wrong_and_nothing_else(pages: Pages) -> None:
    page = pages.page("/")
    assert re.findall(r'<section class="card" aria-label="([^"]+)"', page) == ["chat"]
    assert "1 of 2 endpoints is wrong" in page
    assert re.search(r'Silent.*<a href="/endpoints/search">search</a>: newest telemetry 2 d ago', page, re.DOTALL)
    assert '<a href="/drift?endpoint=chat">1 of 3 columns</a>' in page


def test_what_nobody_has_judged_is_not_called_right(tmp_path: Path) -> None:
    """A new installation said that nothing was wrong before it had judged anything."""
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE))
    rows = {name: Row(name, (("3", 1.0),), 100, 655.0, 0.3, newest=START) for name in ("chat", "search")}
    client = TestClient(create_app(house.controller, fleet=lambda: (rows, START)), base_url="http://127.0.0.1")
    heading = re.compile(r"<h1>(.*?)</h1>")
    assert heading.findall(client.get("/").text) == ["No endpoint can be judged yet"]
    house.controller.handle(replace(verdict(State.HEALTHY), findings=()))
    assert heading.findall(client.get("/").text) == ["Nothing is wrong in the 1 endpoint that can be judged"]
    house.controller.handle(replace(verdict(State.HEALTHY), endpoint="search", findings=()))
    assert heading.findall(client.get("/").text) == ["Nothing is wrong"]
    house.close()


def _open(pages: Pages) -> tuple[str, str]:
    with pages.house.store.read() as tx:
        return tx.incidents(open_only=True)[0].id, "ann"


def test_incidents_are_listed_with_how_long_they_lasted(pages: Pages) -> None:
    number, who = _open(pages)
    assert "open" in pages.page("/incidents?state=open") and "6.1% of requests fail on version 3" in pages.page(
        "/incidents"
    )
    pages.house.clock.forward(3600)
    pages.house.controller.people.close(number, who, "fixed by hand")
    pages.house.clock.forward(3600)
    (row,) = pages.csv("/incidents?csv=incidents")
    assert (row["id"], row["endpoint"]) == (number, "chat") and "fixed by hand" in row["resolution"]
    assert 3600 <= float(row["lasted_s"]) < 3700
    assert (
        pages.csv("/incidents?state=open&csv=incidents") == [] == pages.csv("/incidents?endpoint=search&csv=incidents")
    )
    assert "No incident of search" in pages.page("/incidents?endpoint=search")


def test_an_incident_shows_the_evidence_then_and_now(pages: Pages) -> None:
    figures = {"new": {"p95_ms": 655.0, "error_rate": 0.061}, "prior": {"p95_ms": 401.0, "error_rate": 0.004}}
    pages.house.clock.forward(60)
    pages.house.controller.handle(replace(verdict(at=pages.house.clock()), figures=figures))
    page = pages.page(f"/incidents/{_open(pages)[0]}")
    cells = re.search(r">p95</th><td>655 ms</td><td>(\d+) ms</td><td>401 ms</td><td>(\d+) ms</td>", page)
    assert cells and [float(cell) for cell in cells.groups()] == pytest.approx([900, 100], rel=0.02)
    assert re.search(r">errors</th><td>6.1%</td><td>5%</td><td>0.4%</td><td>0%</td>", page)


# drift


def compared(column: str, days: float, distance: float | None, **more: Any) -> dict[str, Any]:
    return {
        "endpoint": "chat", "model_version": "3", "against": "reference", "kind": "input", "column": column,
        "computed_at": START - timedelta(days=days), "distance": distance, "low": distance, "drifted": (distance or 0) > 0.1,
        "reference": "last week", "method": "jensen-shannon", "n_current": 90, "n_reference": 90, **more,
    }  # fmt: skip


def sampled(days: float, number: int, **features: str) -> dict[str, Any]:
    at = START - timedelta(days=days)
    return {"endpoint": "chat", "model_version": "3", "window_start": at, "request_id": f"{days}-{number}", "requested_at": at,
            "features": list(features.items())}  # fmt: skip


def test_drift_lists_the_newest_comparison_of_each_column_the_worst_first(pages: Pages) -> None:
    put(
        pages.store,
        tables.DRIFT,
        [compared("amount", n, 0.3 - n / 100) for n in range(20)] + [compared("city", 1, None)],
    )
    rows = pages.csv("/drift?endpoint=chat&csv=columns")
    assert rows[0]["column"] == "amount" and float(rows[0]["distance"]) == 0.3
    assert {row["column"]: row["distance"] for row in rows}["city"] == ""
    assert len([row for row in pages.csv("/drift?endpoint=chat&csv=all") if row["column"] == "amount"]) == 20
    page = pages.page("/drift")
    assert (
        "not measured" in page
        and '<a href="/drift?endpoint=chat&amp;column=amount&amp;against=reference">amount</a>' in page
    )


def test_a_column_shows_the_two_samples_of_the_comparison_that_is_asked_for(pages: Pages) -> None:
    put(pages.store, tables.DRIFT, [compared("feature.amount", days, 0.3) for days in (0.1, 10)])
    now = [sampled(0.5, n, amount=str(200 + n)) for n in range(80)]
    ago = [sampled(7.5, n, amount=str(n)) for n in range(60)]
    put(pages.store, tables.SAMPLES, [*now, *ago])
    rows = pages.csv("/drift?endpoint=chat&column=feature.amount&csv=bins")
    assert (
        sum(float(row["current"]) for row in rows) == pytest.approx(1) == sum(float(row["reference"]) for row in rows)
    )
    assert float(rows[0]["current"]) == 0 < float(rows[0]["reference"]), "the lowest values are last week's"
    page = pages.page("/drift?endpoint=chat&column=feature.amount")
    assert "version 3, 80 values" in page and "last week, 60 values" in page
    old = (START - timedelta(days=9)).strftime("%Y-%m-%dT%H:%M")
    assert "not kept any more" in pages.page(f"/drift?endpoint=chat&column=feature.amount&at={old}")
    assert pages.client.get("/drift?endpoint=chat&column=nothing").status_code == 404


def test_categories_are_binned_by_name_and_what_is_rare_is_together() -> None:
    ours, theirs = ["a"] * 60 + ["b"] * 40, ["a"] * 50 + [f"rare{n}" for n in range(50)]
    made = binned(ours, theirs)
    assert made is not None
    labels, numeric, current, reference = made
    assert not numeric and labels[0] == "a" and labels[-1] == "other" and len(labels) == 13
    assert sum(current) == pytest.approx(1) == sum(reference) and current[-1] == 0
    assert binned([], ["a"]) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_shares_of_both_samples_sum_to_the_whole(ours: list[float], theirs: list[float]) -> None:
    made = binned(ours, theirs)
    assert made is not None
    labels, numeric, current, reference = made
    assert sum(current) == pytest.approx(1) == sum(reference)
    assert len(current) == len(reference) == len(labels) - numeric


# requests


def asked(number: int, minutes: float, **more: Any) -> dict[str, Any]:
    at = START - timedelta(minutes=minutes)
    return {"endpoint": "chat", "request_id": f"r{number}", "requested_at": at, "model_version": "3", "latency_ms": 5.0, "received_at": at,
            "input": f"question {number}", "output": "I'm sorry, but I can't help with that.", "finish_reason": "stop", "trace_id": f"t{number}",
            **more}  # fmt: skip


@pytest.fixture
def requested(tmp_path: Path) -> Iterator[Pages]:
    built = Pages(tmp_path, flags=flagged)
    put(built.store, tables.REQUESTS, [
        asked(1, 10), asked(2, 20, error_code="HTTP_500", output=None), asked(3, 30, output="Paris."), asked(4, 60 * 24 * 3, output=EVIL, input=None),
        asked(5, 5, error_code="HTTP_429", output=None),
    ])  # fmt: skip
    put(built.store, tables.STEPS, [
        {"endpoint": "chat", "request_id": "r1", "trace_id": "t1", "span_id": "s1", "kind": "tool", "name": "search", "started_at": START}
    ])  # fmt: skip
    yield built
    built.house.close()


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("endpoint=chat", ["r5", "r1", "r2", "r3"]), ("endpoint=chat&range=7d", ["r5", "r1", "r2", "r3", "r4"]), ("id=r4", ["r4"]),
        ("trace=t2", ["r2"]), ("endpoint=chat&code=any", ["r5", "r2"]), ("endpoint=chat&code=HTTP_500", ["r2"]), ("endpoint=search", []),
        ("endpoint=chat&flag=refusal", ["r1"]), ("endpoint=search&id=r1", []), ("", []),
    ],
)  # fmt: skip
def test_requests_are_found_by_id_trace_error_and_flag(requested: Pages, query: str, ids: list[str]) -> None:
    assert [row["request_id"] for row in requested.csv(f"/requests?{query}&csv=requests")] == ids
    page = requested.page(f"/requests?{query}")
    assert all(f"id={name}" in page for name in ids)


def test_a_request_shows_what_capture_kept_as_text(requested: Pages) -> None:
    page = requested.page("/requests?endpoint=chat&id=r4")
    assert EVIL not in page and "&lt;script&gt;" in page and "No text is kept." in page
    page = requested.page("/requests?endpoint=chat&id=r1")
    assert "question 1" in page and ">search</th>" in page
    assert "flag must be one of" in requested.client.get("/requests?endpoint=chat&flag=odd").text


# agents


def test_agents_are_shown_where_there_are_any(pages: Pages) -> None:
    assert ">Agents</a>" not in pages.page("/") and "No agent" in pages.page("/agents")
    run = {"endpoint": "chat", "agent": "planner", "window_start": START - timedelta(hours=1), "rows": 40, "failed": 2.0, "looped": 4.0,
           "loops_known": 20.0, "step_limited": 0.0, "tools_failed": 1.0, "handoffs": 0.0, "model_calls": 80.0, "tool_calls": 100.0,
           "tool_failures": 5.0, "tokens_in": 1.0, "tokens_out": 1.0, "priced": 20.0, "busy_ms": 1.0, "tool_ms": 0.5,
           "latency": [(bucket(400.0), 40.0)]}  # fmt: skip
    put(
        pages.store,
        tables.AGENT_WINDOWS,
        [
            run | {"model_version": "3", "runs": 40.0, "money": 0.5},
            run | {"model_version": "2", "runs": 10.0, "money": None},
        ],
    )
    put(pages.store, tables.TOOL_WINDOWS, [
        {"endpoint": "chat", "model_version": "3", "tool": "search", "window_start": START - timedelta(hours=n), "calls": 10.0, "errors": 3.0, "runs": 5.0,
         "runs_failed": 2.0, "codes": [("timeout", 3.0)], "latency": [(bucket(70.0), 10.0)]} for n in (1, 2)
    ])  # fmt: skip
    put(pages.store, tables.CONVERSATION_WINDOWS, [
        {"endpoint": "chat", "model_version": "3", "window_start": START - timedelta(hours=1), "conversations": 10.0, "closed": 8.0, "abandoned": 2.0,
         "repeated": 0.0, "repeated_known": 0.0, "escalated": 1.0, "requests": 40.0}
    ])  # fmt: skip
    pages.fleet.refresh()
    rows = pages.csv("/agents?csv=runs")
    assert [(row["model_version"], float(row["runs"]), row["money"]) for row in rows] == [
        ("2", 10.0, ""),
        ("3", 40.0, "0.5"),
    ]
    (tool,) = pages.csv("/agents?endpoint=chat&csv=tools")
    assert (tool["tool"], float(tool["calls"]), float(tool["errors"]), tool["codes"]) == (
        "search",
        20.0,
        6.0,
        "timeout=6",
    )
    page = pages.page("/agents?endpoint=chat")
    assert ">Agents</a>" in page and "0.0250" in page, "money of runs that have a price"
    for part in ("20%", "30%", "25%", "10%"):
        assert part in page, part


# Lastgood itself


def test_health_tells_how_far_behind_what_was_set_aside_and_how_complete(pages: Pages) -> None:
    put(pages.store, tables.RUNS, [
        {"job": "hours", "source": "windows", "version": 0, "after": -1, "rows_in": 5, "rows_out": 4, "seconds": 1.5, "finished_at": START}
    ])  # fmt: skip
    put(pages.store, tables.QUARANTINE, [
        {"quarantine_id": str(n), "received_at": START - timedelta(days=n), "source": "otlp", "reason": "no endpoint"} for n in (1, 2, 9)
    ])  # fmt: skip
    put(pages.store, tables.COMPLETENESS, [
        {"endpoint": "chat", "model_version": v, "window_start": START - timedelta(hours=2), "seen": 90, "expected": expected}
        for v, expected in (("2", 100.0), ("3", None))
    ])  # fmt: skip
    (job,) = pages.csv("/health?csv=jobs")
    assert (job["job"], job["behind"]) == ("hours", "1")
    (aside,) = pages.csv("/health?csv=quarantine")
    assert (aside["reason"], aside["rows"]) == ("no endpoint", "2")
    (complete,) = pages.csv("/health?csv=completeness")
    assert (complete["seen"], float(complete["share"])) == ("180", 0.9), "what nothing says the whole of is in no share"
    assert {row["table"] for row in pages.csv("/health?csv=tables")} >= {"windows", "runs", "quarantine"}
    page = pages.page("/health")
    assert "1 version" in page and "90%" in page and "Every message was delivered" in page


# all of them

PATHS = (
    "/",
    "/fleet",
    "/incidents",
    "/endpoints/chat",
    "/definitions",
    "/drift",
    "/requests",
    "/agents",
    "/labels",
    "/health",
    "/runbooks",
)


def test_who_may_not_read_sees_none_of_them(tmp_path: Path) -> None:
    built = Pages(tmp_path, oidc={"issuer": "http://127.0.0.1:9", "client_id": "lastgood"})
    for path in (*PATHS, "/drift/report", "/endpoints/chat?csv=versions"):
        answer = built.client.get(path, follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login"), path
    built.house.close()


def test_evidentlys_report_runs_apart_from_the_site(pages: Pages) -> None:
    assert pages.client.get("/drift/report?endpoint=chat&version=3").status_code == 404
    path = report_path(pages.store, "chat", "3")
    path.parent.mkdir(parents=True)
    path.write_text("<script>let report = 1</script>")
    answer = pages.client.get("/drift/report?endpoint=chat&version=3")
    assert answer.text == path.read_text() and answer.headers["content-security-policy"].startswith("sandbox")
    put(pages.store, tables.DRIFT, [compared("amount", 1, 0.3)])
    assert "/drift/report?endpoint=chat&amp;version=3" in pages.page("/drift?endpoint=chat")


def test_a_line_goes_on_over_gaps_only_where_it_is_measured_now_and_then() -> None:
    values = [1.0, 1.0, None, 1.0, None, None, 1.0, 1.0]
    assert drawn(values, 1.0).count("M") == 3 and "h8" in drawn(values, 1.0)
    assert drawn(values, 1.0, joined=True).count("M") == 1 and drawn(values, 1.0, joined=True).count("L") == 4
    assert drawn([None, None], 1.0) == ""


@given(st.floats(1e-9, 1e12))
def test_the_top_of_an_axis_is_above_its_values_and_near(value: float) -> None:
    assert value * 0.999 <= nice(value) <= 2.01 * value


def test_every_alert_has_its_runbook_in_the_service(pages: Pages) -> None:
    anchors = set(re.findall(r'<h2 id="([^"]+)"', pages.page("/runbooks")))
    alerts = {
        rule["alert"] for group in document(pages.house.config)["groups"] for rule in group["rules"] if "alert" in rule
    }
    assert {alert.lower() for alert in alerts} <= anchors


def test_the_demo_shows_made_up_weeks_until_it_is_told_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lastgood", "demo", "--history", "8", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as demo:
        assert demo.stdout is not None
        address = next(found[1] for line in demo.stdout if (found := re.search(r"(http://127\.0\.0\.1:\d+)/", line)))
        assert "2 of 6 endpoints are wrong" in httpx.get(f"{address}/").text
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(HANG_S) == 0
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
