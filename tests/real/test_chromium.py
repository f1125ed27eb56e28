"""A person with a phone at 3 a.m., in a real Chromium without scripts: open, read, confirm, follow; reject; expired; sign in."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint, settings, verdict
from conftest import needs
from fleet_support import fleet_tables
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from servers import arrives, chromium, emulated, free_port, shows, text
from web_support import PERSON

from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.rollback.verify import Recovery
from lastgood.alerts.web.app import create_app
from lastgood.alerts.web.fake_oidc import serve_fake
from lastgood.record.verdict import Finding, State
from lastgood.settings import Mode, Web
from lastgood.tables.fleet import Fleet, Row

WIDTH, HEIGHT = 390, 844
PICTURES = os.environ.get("PICTURES_OF_LASTGOOD")  # a folder: the screenshots of the documentation are kept there


def line(*values: float) -> list[float | None]:
    return [*values]


STARTS = [START + timedelta(minutes=2 * i - 8) for i in range(5)]
SERIES: list[dict[str, Any]] = [
    {"name": "p95", "unit": "ms", "new": line(410, 420, 560, 640, 655), "prior": line(405, 400, 412, 408, 401)},
    {"name": "errors", "unit": "%", "new": line(0.4, 0.5, 5.8, 6.3, 6.1), "prior": line(0.4, 0.3, 0.4, 0.5, 0.4)},
    {"name": "bad answers", "unit": "%", "new": line(1, 1.2, 1, 1.1, 1), "prior": line(1, 1, 1.1, 0.9, 1)},
    {"name": "tokens out", "unit": "", "new": line(88, 90, 87, 92, 91), "prior": line(86, 88, 90, 87, 89)},
]
for row in SERIES:
    row["starts"] = STARTS


@pytest.fixture(scope="module")
def driver() -> Iterator[WebDriver]:
    needs(
        "Chromium (Debian: chromium, chromium-driver)", bool(shutil.which("chromium") and shutil.which("chromedriver"))
    )
    with chromium(WIDTH, HEIGHT) as one:
        yield one


class Night:
    """A proposal, its page, and the service's loop in a thread whose clock runs as fast as it ticks."""

    def __init__(self, folder: Path, web: Web, port: int) -> None:
        self.house = House(folder, MemoryWorkspace(endpoint("2", "3")), settings(Mode.APPROVE, web))
        self.house.telemetry.answer = Recovery(None, None, "12 requests since the shift")
        said = verdict()
        slow = Finding("latency", "p95 is 61% slower", 90.0, 1.61, 1.4, 1.8, 0.31, 0.05)
        figures = {
            "new": {"p95_ms": 655.0, "error_rate": 0.061, "bad_answers": 0.01, "tokens_out": 91.0, "requests": 1204.0},
            "prior": {
                "p95_ms": 401.0,
                "error_rate": 0.004,
                "bad_answers": 0.01,
                "tokens_out": 89.0,
                "requests": 1187.0,
            },
        }
        reason = "version 3 fails more often than 2: 6.1% against 0.4%"
        self.house.controller.handle(replace(said, reason=reason, findings=(*said.findings, slow), figures=figures))
        self.house.tick()
        row = Row("chat", (("3", 0.504), ("2", 0.496)), 2391, 655.0, 0.033, newest=START)
        self.app = create_app(self.house.controller, lambda _: SERIES, fleet=lambda: ({"chat": row}, START))
        self.port = port
        self.link = f"http://127.0.0.1:{port}/r/{self.house.token()}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self.house.tick(every_s=2)

    @contextmanager
    def running(self) -> Iterator["Night"]:
        with serving(self.app, self.port):
            self._thread.start()
            try:
                yield self
            finally:
                self._stop.set()
                self._thread.join(10)
                self.house.close()


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: WebDriver) -> Iterator[Night]:
    monkeypatch.setenv("LASTGOOD_PERSON_TOKEN", f"ann:{PERSON}")
    driver.delete_all_cookies()
    port = free_port()
    with Night(tmp_path, Web(base_url=f"http://127.0.0.1:{port}"), port).running() as one:
        yield one


def picture(driver: WebDriver, name: str) -> None:
    if PICTURES:
        driver.save_screenshot(f"{PICTURES}/{name}.png")


def test_open_read_confirm_and_follow_to_done(driver: WebDriver, night: Night) -> None:
    driver.get(night.link)
    page = text(driver)
    for part in ("6.1% against 0.4%", "Since 2026-03-01 11:56 UTC", "less than once in 400 times", "655 ms", "401 ms",
                 "traffic of chat-3: 100% -> 0%"):  # fmt: skip
        assert part in page, page
    picture(driver, "phone-evidence")
    button = driver.find_element(By.CSS_SELECTOR, "button.main")
    assert button.text == "Roll back to version 2"
    assert button.rect["y"] + button.rect["height"] <= HEIGHT, "the button is on the first screen"
    assert driver.find_element(By.TAG_NAME, "html").size["width"] <= WIDTH, "nothing is wider than the phone"
    driver.find_element(By.ID, "token-approve").send_keys(PERSON)
    button.click()
    arrives(driver, "/incidents/")
    shows(driver, "Verifying since")
    picture(driver, "phone-progress")
    assert night.house.workspace.updates[0][1] == {"chat-2": 100, "chat-3": 0}
    night.house.telemetry.answer = Recovery(True, True, "0% of 412 requests still reach version 3; errors 0.4%")
    shows(driver, "Resolved")
    assert "ann: Approved" in text(driver) and "errors 0.4%" in text(driver)
    picture(driver, "phone-done")
    driver.get(night.link)
    assert "decides nothing any more" in text(driver)


def test_reject_by_keyboard_alone(driver: WebDriver, night: Night) -> None:
    driver.get(night.link)
    summary = driver.find_element(By.TAG_NAME, "summary")
    summary.send_keys(Keys.ENTER)
    active = driver.switch_to.active_element
    for _ in range(30):
        active.send_keys(Keys.TAB)
        active = driver.switch_to.active_element
        if active.get_attribute("id") == "reason":
            break
    assert active.get_attribute("id") == "reason", "the field is reached with the tab key"
    active.send_keys("a load test", Keys.TAB)
    driver.switch_to.active_element.send_keys(PERSON, Keys.ENTER)
    shows(driver, "Rejected")
    assert "a load test" in text(driver)
    assert night.house.rollback().state is Status.REJECTED and night.house.workspace.updates == []


def test_an_expired_link_says_so(driver: WebDriver, night: Night) -> None:
    night.house.clock.now += timedelta(hours=2)
    driver.get(night.link)
    assert "expired" in text(driver) and not driver.find_elements(By.TAG_NAME, "form")
    picture(driver, "phone-expired")


def test_every_field_has_a_label_and_every_picture_a_text(driver: WebDriver, night: Night) -> None:
    driver.get(night.link)
    driver.find_element(By.TAG_NAME, "summary").click()
    for field in driver.find_elements(By.CSS_SELECTOR, "input:not([type=hidden])"):
        assert driver.find_elements(By.CSS_SELECTOR, f"label[for='{field.get_attribute('id')}']"), field.get_attribute(
            "id"
        )
        assert field.accessible_name
    for drawn in driver.find_elements(By.TAG_NAME, "svg"):
        assert "over time" in drawn.accessible_name
    assert driver.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    assert len(driver.find_elements(By.TAG_NAME, "h1")) == 1


def test_the_first_page_shows_only_what_is_wrong(driver: WebDriver, night: Night) -> None:
    fine = replace(verdict(State.HEALTHY), endpoint="search", reason="as good as version 2, to within 5%", findings=())
    night.house.controller.handle(fine)
    driver.get(f"http://127.0.0.1:{night.port}/")
    (card,) = driver.find_elements(By.CSS_SELECTOR, "section.card")
    assert card.accessible_name == "chat"
    assert "RollBack chat version 3 beside 2" in card.text
    assert "2,391 requests (version 3 50.4%, version 2 49.6%), errors 3.3%, p95 655 ms" in card.text
    assert "1 of 2 endpoints is wrong" in text(driver) and "1 RollBack, 1 Healthy" in text(driver)
    assert driver.find_element(By.TAG_NAME, "html").size["width"] <= WIDTH, "nothing is wider than the phone"
    picture(driver, "phone-endpoints")
    card.find_element(By.PARTIAL_LINK_TEXT, "Open incident").click()
    arrives(driver, "/incidents/")


def test_signing_in_leads_back_and_decides(driver: WebDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LASTGOOD_PERSON_TOKEN", raising=False)
    driver.delete_all_cookies()
    port = free_port()
    with serve_fake() as provider:
        oidc: Any = {"issuer": provider.url, "client_id": "lastgood"}
        web = Web(base_url=f"http://127.0.0.1:{port}", oidc=oidc)
        with Night(tmp_path, web, port).running() as night:
            driver.get(night.link)
            driver.find_element(By.LINK_TEXT, "Sign in to decide").click()
            shows(driver, "You are ann@example.com")
            arrives(driver, night.link)
            driver.find_element(By.CSS_SELECTOR, "button.main").click()
            shows(driver, "Verifying")
            assert night.house.rollback().progress.who == "ann@example.com"


DEVICES = [("phone", WIDTH, HEIGHT, True), ("desktop", 1280, 800, False)]


@pytest.fixture
def fleet(tmp_path: Path, driver: WebDriver) -> Iterator[str]:
    """The pages over a small fleet; gives their address."""
    house = House(tmp_path, MemoryWorkspace(endpoint("2", "3")), settings())
    house.controller.handle(verdict())
    rows = Fleet(fleet_tables(tmp_path / "tables"), house.clock)
    rows.refresh()
    with serving(create_app(house.controller, fleet=lambda: (rows.rows, rows.read_at))) as url:
        yield url
    house.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "width", "height", "mobile"), DEVICES)
def test_the_fleet_fits_every_screen(
    driver: WebDriver, fleet: str, scheme: str, device: str, width: int, height: int, mobile: bool
) -> None:
    with emulated(driver, scheme, width, height, mobile):
        driver.get(f"{fleet}/fleet")
        assert driver.find_element(By.TAG_NAME, "html").size["width"] <= width
        assert driver.find_element(By.TAG_NAME, "table").rect["width"] <= width, "nothing is wider than the screen"
        for part in ("chat", "1,200", "900 ms", "1 of 3", "search"):
            assert part in text(driver)
        for drawn in driver.find_elements(By.TAG_NAME, "svg"):
            assert "requests over a week" in drawn.accessible_name
        for field in driver.find_elements(By.CSS_SELECTOR, "input, select, button"):
            assert field.accessible_name


def test_the_fleet_is_searched_and_sorted_by_keyboard_alone(driver: WebDriver, fleet: str) -> None:
    with emulated(driver, "light", 1280, 800, False):
        driver.get(f"{fleet}/fleet")
        driver.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("sea", Keys.ENTER)
        arrives(driver, "q=sea")
        assert [row.text.split()[0] for row in driver.find_elements(By.CSS_SELECTOR, "tbody th")] == ["search"]
        driver.get(f"{fleet}/fleet")
        driver.find_element(By.LINK_TEXT, "Requests").send_keys(Keys.ENTER)
        arrives(driver, "sort=requests")
        assert driver.find_element(By.CSS_SELECTOR, "th[aria-sort=descending]").text.startswith("Requests")
        driver.find_element(By.PARTIAL_LINK_TEXT, "incident").click()
        arrives(driver, "/incidents/")


def test_the_fleet_prints_without_its_controls_and_on_white(driver: WebDriver, fleet: str) -> None:
    driver.get(f"{fleet}/fleet")
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    try:
        assert not driver.find_element(By.TAG_NAME, "form").is_displayed()
        assert (
            driver.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
            == "rgba(255, 255, 255, 1)"
        )
        assert driver.find_element(By.TAG_NAME, "table").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
