"""An edited prompt as people meet it: the page of the incident, the endpoint's page, `lastgood changes`, and what a rollback can do about it."""

import json
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint
from cli_support import lastgood
from fleet_support import put

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.web.app import create_app
from lastgood.settings import EndpointSettings, Mode, Settings
from lastgood.tables import Store
from lastgood.tables.health import health

OLD, NEW = "aaaaaaaa", "bbbbbbbb"
PROMPTS = {OLD: "You are a clerk.\nBe <b>kind</b>.", NEW: "You are a clerk.\nBe curt."}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "tables"))
    row = {"endpoint": "chat", "model_version": "3", "requests": 60, "admitted": True, "noted_at": START}
    put(store, tables.CONTENTS, [
        row | {"content": content, "first_at": START - timedelta(minutes=age), "replaces": replaces, "who": who,
               "parts": [("prompt", content), ("tools", "0")], "texts": [("prompt", PROMPTS[content])]}
        for content, age, replaces, who in ((OLD, 900, None, None), (NEW, 10, OLD, "abc123"))
    ])  # fmt: skip
    rare = row | {"content": "?", "requests": 40, "admitted": False}
    put(store, tables.CONTENTS, [rare, rare | {"endpoint": "other"}, rare | {"noted_at": START - timedelta(days=2)}])
    return store


def house(tmp_path: Path) -> House:
    own = EndpointSettings(mode=Mode.AUTO, versions_by=("prompt", "tools"))
    return House(tmp_path, MemoryWorkspace(endpoint("2", "3", v3=50, v2=50)), Settings(endpoints={"chat": own}))


def test_an_edit_pages_with_its_lines_and_no_rollback_is_planned(tmp_path: Path, store: Store) -> None:
    of = house(tmp_path)
    of.verdict(candidate=f"3~{NEW}", prior=f"3~{OLD}")
    of.tick()
    (message,) = of.notifier.events
    assert (
        "no configuration of the endpoint undoes that: put back the prompt" in json.dumps(message)
        and of.rollbacks() == 0
    )
    link = next(link["href"] for link in message["links"] if "/r/" in link["href"])
    app = create_app(of.controller, data=store)
    with serving(app) as url, httpx.Client(base_url=url, timeout=30) as browser:
        page = browser.get(link[link.index("/r/") :]).text
        assert "The system prompt changed, by abc123" in page
        assert "-Be &lt;b&gt;kind&lt;/b&gt;." in page and "+Be curt." in page and "<b>kind" not in page
        shown = browser.get("/endpoints/chat").text
        assert "What it is asked with" in shown and "the system prompt changed, by abc123: version 3~bbbbbbbb" in shown


def test_where_the_served_version_changed_too_it_is_left(tmp_path: Path) -> None:
    of = house(tmp_path)
    of.verdict(candidate=f"3~{NEW}", prior=f"2~{OLD}")
    plan = of.rollback().plan
    assert (plan.bad_version, plan.prior_version) == ("3", "2")
    assert of.tick_until(lambda rollback: rollback.state.ended or rollback.moved_at is not None).moved_at is not None
    assert of.workspace.endpoint("chat").share("3") == 0


def test_the_ledger_is_printed_and_rare_prompts_are_counted(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "lastgood.yaml"
    config.write_text(json.dumps({"storage": store.location, "endpoints": {"chat": {"versions_by": ["prompt"]}}}))
    told = json.loads(lastgood(capsys, "changes", "chat", "--config", str(config), "--json")[1])
    assert [(each["version"], each["before"], each["who"]) for each in told["changes"]] == [
        (f"3~{OLD}", None, None), (f"3~{NEW}", OLD, "abc123"),
    ]  # fmt: skip
    assert told["changes"][1]["edits"] == {
        "prompt": ["@@ -1,2 +1,2 @@", " You are a clerk.", "-Be <b>kind</b>.", "+Be curt."]
    }
    assert "+Be curt." in lastgood(capsys, "changes", "chat", "--config", str(config), "--version", f"3~{NEW}")[1]
    for wrong, why in ((("chat", "--version", "9"), "no change 9"), (("other",), "versions_by")):
        code, _, error = lastgood(capsys, "changes", *wrong, "--config", str(config))
        assert code and why in error
    assert {row["endpoint"]: row for row in health(store, START)["contents"]}.keys() == {"chat", "other"}
    assert 40 in health(store, START)["contents"][0].values()
