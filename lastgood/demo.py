"""`lastgood demo`: the whole of Lastgood on loopback against a bad model version, shown live, ending in a report."""

import contextlib
import json
import os
import queue
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import yaml
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lastgood import delta, measures, metrics, tables
from lastgood.alerts.notify.fake_pagerduty import serve_fake
from lastgood.config import Mode, WorkspaceSettings
from lastgood.dashboards.report import Report, render
from lastgood.errors import ConfigError, LastgoodError, TransientError
from lastgood.judge.judge import summary
from lastgood.judge.verdict import State, Verdict
from lastgood.spark import fetch_jars, java_home
from lastgood.traffic import Traffic
from lastgood.windows import Counts
from lastgood.workspace.databricks import connect
from lastgood.workspace.local.models import CHAT
from lastgood.workspace.local.state import MODELS, Fault, entity

PRIOR, BAD = "2", "3"
FAULTS: dict[str, Fault | None] = {
    "errors": Fault(error_share=0.2),
    "latency": Fault(latency_factor=2.0),
    "quality": Fault(worse_answers=0.4),
    "stale-features": Fault(stale_features=True),
    "drift": None,
    "none": None,
}
"""What is wrong with version 3 (stale features: with the feature store, so with every version)."""
WINDOW_S, HEALTHY_S, WATCH_S = 5, 25.0, 60.0
SHOWN = ("requests", "p50_ms", "p95_ms", "error_rate", "bad_answers", "tokens_out")
STEPS = (
    "start",
    "healthy traffic",
    "roll out version 3",
    "watch",
    "roll back",
    "verify",
    "report",
)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class _Process:
    """A part of Lastgood in a process of its own; its JSON lines are read as they come, its log goes to a file."""

    def __init__(self, arguments: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name, self._log = log.stem, log
        self._file: IO[bytes] = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=self._file,
            env=environment,
            text=True,
        )
        self.lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            with contextlib.suppress(ValueError):
                self.lines.put(json.loads(line))

    def alive(self) -> None:
        """Errors: TransientError with the end of its log when it has died."""
        if self.process.poll() is not None:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
            raise TransientError(
                f"the {self.name} process ended with {self.process.returncode}; {self._log} ends:\n{tail}"
            )

    def ready(self, timeout_s: float) -> dict[str, Any]:
        """The first line it prints."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            with contextlib.suppress(queue.Empty):
                return self.lines.get(timeout=0.2)
            self.alive()
        raise TransientError(f"the {self.name} process was not ready after {timeout_s:.0f} s; see {self._log}")

    def end(self, timeout_s: float = 60) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._file.close()


class Demo:
    """One demo. `run` gives the outcome (see README, JSON). Errors: ConfigError for wrong options."""

    def __init__(
        self,
        fault: str,
        mode: Mode,
        seed: int,
        keep: bool,
        trace: Path | None,
        out: Path | None,
    ) -> None:
        if fault not in FAULTS:
            raise ConfigError(f"--fault {fault}: expected one of {', '.join(FAULTS)}")
        self.fault, self.mode, self.seed, self.keep, self.trace = (
            fault,
            mode,
            seed,
            keep,
            trace,
        )
        self.out = (out or Path(f"lastgood-demo-{datetime.now(UTC):%Y%m%d-%H%M%S}")).absolute()
        self.console = Console(stderr=False)
        self.started = time.monotonic()
        self.events: list[tuple[datetime, str]] = []
        self.store = tables.Store(str(self.out / "tables"))
        self.token, self.person = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.peak_mb = 0.0
        self.outcome: dict[str, Any] = {
            "fault": fault,
            "mode": str(mode),
            "seed": seed,
            "rolled_back": False,
        }
        self._stages: dict[str, str] = {}
        self._versions: tuple[int | None, ...] = ()
        self._counts: list[Counts] = []
        self._said: list[Verdict] = []

    # parts

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("LASTGOOD_", "DATABRICKS_"))}
        return kept | {
            "LASTGOOD_LOCAL_TOKEN": self.token,
            "LASTGOOD_PERSON_TOKEN": self.person,
            "LASTGOOD_LINK_KEY": secrets.token_urlsafe(32),
            "LASTGOOD_PAGERDUTY_KEY": "R0DEMO",
            "DO_NOT_TRACK": "1",
            "MALLOC_ARENA_MAX": "2",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _settings(self, url: str, pagerduty: str) -> Path:
        port = _free_port()
        source = self.out / "workspace"
        document = {
            "storage": str(self.out / "tables"),
            "state_url": f"sqlite:///{self.out}/state.db",
            "window_s": WINDOW_S,
            "workspace": {"host": url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
            "receiver": {"grpc_port": 0, "http_port": 0, "commit_interval_s": 1.5},
            "web": {"port": port, "base_url": f"http://127.0.0.1:{port}"},
            "pagerduty": {"url": pagerduty},
            "spark": {"driver_memory": "900m"},
            "endpoints": {
                CHAT: {
                    "mode": str(self.mode),
                    "payload_table": str(source / "local_payload"),
                    "entities_table": str(source / "served_entities"),
                    "policy": {"verify_timeout_s": 120},
                }
            },
        }
        path = self.out / "lastgood.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def _say(self, text: str) -> None:
        self.events.append((datetime.now(UTC), text))

    def _measure(self) -> None:
        own = psutil.Process()
        total = 0
        for one in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
        self.peak_mb = max(self.peak_mb, total / 2**20)

    # the story

    def run(self) -> dict[str, Any]:
        """Play the demo and write the report; the outcome is printed and returned."""
        java_home()
        fetch_jars()
        self.out.mkdir(parents=True, exist_ok=False)
        with contextlib.ExitStack() as stack:
            self.live = stack.enter_context(Live(self._view("start"), console=self.console, refresh_per_second=4))
            self.pager = stack.enter_context(serve_fake())
            environment = self._environment()
            self.space = self._start(
                stack,
                [
                    "-m",
                    "lastgood.workspace.local",
                    "--payload",
                    str(self.out / "workspace"),
                    "--seed",
                    str(self.seed),
                ],
                "workspace",
                environment,
            )
            url = self.space.ready(60)["url"]
            config = str(self._settings(url, self.pager.url))
            self.jobs = self._start(
                stack,
                ["-m", "lastgood", "job", "all", "--forever", "--config", config],
                "jobs",
                environment,
            )
            self.service = self._start(
                stack,
                ["-m", "lastgood", "serve", "--config", config, "--poll-s", "1"],
                "service",
                environment,
            )
            os.environ["LASTGOOD_LOCAL_TOKEN"] = self.token
            self.workspace = connect(WorkspaceSettings(host=url, token_env="LASTGOOD_LOCAL_TOKEN"))
            self.api = stack.enter_context(
                httpx.Client(
                    base_url=url,
                    headers={"authorization": f"Bearer {self.token}"},
                    timeout=30,
                )
            )
            addresses = self.service.ready(60)
            self.web = str(addresses["url"])
            self.traffic = Traffic(url, self.token, int(addresses["grpc"]), self.seed, trace=self.trace)
            self._play()
            if self.keep:
                self._keep(url)
            return self._finish()

    def _start(
        self,
        stack: contextlib.ExitStack,
        arguments: list[str],
        name: str,
        environment: dict[str, str],
    ) -> _Process:
        process = _Process(arguments, self.out / f"{name}.log", environment)
        stack.callback(process.end)
        return process

    def _play(self) -> None:
        self.traffic.start()
        self._say(f"version {PRIOR} serves all traffic")
        healthy = time.monotonic() + HEALTHY_S
        self._until("healthy traffic", lambda: time.monotonic() > healthy, HEALTHY_S + 5)
        self._roll_out()
        bad = self.fault in ("errors", "latency", "quality")
        if not bad or self.mode is Mode.OBSERVE:
            watched = time.monotonic() + WATCH_S
            self._until("watch", lambda: self._watched(watched) or self._rollback() is not None, WATCH_S + 60)
        else:
            self._until("watch", lambda: self._rollback() is not None, 200)
        if (found := self._rollback()) is None or self.mode is Mode.OBSERVE:
            return
        self._say(f"verdict {self._about(BAD)[-1].state}: {self._about(BAD)[-1].reason}")
        if self.mode is Mode.APPROVE:
            self._approve(found)
        self._until("roll back", lambda: self.workspace.endpoint(CHAT).share(BAD) == 0, 60)
        self.outcome["rolled_back_at"] = datetime.now(UTC)
        self._say(f"rolled back: version {PRIOR} serves all traffic again")
        self._until(
            "verify",
            lambda: (self._rollback() or {}).get("state") in ("Done", "Failed"),
            120,
        )
        ended = self._rollback() or {}
        if ended.get("state") == "Done":
            self.outcome["verified_at"] = datetime.fromisoformat(ended["ended_at"])
            self._say(f"verified: {ended['reason']}")
        else:
            self._say(f"not verified: {ended.get('state')} {ended.get('reason')}")

    def _watched(self, until: float) -> bool:
        return time.monotonic() > until and len(self._about(BAD)) >= 3

    def _roll_out(self) -> None:
        fault = FAULTS[self.fault]
        where = "*" if self.fault == "stale-features" else BAD
        if fault is not None:
            self.api.put(f"/local/faults/{CHAT}/{where}", json=asdict(fault)).raise_for_status()
        now = self.workspace.endpoint(CHAT)
        served = [dict(one.settings) for one in now.entities] + [entity(MODELS[CHAT], BAD)]
        traffic = {one.name: 0 for one in now.entities} | {
            f"support_chat-{PRIOR}": 50,
            f"support_chat-{BAD}": 50,
        }
        self.workspace.update_config(CHAT, served, traffic, {})
        self._until(
            "roll out version 3",
            lambda: self.workspace.endpoint(CHAT).share(BAD) == 50,
            30,
        )
        self.traffic.drifted = self.fault == "drift"
        self._say(
            f"version {BAD} takes half of the traffic" + ("" if self.fault == "none" else f" (fault: {self.fault})")
        )

    def _rollback(self) -> dict[str, Any] | None:
        incidents = httpx.get(f"{self.web}/api/incidents", timeout=10).json()
        found = next(
            (one["rollback"] for one in incidents if one["endpoint"] == CHAT and one["rollback"]),
            None,
        )
        return dict(found) if found else None

    def _approve(self, rollback: dict[str, Any]) -> None:
        """Play the person that PagerDuty woke: open the link, read, confirm."""
        self._until(
            "roll back",
            lambda: any("/r/" in str(one.get("links", "")) for one in self.pager.events()),
            30,
        )
        link = next(
            one["href"] for event in self.pager.events() for one in event.get("links") or () if "/r/" in one["href"]
        )
        self._say(f"PagerDuty has the signed link; a person opens it and confirms: {link[:60]}...")
        with httpx.Client(timeout=10) as browser:
            page = browser.get(link)
            form = re.search(
                r'name="form" value="([^"]+)"[^§]*?value="approve"|value="approve"[^§]*?name="form" value="([^"]+)"',
                page.text,
            )
            if page.status_code != 200 or form is None:
                raise TransientError(f"the evidence page answered {page.status_code} without a form")
            data = {
                "form": form[1] or form[2],
                "action": "approve",
                "person_token": self.person,
            }
            answer = browser.post(link, data=data, headers={"origin": self.web})
            if answer.status_code != 303:
                raise TransientError(f"the approval was answered with {answer.status_code}")

    # watching

    def _about(self, version: str) -> list[Verdict]:
        return [one for one in self._said if one.endpoint == CHAT and one.candidate == version]

    def _until(self, step: str, done: Any, timeout_s: float) -> bool:
        """Show and wait until `done()` or the time is up."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for one in (self.space, self.jobs, self.service):
                one.alive()
            while not self.jobs.lines.empty():
                line = self.jobs.lines.get()
                self._stages[line.get("job", "spark")] = f"{line.get('seconds', '')} s"
            self._refresh()
            self._measure()
            self.live.update(self._view(step))
            with contextlib.suppress(LastgoodError, httpx.HTTPError):
                if done():
                    return True
            time.sleep(1.0)
        return False

    def _refresh(self) -> None:
        """Read verdicts and windows again where their tables have changed."""
        now = tuple(delta.version(self.store.path(one)) for one in (tables.VERDICTS, tables.WINDOWS, tables.QUALITY))
        if now != self._versions:
            self._versions = now
            self._said, self._counts = measures.verdicts(self.store), measures.windows(self.store, CHAT)

    def _view(self, step: str) -> Group:
        head = Progress(
            TextColumn("[bold]lastgood demo[/]"),
            TextColumn(f"fault {self.fault}, mode {self.mode}"),
            BarColumn(24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        head.add_task(step, total=len(STEPS), completed=STEPS.index(step))
        head.tasks[0].start_time = head.get_time() - (time.monotonic() - self.started)
        table = Table(expand=True)
        for name in ("version", *(metrics.BY_NAME[one].label for one in SHOWN)):
            table.add_column(name, justify="left" if name == "version" else "right")
        recent = sorted({one.start for one in self._counts})[-12:]
        for version in sorted({one.model_version for one in self._counts if one.model_version != "?"}):
            figures = summary([one for one in self._counts if one.model_version == version and one.start in recent])
            table.add_row(version, *_cells(figures))
        said = self._about(BAD) or self._said
        verdict = (
            f"[bold]{said[-1].state}[/]  {said[-1].reason}"
            if said
            else "waiting for the first verdict (Spark is starting)"
        )
        stages = "  ".join(f"{name} {took}" for name, took in self._stages.items())
        happened = "\n".join(f"{at:%H:%M:%S} {text}" for at, text in self.events)
        sent = (
            f"{self.traffic.sent} requests sent, {self.traffic.failed} failed"
            if hasattr(self, "traffic")
            else "starting"
        )
        return Group(
            head,
            table,
            Panel(verdict, title="verdict"),
            Panel(happened or " ", title=sent),
            f"[dim]jobs: {stages or 'starting Spark'}[/]",
        )

    def _keep(self, url: str) -> None:
        self.live.update(self._view("report"))
        self.live.stop()
        self.console.print(f"service {self.web}  workspace {url}  person token {self.person}\nrunning until Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()

    # the end

    def _finish(self) -> dict[str, Any]:
        self.live.update(self._view("report"))
        self.traffic.stop()
        logged = self.api.put("/local/flush").json()
        self.jobs.end()
        self._said, self._counts = (
            measures.verdicts(self.store),
            measures.windows(self.store, CHAT),
        )
        requests = delta.read(
            self.store.path(tables.REQUESTS),
            ["request_id", "sources"],
            [("endpoint", "=", CHAT)],
        )
        sources = requests.column("sources").to_pylist()
        decided = next((one for one in self._about(BAD) if one.state is State.ROLL_BACK), None)
        shown = decided or (self._about(BAD) or self._said)[-1]
        shares = self.workspace.endpoint(CHAT)
        bad = self.fault in ("errors", "latency", "quality")
        self.outcome |= {
            "rolled_back": "rolled_back_at" in self.outcome,
            "bad_version": BAD if bad else None,
            "serving_version": max((PRIOR, BAD), key=shares.share),
            "first_bad_request_at": self.traffic.first_seen.get(f"support_chat-{BAD}") if bad else None,
            "verdict_at": shown.judged_at,
            "rolled_back_at": self.outcome.get("rolled_back_at"),
            "verified_at": self.outcome.get("verified_at"),
            "verdict": str(shown.state),
            "reason": shown.reason,
            "requests": self.traffic.sent,
            "spans": sum("otlp" in one for one in sources),
            "inference_rows": sum("ai_gateway" in one for one in sources),
            "inference_rows_logged": logged["rows"],
            "requests_lost": self.traffic.sent - len(sources),
            "pages": len({one.get("dedup_key") for one in self.pager.events()}),
            "peak_rss_mb": round(self.peak_mb),
        }
        report = self._report()
        self.outcome |= {
            "report": str(report),
            "wall_s": round(time.monotonic() - self.started, 1),
        }
        self.live.stop()
        self.console.print(f"{self._headline()}\nreport: {report}", soft_wrap=True)
        return self.outcome

    def _headline(self) -> str:
        o = self.outcome
        if not o["rolled_back"]:
            return f"Nothing was rolled back: {o['verdict']}, {o['reason']}."
        took = (o["rolled_back_at"] - o["first_bad_request_at"]).total_seconds() if o["first_bad_request_at"] else 0.0
        return f"Version {BAD} was rolled back {took:.0f} s after its first request: {o['reason']}."

    def _report(self) -> Path:
        facts = {name.replace("_", " "): str(value) for name, value in self.outcome.items() if value is not None}
        rows = []
        for version in sorted({one.model_version for one in self._counts if one.model_version != "?"}):
            rows.append(
                [
                    version,
                    *_cells(summary([one for one in self._counts if one.model_version == version])),
                ]
            )
        header = ("version", *(metrics.BY_NAME[name].label for name in SHOWN))
        about = self._about(BAD)
        page = Report(
            f"Lastgood demo: {self.fault}",
            self._headline(),
            self._counts,
            about,
            self.events,
            facts,
            {"Versions": (header, rows)},
        )
        path = self.out / "report.html"
        path.write_text(render(page))
        return path


def _cells(figures: dict[str, float | None]) -> list[str]:
    return [metrics.BY_NAME[name].show(figures.get(name)) for name in SHOWN]
