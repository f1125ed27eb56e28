"""The page of the fleet over HTTP: every endpoint, its figures from the tables, and what an address asks of them."""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint, settings, verdict
from fleet_support import fleet_tables, put, window
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from lastgood import tables
from lastgood.alerts.web.app import create_app
from lastgood.alerts.web.fleet import PAGE_ROWS, SORTS, Asked, Line, chosen, written
from lastgood.record.verdict import State
from lastgood.record.windows import RELATIVE_ERROR
from lastgood.settings import Mode, Web
from lastgood.tables.fleet import Fleet, Row


class Pages:
    """The pages over the small fleet."""

    def __init__(self, folder: Path, **web: Any) -> None:
        self.house = House(folder, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE, Web(**web)))
        self.house.controller.handle(verdict())
        self.house.controller.handle(replace(verdict(State.HEALTHY), endpoint="search", reason="as good as before"))
        self.fleet = Fleet(fleet_tables(folder / "tables"), self.house.clock)
        self.fleet.refresh()
        app = create_app(self.house.controller, fleet=lambda: (self.fleet.rows, self.fleet.read_at))
        self.client = TestClient(app, base_url="http://127.0.0.1")

    def csv(self, query: str = "") -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.client.get(f"/fleet{query or '?'}&csv=endpoints").text)))


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Pages]:
    built = Pages(tmp_path)
    yield built
    built.house.close()


def names(page: str) -> list[str]:
    return re.findall(r'<th scope="row" class="name"><a href="/endpoints/[^"]*">([^<]+)', page)


def test_every_figure_of_the_fleet_is_what_the_tables_say(pages: Pages) -> None:
    chat, search = (pages.fleet.rows[name] for name in ("chat", "search"))
    assert chat.versions == (("2", 0.75), ("3", 0.25)) and chat.requests == 1200
    assert chat.error_rate == pytest.approx(15 / 1200)
    assert chat.p95_ms == pytest.approx(900, rel=RELATIVE_ERROR)
    assert chat.newest == START - timedelta(minutes=5)
    assert (chat.cost, chat.drifted, chat.compared) == (25.0, 1, 3), "the newest comparison of a column counts"
    assert (chat.features, chat.sources_unknown) == (START - timedelta(hours=5), 1), "the oldest source"
    assert sum(chat.week) == sum(100 * n for n in range(28)) and chat.week[-1] == 0
    assert search.cost is None, "a part without a price makes the sum unknown"
    assert (search.requests, search.p95_ms, search.newest) == (0, None, START - timedelta(days=2))


def test_rows_are_read_again_when_a_table_has_changed_and_when_an_hour_has_passed(pages: Pages) -> None:
    before = pages.fleet.rows
    pages.fleet.refresh()
    assert pages.fleet.rows is before, "nothing changed: nothing was read"
    put(pages.fleet.store, tables.WINDOWS, [window("rank", "1", START - timedelta(minutes=1), 10.0)])
    pages.fleet.refresh()
    assert pages.fleet.rows["rank"].requests == 10
    pages.house.clock.now += timedelta(hours=2)
    pages.fleet.refresh()
    assert pages.fleet.rows["chat"].requests == 0, "the last hour has moved on, though nothing new came"


def test_the_page_shows_the_worst_first_and_links_its_incident(pages: Pages) -> None:
    page = pages.client.get("/fleet").text
    assert names(page) == ["chat", "search"]
    assert re.search(r'chat</a> <a href="/incidents/\w+">incident', page)
    for part in ("1,200", "1.2%", "25.00", "1 of 3", "1 source unknown", "2 of 2 endpoints"):
        assert part in page
    assert "<script" not in page and "http:" not in page.replace("http://127.0.0.1", "")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?q=SEARCH", ["search"]), ("?q=good+before", ["search"]), ("?q=nowhere", []), ("?state=Healthy", ["search"]), ("?state=Page", []),
        ("?sort=endpoint", ["chat", "search"]), ("?sort=endpoint&order=down", ["search", "chat"]), ("?sort=cost&order=up", ["chat", "search"]),
        ("?sort=newest", ["search", "chat"]), ("?sort=requests", ["chat", "search"]),
    ],
)  # fmt: skip
def test_an_address_searches_filters_and_sorts_the_page_and_the_csv(
    pages: Pages, query: str, expected: list[str]
) -> None:
    assert names(pages.client.get(f"/fleet{query}").text) == expected
    assert [row["endpoint"] for row in pages.csv(query)] == expected


@pytest.mark.parametrize("query", ["?sort=money", "?state=Fine", "?order=left", "?page=0", "?page=-1", "?page=x"])
def test_an_address_that_means_nothing_is_refused_by_name(pages: Pages, query: str) -> None:
    answer = pages.client.get(f"/fleet{query}")
    assert answer.status_code == 400 and f"{query[1:].partition('=')[0]} must be" in answer.text


def test_unknown_is_empty_in_the_csv_and_a_text_is_no_formula(pages: Pages) -> None:
    by_name = {row["endpoint"]: row for row in pages.csv()}
    assert by_name["search"]["cost_7_days"] == "" and by_name["search"]["p95_ms"] == ""
    assert float(by_name["chat"]["error_rate"]) == pytest.approx(15 / 1200)
    assert written(["a", "b"], [["=1+1", -2.0]]) == "a,b\r\n'=1+1,-2.0\r\n"


def test_who_may_not_read_sees_no_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oidc: Any = {"issuer": "http://127.0.0.1:9", "client_id": "lastgood"}
    built = Pages(tmp_path, oidc=oidc)
    for path in ("/fleet", "/fleet?csv=endpoints"):
        answer = built.client.get(path, follow_redirects=False)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login")
    built.house.close()


def test_a_page_beyond_the_last_shows_the_last(pages: Pages) -> None:
    """A kept address outlives endpoints."""
    answer = pages.client.get("/fleet?page=9").text
    assert "chat" in names(answer) and "No endpoint matches" not in answer


def test_a_long_fleet_has_pages_that_name_every_endpoint_once(pages: Pages) -> None:
    pages.fleet.rows = {f"e{n:04}": Row(f"e{n:04}") for n in range(2 * PAGE_ROWS + 5)}
    seen = [name for page in (1, 2, 3) for name in names(pages.client.get(f"/fleet?page={page}&sort=endpoint").text)]
    assert sorted(seen) == sorted({*pages.fleet.rows, "chat", "search"}) and len(seen) == len(set(seen))


@given(
    st.lists(st.tuples(st.floats(0, 9) | st.none(), st.floats(0, 1) | st.none()), max_size=8),
    st.sampled_from(sorted(SORTS)),
    st.sampled_from(["", "up", "down"]),
)
def test_sorting_loses_nothing_and_puts_the_unknown_last(
    figures: list[tuple[float | None, float | None]], sort: str, order: str
) -> None:
    lines = [
        Line(Row(f"e{n}", p95_ms=p95, error_rate=rate), None, None, "observe") for n, (p95, rate) in enumerate(figures)
    ]
    kept = chosen(lines, Asked(sort=sort, order=order))
    assert sorted(line.row.endpoint for line in kept) == sorted(line.row.endpoint for line in lines)
    values = [SORTS[sort][1](line) for line in kept]
    known = [value for value in values if value is not None]
    assert values[: len(known)] == known == sorted(known, reverse=Asked(sort=sort, order=order).down)


def test_an_address_keeps_what_it_asks_for() -> None:
    asked = Asked("a b", "Page", "p95", "up", 3)
    from urllib.parse import parse_qsl

    assert Asked.of(dict(parse_qsl(asked.address(page=3)[1:]))) == asked
    assert Asked.of(dict(parse_qsl(asked.by("errors")[1:]))) == Asked("a b", "Page", "errors")
    with pytest.raises(HTTPException):
        Asked.of({"sort": "x"})
