"""Who may decide: OpenID logins, named tokens, approvers, two persons; the kill page; limits; the service's own description."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from alerts_support import House, MemoryWorkspace, endpoint, settings
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from servers import free_port
from soak import scaled
from web_support import PERSON, Site

from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.web.app import create_app
from lastgood.alerts.web.fake_oidc import FakeOidc, serve_fake
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
        self.app = create_app(self.house.controller)


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
    assert "Sign in to decide" in site.browser.get("/kill").text


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
    assert answer.status_code == 403 and "eve@evil.example is not among those who may decide" in answer.text
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
    last = site.post(site.form("approve"))
    assert last.status_code == 429 and last.headers["retry-after"] == "60", (
        "the right token does not get through either"
    )
    assert site.unchanged()


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
