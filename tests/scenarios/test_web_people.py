"""Who may decide: OpenID logins, named tokens, approvers, two persons; the kill page; limits; the service's own description."""

import hmac
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from alerts_support import House, MemoryWorkspace, endpoint, settings
from fleet_support import fleet_tables
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from servers import free_port
from soak import scaled
from web_support import PERSON, Site

from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.rollback.machine import Approve, Status
from lastgood.alerts.web.app import create_app
from lastgood.alerts.web.fake_oidc import FakeOidc, serve_fake
from lastgood.errors import RefusedError
from lastgood.service.serve import flagged
from lastgood.settings import Mode, Web

CLIENT = "lastgood"


class Built:
    """A site on a known port, so that a login provider finds its way back."""

    def __init__(self, folder: Path, web: dict[str, Any], policy: dict[str, Any], state: str | None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = settings(Mode.APPROVE, Web(base_url=self.url, **web), **policy)
        self.house = House(folder, MemoryWorkspace(endpoint("2", "3")), config, url=state)
        self.house.verdict()
        self.house.tick()
        self.app = create_app(self.house.controller, data=fleet_tables(folder / "tables"), flags=flagged)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(
            tokens: str = PERSON, policy: dict[str, Any] | None = None, state: str | None = None, **web: Any
        ) -> Site:
            monkeypatch.setenv("LASTGOOD_PERSON_TOKEN", tokens)
            monkeypatch.setenv("LASTGOOD_HOOK_TOKEN", "hook-token")
            built = Built(tmp_path, web, policy or {}, state)
            stack.enter_context(serving(built.app, built.port))
            site = Site(built.house, built.url)
            stack.callback(built.house.close)
            stack.callback(site.browser.close)
            return site

        yield make


@pytest.fixture
def provider() -> Iterator[FakeOidc]:
    with serve_fake() as fake:
        yield fake


def signed_in(site: Site, path: str = "") -> httpx.Response:
    """Through the provider and back, as a browser goes."""
    return site.browser.get("/login", params={"next": path or site.path}, follow_redirects=True)


def oidc(provider: FakeOidc) -> dict[str, Any]:
    return {"oidc": {"issuer": provider.url, "client_id": CLIENT}}


# OpenID


def test_a_person_signs_in_comes_back_and_decides(build: Any, provider: FakeOidc) -> None:
    site = build(tokens="", **oidc(provider))
    page = site.browser.get(site.path).text
    assert "Sign in to decide" in page and "<form" not in page
    back = signed_in(site)
    assert str(back.url) == site.url + site.path
    assert "You are ann@example.com" in back.text and "Person token" not in back.text
    assert site.post(site.form("approve", person_token="")).status_code == 303
    assert site.house.rollback().progress.who == "ann@example.com"
    assert site.browser.post("/logout").status_code == 303
    away = site.browser.get("/kill")
    assert (away.status_code, away.headers["location"]) == (303, "/login?next=/kill")


def test_the_code_is_bound_to_the_browser_that_asked(build: Any, provider: FakeOidc) -> None:
    site = build(**oidc(provider))
    to_provider = site.browser.get("/login").headers["location"]
    query = httpx.URL(to_provider).params
    assert query["code_challenge_method"] == "S256" and query["state"] and query["nonce"]
    callback = httpx.get(to_provider).headers["location"]
    stranger = httpx.get(callback)
    assert stranger.status_code == 403 and "sign in again" in stranger.text
    assert site.browser.get(callback.replace("state=", "state=x")).status_code == 403
    assert site.browser.get(callback).status_code == 303
    assert site.browser.get(callback).status_code == 403, "a code works once"


@pytest.mark.parametrize(
    "claims",
    [{"aud": "another"}, {"iss": "http://evil"}, {"nonce": "x"}, {"exp": 1}, {"email_verified": False}],
)
def test_an_id_token_that_is_not_good_is_refused(build: Any, provider: FakeOidc, claims: dict[str, Any]) -> None:
    site = build(**oidc(provider))
    provider.claims = claims
    assert signed_in(site).status_code == 403
    assert "You are" not in site.browser.get(site.path).text


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "/\\evil.example", "/x\r\nSet-Cookie: a=b"]
)
def test_a_login_leads_back_to_this_site_only(build: Any, provider: FakeOidc, target: str) -> None:
    site = build(**oidc(provider))
    back = signed_in(site, target)
    assert str(back.url) == site.url + "/"
    assert all("evil" not in str(one.headers) and "a" not in one.cookies for one in back.history)


def test_a_session_cookie_that_was_altered_is_nobody(build: Any, provider: FakeOidc) -> None:
    site = build(**oidc(provider))
    signed_in(site)
    assert "httponly" in site.browser.get("/login").headers["set-cookie"].lower()
    signed_in(site)
    value = site.browser.cookies["lastgood_session"]
    assert "You are" in httpx.get(site.url + site.path, cookies={"lastgood_session": value}).text
    assert "You are" not in httpx.get(site.url + site.path, cookies={"lastgood_session": "A" + value[1:]}).text


def test_a_provider_that_is_down_is_said(build: Any) -> None:
    site = build(oidc={"issuer": "http://127.0.0.1:9", "client_id": CLIENT})
    answer = site.browser.get("/login")
    assert answer.status_code == 503 and "cannot be reached" in answer.text


# who may, and how many


def test_named_tokens_say_who_it_was(build: Any) -> None:
    site = build("ann:secret-a,bob:secret-b")
    assert site.post(site.form("approve", person_token="secret-c")).status_code == 403
    assert site.post(site.form("approve", person_token="secret-b")).status_code == 303
    assert site.house.rollback().progress.who == "bob"


def test_only_approvers_decide(build: Any) -> None:
    site = build("ann@example.com:secret-a,eve@evil.example:secret-e", approvers=("*@example.com",))
    answer = site.post(site.form("approve", person_token="secret-e"))
    assert (
        answer.status_code == 403 and "eve@evil.example is not among those who may do this (approvers)" in answer.text
    )
    assert site.post(site.form("approve", person_token="secret-a")).status_code == 303


def test_two_different_persons_must_approve(build: Any) -> None:
    site = build("ann:secret-a,bob:secret-b", policy={"approvals": 2})
    assert "Two persons must approve" in site.browser.get(site.path).text
    assert site.post(site.form("approve", person_token="secret-a")).status_code == 303
    assert site.house.rollback().state is Status.PROPOSED
    site.house.tick(3)
    assert site.house.workspace.updates == []
    site.path = f"/r/{site.house.token()}"
    again = site.post(site.form("approve", person_token="secret-a"))
    assert again.status_code == 409 and "another person must" in again.text
    assert site.post(site.form("approve", person_token="secret-b")).status_code == 303
    assert site.house.rollback().progress.who == "ann and bob"
    site.house.tick_until(lambda r: r.state.ended)
    assert len(site.house.workspace.updates) == 1


def test_too_many_tries_are_stopped(build: Any) -> None:
    site = build(posts_per_minute=3)
    form = site.form("approve", person_token="wrong")
    assert [site.post(form).status_code for _ in range(5)] == [403, 403, 403, 429, 429]
    assert site.unchanged()
    last = site.post(form)
    assert last.status_code == 429 and last.headers["retry-after"] == "60"
    assert site.post(site.form("approve")).status_code == 303, "strangers behind the same proxy lock nobody out"
    assert site.house.tick_until(lambda r: r.state.ended).state is Status.DONE


def test_two_spellings_of_one_address_are_one_person(build: Any) -> None:
    """An App's header, a login and a token may write the same address differently: that is no second person."""
    site = build(
        "Ann@Example.com:secret-a,bob@example.com:secret-b",
        policy={"approvals": 2},
        identities={"ann-laptop": "ANN@example.com"},
    )
    assert site.post(site.form("approve", person_token="secret-a")).status_code == 303
    site.house.tick()
    for spelling in ("ann@example.com", "ANN@EXAMPLE.COM", "ann-laptop", " Ann@example.com"):
        with pytest.raises(RefusedError, match="another person must"):
            site.house.controller.people.decide(site.house.token(), Approve(spelling))
    site.house.controller.people.decide(site.house.token(), Approve("Bob@example.com"))
    assert site.house.rollback().progress.who == "ann@example.com and bob@example.com"


# reading


def test_where_people_sign_in_reading_needs_it_too(
    build: Any, provider: FakeOidc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTGOOD_METRICS_TOKEN", "scrape-me")
    site = build(**oidc(provider))
    incident = site.house.rollback().incident_id
    for path in ("/", f"/incidents/{incident}", "/kill"):
        assert site.browser.get(path).headers["location"] == f"/login?next={path}", path
    for path in ("/api/incidents", f"/api/rollbacks/{site.house.rollback().id}"):
        assert site.browser.get(path).status_code == 401, path
    assert site.browser.get("/healthz").status_code == 200
    assert site.browser.get(site.path).status_code == 200, "a signed link opens its own evidence"
    signed_in(site)
    assert all(site.browser.get(path).status_code == 200 for path in ("/", f"/incidents/{incident}", "/api/incidents"))


def test_a_session_that_was_signed_out_is_worth_nothing(build: Any, provider: FakeOidc) -> None:
    site = build(**oidc(provider))
    signed_in(site)
    copy = dict(site.browser.cookies)
    assert httpx.get(site.url + "/", cookies=copy).status_code == 200
    site.browser.post("/logout")
    assert httpx.get(site.url + "/", cookies=copy).status_code == 303


def test_viewers_read_and_do_not_act(build: Any) -> None:
    site = build(
        "ann:secret-a,vic:secret-v", approvers=("ann",), operators=("ann",), viewers=("vic",), login_to_read=True
    )
    reader = {"authorization": "Bearer secret-v"}
    assert site.browser.get("/", headers=reader).status_code == 200
    assert site.browser.get("/").status_code == 401
    assert site.post(site.form("approve", person_token="secret-v")).status_code == 403
    assert site.post(site.form("approve", person_token="secret-a")).status_code == 303


def test_the_service_answers_to_its_own_names_only(build: Any) -> None:
    site = build()
    assert site.browser.get("/", headers={"host": "evil.example"}).status_code == 400
    assert site.browser.get("/healthz", headers={"host": "10.1.2.3"}).status_code == 200


# PagerDuty's webhooks


def test_what_a_person_does_in_pagerduty_is_done_here(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTGOOD_PAGERDUTY_HOOK_SECRET", "hook-secret")
    site = build()
    incident = site.house.rollback().incident_id

    def hook(kind: str, number: str, key: str = "hook-secret") -> httpx.Response:
        event = {
            "id": number,
            "event_type": kind,
            "agent": {"summary": "Ann Lee"},
            "data": {"type": "incident", "incident_key": incident},
        }
        body = json.dumps({"event": event}).encode()
        signature = "v1=" + hmac.new(key.encode(), body, "sha256").hexdigest()
        return site.browser.post(
            "/hooks/pagerduty",
            content=body,
            headers={"content-type": "application/json", "x-pagerduty-signature": signature},
        )

    assert hook("incident.acknowledged", "e1", "forged").status_code == 403
    assert hook("incident.acknowledged", "e1").json() == {"taken": True}
    assert hook("incident.acknowledged", "e1").json() == {"taken": False}, "a webhook may come twice"
    assert hook("incident.priority_updated", "e2").json() == {"taken": False}
    with site.house.store.read() as tx:
        assert tx.incidents()[0].acked_by == "ann lee (pagerduty)"
    assert hook("incident.resolved", "e3").json() == {"taken": True}
    with site.house.store.read() as tx:
        assert tx.incidents()[0].resolution == "closed by ann lee (pagerduty): resolved in PagerDuty"
    assert site.house.rollback().state is Status.EXPIRED


# the kill switch, hooks


def switch_form(site: Site, action: str, **more: str) -> dict[str, str]:
    page = site.browser.get("/kill").text
    value = re.search(rf'name="action" value="{action}"><input type="hidden" name="form" value="([^"]+)"', page)
    assert value, page
    return {"action": action, "form": value[1], "why": "migration", "person_token": PERSON, **more}


def test_the_kill_switch_from_the_page(build: Any) -> None:
    site = build()
    assert site.browser.post("/kill", data=switch_form(site, "on", person_token="no")).status_code == 403
    assert site.browser.post("/kill", data=switch_form(site, "on", form="x")).status_code == 403
    assert site.browser.post("/kill", data=switch_form(site, "on", why=" ")).status_code == 400
    evil = {"Sec-Fetch-Site": "cross-site"}
    assert site.browser.post("/kill", data=switch_form(site, "on"), headers=evil).status_code == 403
    assert "Kill switch: off" in site.browser.get("/").text
    assert site.browser.post("/kill", data=switch_form(site, "on")).status_code == 303
    page = site.browser.get("/kill").text
    assert "Kill switch: on" in page and "local approver" in page and "migration" in page
    assert site.post(site.form("approve")).status_code == 409
    assert site.browser.post("/kill", data=switch_form(site, "off")).status_code == 303
    assert site.post(site.form("approve")).status_code == 303


def test_the_hook_needs_its_token_and_takes_only_groups(build: Any) -> None:
    site = build()
    good = {"Authorization": "Bearer hook-token"}
    group = {"version": "4", "alerts": []}
    for headers, body, status in (
        ({}, group, 403),
        ({"Authorization": "Bearer wrong"}, group, 403),
        (good, {"version": "3"}, 422),
        (good, {"version": "4", "alerts": [{}] * 201}, 422),
        (good, {"version": "4", "alerts": [None, "x", {"labels": 7}]}, 200),
        (good, group, 200),
    ):
        assert site.browser.post("/hooks/alertmanager", json=body, headers=headers).status_code == status, body
    for content, status in ((b"[1]", 400), (b"{", 400), (b"[" * 100_000, 400), (b" " * (1024 * 1024 + 1), 413)):
        headers = {**good, "Content-Type": "application/json"}
        assert site.browser.post("/hooks/alertmanager", content=content, headers=headers).status_code == status


# every input


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_nothing_the_description_allows_or_forbids_makes_a_server_error(
    build: Any, database: str, request: pytest.FixtureRequest
) -> None:
    state = request.getfixturevalue("postgres_url") if database == "postgresql" else None
    site = build(state=state, posts_per_minute=1_000_000)
    schema = schemathesis.openapi.from_url(f"{site.url}/openapi.json")
    calls = 0
    bounded = hypothesis_settings(max_examples=scaled(25), suppress_health_check=list(HealthCheck))
    for operation in schema.get_all_operations():

        @bounded
        @given(case=operation.ok().as_strategy())
        def every(case: Any) -> None:
            nonlocal calls
            calls += 1
            answer = case.call(headers={"Authorization": "Bearer hook-token"} if calls % 2 else {})
            assert answer.status_code < 500, (case, answer.text)

        every()
    assert calls > 150
    assert site.unchanged()
