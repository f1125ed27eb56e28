"""The evidence page over real HTTP: looking changes nothing, and only a person's own click does."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from alerts_support import KEY, START, House, MemoryWorkspace, endpoint, entity, settings, verdict
from starlette.exceptions import HTTPException
from starlette.requests import Request
from web_support import PERSON, Site

from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.rollback.links import Signer
from lastgood.alerts.web.app import create_app
from lastgood.alerts.web.auth import Auth
from lastgood.alerts.web.guard import MAX_FORM_BYTES
from lastgood.alerts.web.pages import REPORT_CSP
from lastgood.record.verdict import State
from lastgood.settings import Mode, Web

EVIL = "<script>alert(1)</script>"
FAILED: Any = [
    {"requested_at": START, "error_code": "HTTP_500", "latency_ms": 1204.0, "request_id": "r-1", "trace_id": "0af7/651"},
    {"requested_at": START, "error_code": EVIL * 9, "latency_ms": None, "request_id": EVIL, "trace_id": None},
]  # fmt: skip
TOOLS: Any = [
    {"tool": EVIL, "new": {"calls": 1204.0, "error_rate": 0.31, "p95_ms": 2100.4}, "prior": {"calls": 3.0, "error_rate": 0.0, "p95_ms": None}},
    {"tool": "book", "new": None, "prior": {"calls": 3.0, "error_rate": 0.0, "p95_ms": 7.0}},
]  # fmt: skip
SERIES: Any = [{"name": "error rate", "unit": "%", "new": [0.1, None, 6.1, 6.0], "prior": [0.4, 0.4, 0.3, None]}]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Site]:
    monkeypatch.setenv("LASTGOOD_PERSON_TOKEN", PERSON)
    web = Web(**getattr(request, "param", {}))
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE, web))
    house.verdict()
    house.tick()
    series = lambda one: SERIES if one.endpoint == "chat" else ()  # noqa: E731
    with serving(create_app(house.controller, series, failing=lambda one: FAILED, tools=lambda one: TOOLS)) as url:
        built = Site(house, url)
        yield built
        built.browser.close()
    house.store.close()


def dump(house: House) -> list[str]:
    """The whole state, as text."""
    with house.store.read() as tx:
        return list(tx._db.connection.driver_connection.iterdump())  # type: ignore[union-attr]


def test_get_and_head_change_nothing_any_number_of_times(site: Site) -> None:
    before = dump(site.house)
    rollback, incident = site.house.rollback().id, site.house.rollback().incident_id
    for _ in range(3):
        for path in (
            site.path,
            "/",
            f"/incidents/{incident}",
            "/api/incidents",
            f"/api/rollbacks/{rollback}",
            "/healthz",
        ):
            for method in ("GET", "HEAD"):
                assert site.browser.request(method, path).status_code == 200, path
    assert dump(site.house) == before
    assert site.unchanged()


def test_the_page_says_what_a_person_needs(site: Site) -> None:
    page = site.browser.get(site.path).text
    for part in (
        "6.1% of requests fail on version 3",
        "Since <strong>2026-03-01 11:56 UTC</strong> (4 minutes)",
        "less than once in 400 times",
        "6.1%",
        "0.4%",
        "15.2",
        "traffic of chat-3: 100% -&gt; 0%",
        "the configuration before it keeps serving",
        "Roll back to version 2",
        '<path class="new" d="M0.0 45.3 M200.0 2.0 L300.0 2.7"/>',
    ):
        assert part in page, part
    assert "<script" not in page
    assert 'name="viewport"' in page


@pytest.mark.parametrize("site", [{"trace_url": "https://traces.example.com/t/{trace_id}"}], indirect=True)
def test_failing_requests_are_shown_with_a_link_to_their_trace(site: Site) -> None:
    page = site.browser.get(site.path).text
    assert '<a href="https://traces.example.com/t/0af7/651">trace 0af7/651</a>' in page
    assert "1,204 ms" in page and "HTTP_500" in page and "r-1" in page
    assert EVIL not in page


def test_the_tools_of_an_agent_are_shown_for_both_versions(site: Site) -> None:
    page = site.browser.get(site.path).text
    assert "Tools of the agent" in page and EVIL not in page
    for row in (
        "<td>1,204</td><td>31%</td><td>2,100 ms</td><td>3</td><td>0%</td><td>-</td>",
        "book</th><td>-</td><td>-</td><td>-</td><td>3</td><td>0%</td><td>7 ms</td>",
    ):
        assert row in page


def test_a_person_rolls_back_and_sees_the_progress(site: Site) -> None:
    answer = site.post(site.form("approve"))
    assert answer.status_code == 303
    progress = answer.headers["location"]
    assert progress == f"/incidents/{site.house.rollback().incident_id}"
    page = site.browser.get(progress).text
    assert '<meta http-equiv="refresh" content="2">' in page and "Approved" in page
    site.house.tick_until(lambda r: r.state.ended)
    page = site.browser.get(progress).text
    assert "refresh" not in page and "Done" in page and "Resolved" in page
    assert len(site.house.workspace.updates) == 1
    after = site.browser.get(site.path).text
    assert "decides nothing any more" in after and "<form" not in after


def test_hold_and_reject(site: Site) -> None:
    assert site.post(site.form("hold", minutes="soon")).status_code == 409
    assert site.post(site.form("hold", minutes="15")).status_code == 303
    assert site.house.rollback().progress.reason == "held for 15 minutes"
    site.house.tick()
    site.path = f"/r/{site.house.token()}"
    assert site.post(site.form("reject", reason=" ")).status_code == 409
    assert site.post(site.form("reject", reason=EVIL)).status_code == 303
    assert site.house.rollback().progress.reason == EVIL
    page = site.browser.get(f"/incidents/{site.house.rollback().incident_id}").text
    assert EVIL not in page and "&lt;script&gt;" in page


def test_a_replay_is_refused(site: Site) -> None:
    form = site.form("approve")
    assert site.post(form).status_code == 303
    again = site.post(form)
    assert again.status_code == 409 and "used before" in again.text


@pytest.mark.parametrize("token", ["", "wrong", "the-person-toke", "é"])
def test_only_a_person_can_act(site: Site, token: str) -> None:
    answer = site.post(site.form("approve", person_token=token))
    assert answer.status_code == 403 and "person token" in answer.text
    assert site.unchanged()


def test_a_bearer_token_is_a_person_too(site: Site) -> None:
    form = site.form("approve", person_token="")
    assert site.post(form, Authorization="Bearer wrong").status_code == 403
    assert site.post(form, Authorization=f"Bearer {PERSON}").status_code == 303


def test_a_forwarded_user_is_not_believed_by_default(site: Site) -> None:
    form = site.form("approve", person_token="")
    assert site.post(form, **{"X-Forwarded-Email": "ann@example.com"}).status_code == 403
    assert site.unchanged()


@pytest.mark.parametrize("site", [{"trust_forwarded_user": True}], indirect=True)
def test_a_service_principal_behind_the_apps_proxy_reads_and_decides_nothing(site: Site) -> None:
    """It has no address."""
    scraper = {"X-Forwarded-User": "7654321@1234567"}
    assert site.browser.get("/api/incidents", headers=scraper).status_code == 200
    assert site.browser.get("/api/incidents").status_code == 401
    assert site.post(site.form("approve", person_token=""), **scraper).status_code == 403
    assert site.unchanged()


@pytest.mark.parametrize("token", ["", "scrape-me"])
def test_a_service_principal_scrapes_where_its_own_token_ends_at_the_apps_proxy(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTGOOD_METRICS_TOKEN", token)

    def scrape(web: Web, **headers: str) -> None:
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        Auth(web, "key", lambda number: False, lambda number: None).scraper(Request({"type": "http", "headers": sent}))

    app = Web(trust_forwarded_user=True)
    scrape(app, x_forwarded_user="7654321@1234567")
    with pytest.raises(HTTPException):
        scrape(app)
    if token:
        with pytest.raises(HTTPException):
            scrape(Web(), x_forwarded_user="7654321@1234567")


@pytest.mark.parametrize("site", [{"trust_forwarded_user": True}], indirect=True)
def test_a_forwarded_user_is_a_person_where_the_deployment_says_so(site: Site) -> None:
    page = site.browser.get(site.path, headers={"X-Forwarded-Email": "ann@example.com"}).text
    assert "Person token" not in page and "You are ann@example.com" in page
    form = site.form("approve", person_token="")
    assert site.post(form).status_code == 403
    assert site.post(form, **{"X-Forwarded-Email": "ann@example.com"}).status_code == 303
    assert site.house.rollback().progress.who == "ann@example.com"


def test_without_a_person_token_configured_nobody_is_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LASTGOOD_PERSON_TOKEN", raising=False)
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE))
    house.verdict()
    house.tick()
    with serving(create_app(house.controller)) as url:
        site = Site(house, url)
        assert site.post(site.form("approve", person_token="")).status_code == 403
        assert site.unchanged()
        site.browser.close()
    house.store.close()


def test_a_form_this_page_did_not_make_is_refused(site: Site) -> None:
    form = site.form("approve")
    for bad in (form | {"form": ""}, form | {"form": "x"}, form | {"action": "reject", "reason": "x"}):
        assert site.post(bad).status_code == 403
    assert site.post(form | {"action": "delete"}).status_code == 400
    stranger = httpx.post(site.url + site.path, data=form)
    assert stranger.status_code == 403, "the form belongs to another browser"
    assert site.unchanged()


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    ],
)
def test_a_request_from_another_site_is_refused(site: Site, headers: dict[str, str]) -> None:
    answer = site.post(site.form("approve"), **headers)
    assert answer.status_code == 403 and "another site" in answer.text
    assert site.unchanged()


def test_the_sites_own_forms_pass(site: Site) -> None:
    form = site.form("approve")
    assert site.post(form, Origin="null", **{"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_links_that_are_not_good(site: Site) -> None:
    house, form = site.house, site.form("approve")
    claims = house.controller.people.signer.verify(house.token(), START)
    signer = Signer([KEY])
    cases: list[tuple[str, int, int]] = [
        ("nonsense", 403, 403),
        (house.token()[:-4] + "AAAA", 403, 403),
        (Signer(["another-key-of-16-or-more"]).sign(claims), 403, 403),
        (signer.sign(replace(claims, expires_at=START)), 410, 410),
        (signer.sign(replace(claims, endpoint="search")), 409, 409),
        (signer.sign(replace(claims, config_version=8)), 409, 409),
        (signer.sign(replace(claims, plan_id="0" * 32)), 409, 409),
        (signer.sign(replace(claims, incident="i0")), 409, 409),
    ]
    for token, get, post in cases:
        answer = site.browser.get(f"/r/{token}")
        assert answer.status_code == get, token
        assert "<form" not in answer.text
        cookie = site.browser.cookies["lastgood_form"]
        own = form | {"form": signer.sign_form(token, "approve", cookie)}
        assert site.browser.post(f"/r/{token}", data=own).status_code == post, token
    assert site.unchanged()


def test_the_kill_switch_is_on_every_page(site: Site) -> None:
    form = site.form("approve")
    site.house.controller.people.set_kill_switch(True, "ann", f"why {EVIL}")
    for path in ("/", site.path, f"/incidents/{site.house.rollback().incident_id}", "/incidents/none", "/r/x"):
        page = site.browser.get(path).text
        assert "The kill switch is on" in page and "&lt;script&gt;" in page and EVIL not in page
    answer = site.post(form)
    assert answer.status_code == 409 and "kill switch" in answer.text
    assert site.browser.get("/healthz").json()["kill_switch"] is True
    assert site.unchanged()


def test_large_and_odd_bodies_are_refused(site: Site) -> None:
    form = site.form("reject", reason="x" * MAX_FORM_BYTES)
    assert site.post(form).status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"a" * 1024

    form_type = {"Content-Type": "application/x-www-form-urlencoded"}
    assert site.browser.post(site.path, content=chunks(), headers=form_type).status_code == 413
    assert site.browser.post(site.path, json={"action": "approve"}).status_code == 415
    assert site.browser.post(site.path, content=b"\xff=1", headers=form_type).status_code == 400
    assert site.browser.put(site.path).status_code == 405
    assert site.unchanged()


def test_every_answer_carries_the_security_headers(site: Site) -> None:
    for path in ("/", site.path, "/r/x", "/nowhere", "/api/incidents", "/healthz"):
        headers = site.browser.get(path).headers
        csp = headers["content-security-policy"]
        assert "default-src 'none'" in csp and "frame-ancestors 'none'" in csp and "unsafe" not in csp
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
    cookie = site.browser.get(site.path).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie


def test_hostile_strings_are_shown_as_text(tmp_path: Path) -> None:
    bad = entity("3", name=EVIL)
    e = replace(
        endpoint("2"), entities=(entity("2"), replace(bad, name=EVIL, entity_version=EVIL)), traffic={EVIL: 100}
    )
    house = House(tmp_path, MemoryWorkspace(e), settings(Mode.APPROVE))
    base = verdict(State.ROLL_BACK, candidate=EVIL)
    finding = replace(base.findings[0], metric=EVIL, sentence=EVIL)
    figures: dict[str, Any] = {EVIL: EVIL}
    house.controller.handle(replace(base, reason=EVIL, findings=(finding,), figures=figures, vetoes=(EVIL,)))
    house.tick()
    series: Any = [{"name": EVIL, "unit": EVIL, "new": [1.0], "prior": []}]
    with serving(create_app(house.controller, lambda _: series)) as url:
        incident = house.rollback().incident_id
        for path in ("/", f"/r/{house.token()}", f"/incidents/{incident}"):
            page = httpx.get(url + path).text
            assert "&lt;script&gt;" in page and "<script" not in page
    house.store.close()


def test_the_api_tells_what_happened_without_the_settings(site: Site) -> None:
    (incident,) = site.browser.get("/api/incidents").json()
    assert (incident["endpoint"], incident["candidate"], incident["state"]) == ("chat", "3", "open")
    rollback = site.browser.get(f"/api/rollbacks/{incident['rollback']['id']}").json()
    assert rollback == incident["rollback"]
    assert (rollback["state"], rollback["path"], rollback["prior_version"]) == ("Proposed", "fast", "2")
    assert "secrets" not in str(incident)
    assert site.browser.get("/api/rollbacks/none").status_code == 404
    assert site.browser.get("/incidents/none").status_code == 404


def test_an_evidence_link_offers_no_buttons(tmp_path: Path) -> None:
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings())
    house.verdict(State.PAGE)
    house.tick()
    path = house.notifier.events[0]["links"][0]["href"].removeprefix("http://127.0.0.1:8484")
    with serving(create_app(house.controller)) as url:
        page = httpx.get(url + path)
        assert page.status_code == 200 and "<form" not in page.text
        assert "6.1% of requests fail" in page.text
    house.store.close()


@pytest.mark.parametrize(
    "evil", ["%0d%0aSet-Cookie:%20a=b", "x%0aLocation:%20https://evil.example", "%00", "%f0%28%8c%28"]
)
def test_what_is_in_a_url_gets_into_no_header(site: Site, evil: str) -> None:
    for path in (f"/r/{evil}", f"/incidents/{evil}", f"/api/rollbacks/{evil}", f"/{evil}"):
        answer = site.browser.get(path)
        assert answer.status_code in (400, 403, 404)
        assert "a" not in answer.cookies and "evil" not in str(answer.headers)
    form = site.form("reject", reason="x\r\nSet-Cookie: a=b")
    answer = site.post(form)
    assert answer.status_code == 303 and "a" not in answer.cookies
    assert re.fullmatch(r"/incidents/[0-9a-f]{16}", answer.headers["location"])


def test_no_secret_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    site.post(site.form("approve", person_token="wrong-token"))
    site.post(site.form("approve"))
    site.house.tick_until(lambda r: r.state.ended)
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("lastgood")]
    token = site.path.removeprefix("/r/")
    assert not any(secret in line for line in ours for secret in (PERSON, "wrong-token", KEY, token))


def test_the_evidence_page_links_the_drift_report_which_runs_apart_from_the_site(site: Site, tmp_path: Path) -> None:
    assert "/drift" not in site.browser.get(site.path).text
    assert site.browser.get(f"{site.path}/drift").status_code == 404
    report = tmp_path / "report.html"
    report.write_text("<script>let report = 1</script>")
    found = {("chat", "3"): report}
    with serving(create_app(site.house.controller, report=lambda *version: found.get(version))) as url:
        page = httpx.get(f"{url}{site.path}").text
        assert f'href="{site.path}/drift"' in page
        answer = httpx.get(f"{url}{site.path}/drift")
        assert answer.text == report.read_text()
        assert answer.headers.get_list("content-security-policy") == [REPORT_CSP]
        assert REPORT_CSP.startswith("sandbox allow-scripts;")
        assert httpx.get(f"{url}{site.path[:-4]}AAAA/drift").status_code == 403
    assert site.unchanged()
