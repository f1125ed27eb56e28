"""An owner of models in a real Chromium, over six made-up weeks of 1,000 endpoints: every page on a phone and a desktop, light and dark, on paper, by keyboard,
within its budget, and without what keeps a person out (axe-core)."""

import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from conftest import needs
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from servers import AXE, arrives, barriers, chromium, emulated, text

from lastgood.alerts.notify.fake_pagerduty import serving
from lastgood.demo.weeks import Weeks

NOW = datetime(2026, 11, 26, 15, 20, tzinfo=UTC)
"""The same weeks on any day: screenshots change only where the pages do."""
BUDGET = 150_000
PICTURES = os.environ.get("PICTURES_OF_LASTGOOD")
SIZES = {"phone": (390, 844, True), "desktop": (1280, 800, False)}
PATHS = {
    "first": "/", "fleet": "/fleet", "endpoint": "/endpoints/support-chat?range=42d", "plain": "/endpoints/endpoint-0500",
    "outcomes": "/endpoints/fraud-score?range=42d", "drift": "/drift", "column": "/drift?endpoint=fraud-score&column=feature.amount",
    "categories": "/drift?endpoint=fraud-score&column=feature.country", "incidents": "/incidents", "incident": "/incidents/737570700000000" + "8",
    "requests": "/requests?endpoint=support-chat", "request": "/requests?endpoint=support-chat&id=support-chat-7-00031",
    "agents": "/agents", "agent": "/agents?endpoint=travel-agent", "health": "/health", "labels": "/labels",
    "definitions": "/definitions", "kill": "/kill", "runbooks": "/runbooks",
    "missing": "/endpoints/nobody",
}  # fmt: skip
PICTURED = ("first", "fleet", "endpoint", "column", "agent", "health")
"""Of these the documentation has screenshots."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with Weeks(endpoints=1000).made(lambda: NOW) as app, serving(app) as url:
        yield url


@pytest.fixture(scope="module")
def driver() -> Iterator[WebDriver]:
    needs(
        "Chromium (Debian: chromium, chromium-driver)", bool(shutil.which("chromium") and shutil.which("chromedriver"))
    )
    with chromium(1280, 800) as steered:
        yield steered


@pytest.fixture(scope="module")
def scripted() -> Iterator[WebDriver]:
    needs("Chromium and axe-core (make instrumentations)", bool(shutil.which("chromedriver")) and AXE.exists())
    with chromium(1280, 800, scripts=True) as steered:
        yield steered


@pytest.mark.parametrize("name", PATHS)
def test_a_page_keeps_to_its_budget_and_loads_nothing_else(site: str, name: str) -> None:
    answer = httpx.get(site + PATHS[name])
    assert answer.status_code == (404 if name == "missing" else 200)
    assert len(answer.content) < BUDGET
    assert not re.search(r"<script|<link|<iframe|\bsrc=|url\(|@import", answer.text), "it loads nothing"


@pytest.mark.parametrize(("scheme", "size"), [("light", "phone"), ("dark", "desktop")])
@pytest.mark.parametrize("name", PATHS)
def test_nothing_on_a_page_keeps_a_person_out(
    scripted: WebDriver, site: str, name: str, scheme: str, size: str
) -> None:
    with emulated(scripted, scheme, *SIZES[size]):
        scripted.get(site + PATHS[name])
        assert barriers(scripted) == []


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PATHS)
def test_a_page_fits_every_screen(driver: WebDriver, site: str, name: str, size: str) -> None:
    for scheme in ("light", "dark") if PICTURES and name in PICTURED else ("light",):
        with emulated(driver, scheme, *SIZES[size], scale=1):
            driver.get(site + PATHS[name])
            whole = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            assert whole["width"] <= SIZES[size][0], "nothing is wider than the screen"
            assert len(driver.find_elements(By.TAG_NAME, "h1")) == 1 or name == "missing"
            if PICTURES and name in PICTURED:
                driver.save_screenshot(f"{PICTURES}/{size}-{name}-{scheme}.png")


@pytest.mark.parametrize("name", PATHS)
def test_a_page_prints_on_white_without_its_controls(driver: WebDriver, site: str, name: str) -> None:
    driver.get(site + PATHS[name])
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    try:
        body = driver.find_element(By.TAG_NAME, "body")
        assert body.value_of_css_property("background-color") == "rgba(255, 255, 255, 1)"
        for control in driver.find_elements(By.CSS_SELECTOR, "nav, form, .screen"):
            assert not control.is_displayed()
        assert driver.find_element(By.TAG_NAME, "h1").is_displayed()
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_a_fleet_of_a_thousand_is_searched_sorted_and_opened_by_keyboard(driver: WebDriver, site: str) -> None:
    driver.get(f"{site}/fleet")
    assert "1,000 of 1,000 endpoints, page 1 of 10" in text(driver)
    driver.find_element(By.LINK_TEXT, "p95").send_keys(Keys.ENTER)
    arrives(driver, "sort=p95")
    slowest = [row.text.split()[0] for row in driver.find_elements(By.CSS_SELECTOR, "tbody th")]
    driver.find_element(By.LINK_TEXT, "Next").send_keys(Keys.ENTER)
    arrives(driver, "page=2")
    second = [row.text.split()[0] for row in driver.find_elements(By.CSS_SELECTOR, "tbody th")]
    assert len(slowest) == len(second) == 100 and not set(slowest) & set(second)
    driver.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("fraud", Keys.ENTER)
    arrives(driver, "q=fraud")
    driver.find_element(By.LINK_TEXT, "fraud-score").send_keys(Keys.ENTER)
    arrives(driver, "/endpoints/fraud-score")
    assert "Label delay" in text(driver)


def test_a_part_of_a_chart_leads_closer_by_keyboard_and_a_figure_to_its_definition(
    driver: WebDriver, site: str
) -> None:
    driver.get(site + PATHS["endpoint"])
    part = driver.find_elements(By.CSS_SELECTOR, ".chart svg a:not([tabindex])")[3]
    assert "version" in driver.page_source and "2026-10" in str(part.get_attribute("aria-label"))
    part.send_keys(Keys.ENTER)
    arrives(driver, "from=2026-10")
    assert "Steps of" in text(driver)
    driver.find_element(By.LINK_TEXT, "Latency p95").send_keys(Keys.ENTER)
    arrives(driver, "/definitions#latency")
    assert driver.find_element(By.CSS_SELECTOR, ":target").text == "Latency p50, p95, p99"


def test_drift_of_six_weeks_leads_from_the_fleet_to_two_samples_of_another_day(driver: WebDriver, site: str) -> None:
    driver.get(f"{site}/fleet?q=fraud")
    driver.find_element(By.LINK_TEXT, "2 of 5").click()
    arrives(driver, "/drift?endpoint=fraud-score")
    driver.find_element(By.LINK_TEXT, "feature.amount").click()
    arrives(driver, "column=feature.amount")
    newest = driver.find_element(By.XPATH, "//h2[contains(., 'two samples')]").text
    drawn = driver.find_element(By.CSS_SELECTOR, ".wide-chart .theirs").get_attribute("d")
    driver.find_elements(By.CSS_SELECTOR, ".chart svg a")[8].send_keys(Keys.ENTER)
    arrives(driver, "at=2026-11")
    assert driver.find_element(By.XPATH, "//h2[contains(., 'two samples')]").text != newest
    assert driver.find_element(By.CSS_SELECTOR, ".wide-chart .theirs").get_attribute("d") != drawn


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    from lastgood.errors import ConfigError

    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="not empty"), Weeks(out=tmp_path).made():
        pass
    for days, endpoints in ((0, 6), (42, 5)):
        with pytest.raises(ConfigError):
            Weeks(days, endpoints)
