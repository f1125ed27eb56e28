"""The pages of the weeks between over HTTP, over six made-up weeks in tables without Spark: every figure is what the tables say."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint, settings, verdict
from fleet_support import fleet_tables, put, window
from starlette.testclient import TestClient

from lastgood import tables
from lastgood.alerts.web.app import create_app
from lastgood.record.definitions import BY_ANCHOR
from lastgood.record.windows import RELATIVE_ERROR
from lastgood.settings import Mode, Web
from lastgood.tables.fleet import Fleet
from lastgood.tables.history import Span, counts, delays, merged


class Pages:
    """The pages over the small fleet of fleet_support, with an open incident of `chat`."""

    def __init__(self, folder: Path, **web: Any) -> None:
        self.house = House(folder, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE, Web(**web)))
        self.house.controller.handle(verdict())
        self.house.tick()
        self.store = fleet_tables(folder / "tables")
        self.fleet = Fleet(self.store, self.house.clock)
        self.fleet.refresh()
        app = create_app(self.house.controller, fleet=lambda: (self.fleet.rows, self.fleet.read_at), data=self.store)
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
        "5.0%",
        "75 %",
        "25 %",
        "HTTP_500",
        "model",
        "incident on version 3",
        "6.1 % of requests fail on version 3",
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
        whole = merged(counts(pages.store, "chat", span))
        assert {v: c.requests for v, c in whole.items()} == {"2": 900, "3": 300}, span.step
    days = Span.around(START - timedelta(days=6), START, timedelta(minutes=1))
    assert days.step >= timedelta(hours=1)
    assert merged(counts(pages.store, "chat", days))["2"].requests == sum(100 * n for n in range(24))


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
    assert told[1]["what"] == "deployed version 3: version 2 75 %, version 3 25 %"
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


def _open(pages: Pages) -> tuple[str, str]:
    with pages.house.store.read() as tx:
        return tx.incidents(open_only=True)[0].id, "ann"


def test_incidents_are_listed_with_how_long_they_lasted(pages: Pages) -> None:
    number, who = _open(pages)
    assert "open" in pages.page("/incidents?state=open") and "6.1 % of requests fail on version 3" in pages.page(
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
    assert re.search(r">errors</th><td>6.1%</td><td>5.0%</td><td>0.4%</td><td>0.0%</td>", page)
