"""The whole of Lastgood in one night: a bad version is served; its metrics raise an alert in a real Prometheus, a real Alertmanager pages,
a person opens the link in a real Chromium and confirms; traffic moves back, the metrics recover, the alert resolves."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import SPARK_FOR_TESTS, needs
from selenium.webdriver.common.by import By
from servers import alertmanager, arrives, chromium, prometheus
from waiting import HANG_S

from lastgood.demo.story import Demo, Options
from lastgood.settings import Mode
from lastgood.workspace.local.models import CHAT

ROUTING = """
route: {{receiver: pagerduty, group_by: [endpoint, alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}
receivers:
  - name: pagerduty
    pagerduty_configs:
      - {{routing_key: from-alertmanager, url: '{pagerduty}', severity: critical, description: '{{{{ .CommonAnnotations.summary }}}}'}}
"""
WRONG = f"{CHAT} version 3 should be rolled back"


class Night(Demo):
    """The demo, with a monitoring stack beside it and a browser in the person's place."""

    def _settings(self, url: str, pagerduty: str) -> str:
        """The demo's, but it verifies for as long as a busy machine needs."""
        path = Path(super()._settings(url, pagerduty))
        document = yaml.safe_load(path.read_text())
        document["endpoints"][CHAT]["policy"]["verify_timeout_s"] = int(HANG_S)
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return str(path)

    def _until(self, step: str, done: Callable[[], bool], timeout_s: float) -> bool:
        return super()._until(step, done, HANG_S)

    def _start(self, stack: Any) -> None:
        super()._start(stack)
        folder = self.out / "prometheus"
        folder.mkdir()
        binary = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
        assert binary
        alerts = stack.enter_context(alertmanager(binary, ROUTING.format(pagerduty=self.pager.url)))
        target, manager = (one.removeprefix("http://") for one in (self.web, alerts))
        stack.enter_context(prometheus(folder, target, manager, self.web))
        self.driver = stack.enter_context(chromium(390, 844))

    def alerted(self, action: str) -> list[dict[str, Any]]:
        """Alertmanager's events about the bad version."""
        events = [one for one in self.pager.events() if one["routing_key"] == "from-alertmanager"]
        keys = {one["dedup_key"] for one in events if one.get("payload", {}).get("summary") == WRONG}
        return [one for one in events if one["dedup_key"] in keys and one["event_action"] == action]

    def _approve(self) -> None:
        assert self._until("roll back", lambda: bool(self._link() and self.alerted("trigger")), HANG_S), (
            "nobody was paged"
        )
        self.driver.get(str(self._link()))
        page = self.driver.find_element(By.TAG_NAME, "main").text
        assert "fails" in page and "traffic of support_chat-3: 50% -> 0%" in page, page
        self.driver.find_element(By.ID, "token-approve").send_keys(self.person)
        self.driver.find_element(By.CSS_SELECTOR, "button.main").click()
        arrives(self.driver, "/incidents/")

    def _roll_back(self) -> None:
        super()._roll_back()
        assert self._until("verify", lambda: bool(self.alerted("resolve")), HANG_S), "the alert does not resolve"
        self.driver.refresh()
        assert "Resolved" in self.driver.find_element(By.TAG_NAME, "main").text


@pytest.mark.usefixtures("java")
def test_a_failing_version_pages_a_person_is_rolled_back_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for what, names in {
        "Prometheus (Debian: prometheus)": ("prometheus",),
        "Alertmanager (Debian: prometheus-alertmanager)": ("prometheus-alertmanager", "alertmanager"),
        "Chromium (Debian: chromium, chromium-driver)": ("chromedriver",),
    }.items():
        needs(what, any(shutil.which(name) for name in names))
    for variable in SPARK_FOR_TESTS:
        monkeypatch.delenv(variable)
    night = Night(Options("errors", Mode.APPROVE, seed=7, out=tmp_path / "demo"))
    found = night.run()
    assert found["rolled_back"], found
    told = capsys.readouterr().out
    live, story = told.index(f"watch it live: {night.web}/"), told.index("version 3 takes half of the traffic")
    assert live < story < told.index("rolled back: version 2 serves all traffic again"), (
        "said as it happens, without a terminal"
    )
    assert (found["bad_version"], found["serving_version"], found["verdict"]) == ("3", "2", "RollBack")
    assert found["first_bad_request_at"] < found["verdict_at"] < found["rolled_back_at"] < found["verified_at"]
    assert "fails" in found["reason"]
    assert found["requests_lost"] == 0
    assert found["spans"] == found["requests"] > 0
    assert found["inference_rows"] == found["inference_rows_logged"] > 0, (
        "a call that the client gave up may be in no table"
    )
    page = Path(found["report"]).read_text()
    assert "<svg" in page
    assert not re.search(r"""(src|href)=["']?http|<script|@import""", page), "the report must load nothing"
    assert yaml.safe_load((tmp_path / "demo" / "lastgood.yaml").read_text())["endpoints"][CHAT]["mode"] == "approve"
