"""Real servers for tests, each on loopback, thrown away afterwards: PostgreSQL, Prometheus, Alertmanager, Chromium."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait
from waiting import HANG_S, until

from lastgood.alerts.rules import build
from lastgood.settings import Settings, Web


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def postgres_binaries() -> Path | None:
    """Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextmanager
def postgres(binaries: Path) -> Iterator[str]:
    """A cluster of its own; gives a SQLAlchemy URL without a database. PostgreSQL refuses to run as root. Its owner logs in as he likes,
    the role `person@example.com` by password."""
    folder, port = Path(tempfile.mkdtemp(prefix="lastgood-pg-")), free_port()
    user: Sequence[str] = ()
    if os.getuid() == 0:
        user = ("runuser", "-u", "postgres", "--")
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)

    def run(*command: str) -> None:
        subprocess.run([*user, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = str(folder / "data")
    run(str(binaries / "initdb"), "-D", data, "-A", "trust", "-U", "lastgood", "--no-sync")
    hba = Path(data) / "pg_hba.conf"
    hba.write_text('host all "person@example.com" 127.0.0.1/32 scram-sha-256\n' + hba.read_text())
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = str(binaries / "pg_ctl"), "-D", data, "-w"
    run(*control, "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg://lastgood@127.0.0.1:{port}"
    finally:
        run(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def alertmanager(binary: str, config: str) -> Iterator[str]:
    """A single Alertmanager with this configuration; gives its URL."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        (Path(folder) / "alertmanager.yml").write_text(config)
        command = [
            binary, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
        ]  # fmt: skip
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: httpx.get(f"{url}/-/ready").status_code == 200, "Alertmanager is ready")
            yield url
        finally:
            process.terminate()
            process.wait(HANG_S)


@contextmanager
def prometheus(folder: Path, target: str, alerts: str, base_url: str, *more: str) -> Iterator[str]:
    """A Prometheus with the built rules that looks every second; gives its URL. Links in alerts start with `base_url`; `more`: options."""
    found = shutil.which("prometheus")
    assert found is not None
    (folder / "rules.yml").write_text(build(Settings(web=Web(base_url=base_url))))
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [{"job_name": "lastgood", "static_configs": [{"targets": [target]}]}],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alerts]}]}]},
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        found,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        *more,
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(HANG_S)


@contextmanager
def chromium(width: int, height: int, scripts: bool = False) -> Iterator[WebDriver]:
    """A real Chromium with a fresh profile and this window, steered by chromedriver; pages run no script in it, but for those of a test with `scripts`."""
    with tempfile.TemporaryDirectory() as profile:
        options = ChromeOptions()
        for flag in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            f"--user-data-dir={profile}", "--force-device-scale-factor=2", f"--window-size={width},{height}",
        ):  # fmt: skip
            options.add_argument(flag)
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.binary_location = str(shutil.which("chromium"))
        driver = Chrome(options=options, service=ChromeService(str(shutil.which("chromedriver"))))
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        driver.set_page_load_timeout(HANG_S)
        try:
            yield driver
        finally:
            driver.quit()


def text(driver: WebDriver) -> str:
    return driver.find_element(By.TAG_NAME, "main").text


def shows(driver: WebDriver, part: str, seconds: float = HANG_S) -> None:
    """Wait for a part of the page: pages refresh themselves, and are being replaced now and then."""
    try:
        WebDriverWait(driver, seconds, 0.2, [WebDriverException]).until(lambda _: part in text(driver))
    except TimeoutException:
        raise AssertionError(f"{part!r} did not appear: {text(driver)}") from None


def arrives(driver: WebDriver, path: str, seconds: float = HANG_S) -> None:
    """Wait for a page with `path` in its address: a click may return before the next page is there."""
    try:
        WebDriverWait(driver, seconds, 0.2).until(lambda _: path in driver.current_url)
    except TimeoutException:
        raise AssertionError(f"{driver.current_url} is not {path}: {text(driver)}") from None


AXE = Path(__file__).parents[1] / ".instrumentations" / "node" / "node_modules" / "axe-core" / "axe.min.js"
"""`make instrumentations` installs it. It is the tests' only: no page of the product runs a script."""


def barriers(driver: WebDriver) -> list[str]:
    """What axe-core finds serious or critical on the page that is shown, each with the first elements that have it."""
    driver.execute_script(AXE.read_text())
    run = "const done = arguments[0]; axe.run().then(r => done(r.violations), e => done([{impact: 'critical', id: String(e), nodes: []}]));"
    found = driver.execute_async_script(run)
    return [
        f"{one['id']} ({one['impact']}): {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@contextmanager
def emulated(driver: WebDriver, scheme: str, width: int, height: int, mobile: bool, scale: float = 2) -> Iterator[None]:
    """A device of this size whose owner prefers this scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    try:
        yield
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
