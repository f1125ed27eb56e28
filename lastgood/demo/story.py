"""The story of the demo: start every part, serve a bad version, see it noticed and rolled back, tell how it ended."""

import contextlib
import logging
import os
import re
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console
from rich.live import Live

from lastgood import tables
from lastgood.alerts.notify.fake_pagerduty import serve_fake
from lastgood.alerts.rollback.machine import Status
from lastgood.alerts.store import Store
from lastgood.demo.processes import Process, free_port, resident_mb
from lastgood.demo.traffic import Traffic
from lastgood.demo.watch import Watch
from lastgood.errors import ConfigError, LastgoodError, TransientError
from lastgood.jobs.spark import fetch_jars, java_home
from lastgood.record.verdict import State
from lastgood.record.words import counted
from lastgood.settings import Mode, WorkspaceSettings
from lastgood.tables import delta
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
GUILTY = ("errors", "latency", "quality")
"""The faults that are version 3's own: only these may be rolled back."""
WINDOW_S, HEALTHY_S, WATCH_S, DECIDE_S, HURRY_S = 5, 25.0, 60.0, 1800.0, 5.0


@dataclass(frozen=True)
class Options:
    """What the command line asks for. `port`: of the live page (0: the system's choice). `click`: the demo itself plays the person who
    approves. Errors: ConfigError for an unknown fault."""

    fault: str = "errors"
    mode: Mode = Mode.AUTO
    seed: int = 7
    keep: bool = False
    trace: Path | None = None
    out: Path | None = None
    port: int = 0
    click: bool = False

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise ConfigError(f"--fault {self.fault}: expected one of {', '.join(FAULTS)}")

    @property
    def guilty(self) -> bool:
        return self.fault in GUILTY


def _free_folder(now: datetime) -> Path:
    """A folder that no other demo has."""
    name = f"lastgood-demo-{now:%Y%m%d-%H%M%S}"
    return next(path for i in range(1, 1000) if not (path := Path(f"{name}-{i}" if i > 1 else name)).exists())


class Demo:
    """One demo. `run` gives the outcome (the fields of `--json`)."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.out = (options.out or _free_folder(datetime.now(UTC))).absolute()
        self.console = Console(stderr=False)
        self.store = tables.Store(str(self.out / "tables"))
        self.state = f"sqlite:///{self.out}/state.db"
        self.watch = Watch(self.store, told=lambda line: None if self.console.is_terminal else print(line, flush=True))
        self.token, self.person = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        self.peak_mb = 0.0
        self.outcome: dict[str, Any] = {"fault": options.fault, "mode": str(options.mode), "seed": options.seed}
        self.traffic: Traffic | None = None
        self.finished = self.interrupted = False

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
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:MaxMetaspaceSize=500m",
        }

    def _settings(self, url: str, pagerduty: str) -> str:
        port, source = self.options.port or free_port(), self.out / "workspace"
        source.mkdir(parents=True, exist_ok=True)
        endpoint = {
            "mode": str(self.options.mode),
            "payload_table": str(source / "local_payload"),
            "entities_table": str(source / "served_entities"),
            "policy": {"verify_timeout_s": 120, "warmup_s": 10, "warmup_requests": 10},  # a demo is short
        }
        document = {
            "storage": str(self.out / "tables"),
            "state_url": self.state,
            "window_s": WINDOW_S,
            "workspace": {"host": url, "token_env": "LASTGOOD_LOCAL_TOKEN"},
            "receiver": {"grpc_port": 0, "http_port": 0, "spool": str(self.out / "spool")},
            "web": {"port": port, "base_url": f"http://127.0.0.1:{port}"},
            "pagerduty": {"url": pagerduty},
            "spark": {"driver_memory": "900m"},
            "endpoints": {CHAT: endpoint},
        }
        path = self.out / "lastgood.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return str(path)

    def _start(self, stack: contextlib.ExitStack) -> None:
        """Workspace, jobs, service and traffic, each listening on loopback."""
        environment = self._environment()

        def part(name: str, *arguments: str) -> Process:
            process = Process([*arguments], self.out / f"{name}.log", environment)
            stack.callback(lambda: process.end(HURRY_S if self.interrupted else 60))
            return process

        seed = str(self.options.seed)
        self.pager = stack.enter_context(serve_fake())
        local = "lastgood.workspace.local"
        self.space = part("workspace", "-m", local, "--payload", str(self.out / "workspace"), "--seed", seed)
        self.url = str(self.space.ready(60)["url"])
        config = self._settings(self.url, self.pager.url)
        self.jobs = part("jobs", "-m", "lastgood", "job", "all", "--forever", "--config", config)
        self.service = part("service", "-m", "lastgood", "serve", "--config", config, "--poll-s", "1")
        os.environ["LASTGOOD_LOCAL_TOKEN"] = self.token
        self.workspace = connect(WorkspaceSettings(host=self.url, token_env="LASTGOOD_LOCAL_TOKEN"))
        headers = {"authorization": f"Bearer {self.token}"}
        self.api = stack.enter_context(httpx.Client(base_url=self.url, headers=headers, timeout=30))
        addresses = self.service.ready(60)
        self.web = str(addresses["url"])
        self.traffic = Traffic(
            self.url, self.token, int(addresses["grpc"]), self.options.seed, trace=self.options.trace
        )
        # the story ends before its traffic where a person interrupts it: that the receiver is gone is no news then
        stack.callback(logging.getLogger("opentelemetry").setLevel, logging.CRITICAL)

    # the story

    def run(self) -> dict[str, Any]:
        """Play the demo and write the report; the outcome is printed and returned."""
        java_home()
        fetch_jars()
        self.out.mkdir(parents=True, exist_ok=False)
        with contextlib.ExitStack() as stack:
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.callback(signal.signal, number, signal.signal(number, self._interrupted))
            if self.options.out is None:
                stack.callback(self._forget)
            self.console.print("starting the workspace, the service and the jobs on this machine ...")
            self._start(stack)
            self.console.print(f"watch it live: {self.web}/", soft_wrap=True)
            self.live = stack.enter_context(Live(console=self.console, refresh_per_second=4, transient=True))
            self._play()
            if self.options.keep:
                self._keep()
            return self._finish()

    def _play(self) -> None:
        assert self.traffic
        self.traffic.start()
        self.watch.say(f"version {PRIOR} serves all traffic")
        healthy = time.monotonic() + HEALTHY_S
        self._until("healthy traffic", lambda: time.monotonic() > healthy, HEALTHY_S + 5)
        self._roll_out()
        if self.options.guilty and self.options.mode is not Mode.OBSERVE:
            self._until("watch", lambda: self._rollback() is not None, 600)  # seconds on an idle machine
        else:
            end = time.monotonic() + WATCH_S
            self._until("watch", lambda: self._seen_enough(end) or self._rollback() is not None, WATCH_S + 60)
        if self._rollback() is not None and self.options.mode is not Mode.OBSERVE:
            self._roll_back()

    def _seen_enough(self, end: float) -> bool:
        return time.monotonic() > end and len(self.watch.about(BAD)) >= 3

    def _roll_out(self) -> None:
        fault = FAULTS[self.options.fault]
        where = "*" if self.options.fault == "stale-features" else BAD
        if fault is not None:
            self.api.put(f"/local/faults/{CHAT}/{where}", json=asdict(fault)).raise_for_status()
        now = self.workspace.endpoint(CHAT)
        served = [dict(running.settings) for running in now.entities] + [entity(MODELS[CHAT], BAD)]
        half = {f"support_chat-{PRIOR}": 50, f"support_chat-{BAD}": 50}
        self.workspace.update_config(CHAT, served, {running.name: 0 for running in now.entities} | half, {})
        self._until("roll out version 3", lambda: self.workspace.endpoint(CHAT).share(BAD) == 50, 30)
        if self.traffic:
            self.traffic.drifted = self.options.fault == "drift"
        fault_said = "" if self.options.fault == "none" else f" (fault: {self.options.fault})"
        self.watch.say(f"version {BAD} takes half of the traffic{fault_said}")

    def _roll_back(self) -> None:
        verdict, reason, _ = self._decided()
        self.watch.say(f"verdict {verdict}: {reason}")
        if self.options.mode is Mode.APPROVE:
            self._approve()
        if not self._until("roll back", lambda: self.workspace.endpoint(CHAT).share(BAD) == 0, 60):
            return
        self.outcome["rolled_back_at"] = datetime.now(UTC)
        self.watch.say(f"rolled back: version {PRIOR} serves all traffic again")
        self._until("verify", lambda: (self._rollback() or {}).get("state") in ("Done", "Failed"), 120)
        ended = self._rollback() or {}
        if ended.get("state") == "Done":
            self.outcome["verified_at"] = datetime.fromisoformat(ended["ended_at"])
            self.watch.say(f"verified: {ended['reason']}")
        else:
            self.watch.say(f"not verified: {ended.get('state')} {ended.get('reason')}")

    def _rollback(self) -> dict[str, Any] | None:
        incidents = httpx.get(f"{self.web}/api/incidents", timeout=10).json()
        own = (incident["rollback"] for incident in incidents if incident["endpoint"] == CHAT and incident["rollback"])
        return next(own, None)

    def _link(self) -> str | None:
        """The signed link to decide, as PagerDuty was told it (a page before the proposal only shows evidence)."""
        links = (link for event in self.pager.events() for link in event.get("links") or ())
        return next((link["href"] for link in links if link["text"].endswith("rollback")), None)

    def _approve(self) -> None:
        """Wait for the person that PagerDuty woke."""
        self._until("roll back", lambda: self._link() is not None, 30)
        if (link := self._link()) is None:
            raise TransientError("PagerDuty was not told a link")
        if self.options.click:
            self.watch.say("PagerDuty has the signed link; a person opens it and confirms")
            self._click(link)
            return
        self.live.console.print(
            f"PagerDuty has the signed link. You are on call: open it and decide.\n  {link}\n  person token: {self.person}",
            soft_wrap=True,
        )
        self.watch.say("PagerDuty has the signed link: waiting for you to open it and decide")
        waits = (Status.PROPOSED, Status.HELD)
        self._until("roll back", lambda: (self._rollback() or {}).get("state") not in waits, DECIDE_S)

    def _click(self, link: str) -> None:
        """Play the person: open the link, read, confirm."""
        with httpx.Client(timeout=10) as browser:
            page = browser.get(link)
            form = next((part for part in page.text.split("<form") if 'value="approve"' in part), "")
            nonce = re.search(r'name="form" value="([^"]+)"', form)
            if page.status_code != 200 or nonce is None:
                raise TransientError(f"the evidence page answered {page.status_code} without a form")
            data = {"form": nonce[1], "action": "approve", "person_token": self.person}
            answer = browser.post(link, data=data, headers={"origin": self.web})
            if answer.status_code != 303:
                raise TransientError(f"the approval was answered with {answer.status_code}")

    # watching

    def _show(self, step: str) -> None:
        title = f"fault {self.options.fault}, mode {self.options.mode}"
        sent = (
            f"{counted(self.traffic.sent, 'request')} sent, {self.traffic.failed} failed"
            if self.traffic
            else "starting"
        )
        self.live.update(self.watch.view(step, title, BAD, sent))

    def _until(self, step: str, done: Callable[[], bool], timeout_s: float) -> bool:
        """Show and wait until `done()` or the time is up."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            for process in (self.space, self.jobs, self.service):
                process.alive()
            while not self.jobs.lines.empty():
                line = self.jobs.lines.get()
                self.watch.stages[line.get("job", "spark")] = f"{line.get('seconds', '')} s"
            self.watch.refresh()
            self.peak_mb = max(self.peak_mb, resident_mb())
            self._show(step)
            with contextlib.suppress(LastgoodError, httpx.HTTPError):
                if done():
                    return True
            time.sleep(1.0)
        return False

    def _keep(self) -> None:
        self._show("report")
        self.live.stop()
        links = {
            "live page": f"{self.web}/", "evidence": self._link(), "metrics": f"{self.web}/metrics", "workspace": self.url,
            "person token": self.person, "settings": str(self.out / "lastgood.yaml"),
        }  # fmt: skip
        for name, value in links.items():
            if value:
                self.console.print(f"{name:<13}{value}", soft_wrap=True)
        self.console.print("running until Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        self.interrupted = False

    # the end

    def _finish(self) -> dict[str, Any]:
        assert self.traffic
        self._show("report")
        self.traffic.stop()
        logged = self.api.put("/local/flush").json()
        self.service.end()  # drains the spool
        self.jobs.end(240)  # takes in what has come since: on a busy machine that is a minute's work
        self.watch.refresh()
        rows = delta.read(self.store.path(tables.REQUESTS), ["request_id", "sources"], [("endpoint", "=", CHAT)])
        sources = rows.column("sources").to_pylist()
        (verdict, reason, judged_at), shares = self._decided(), self.workspace.endpoint(CHAT)
        guilty = self.options.guilty
        self.outcome |= {
            "rolled_back": "rolled_back_at" in self.outcome,
            "bad_version": BAD if guilty else None,
            "serving_version": max((PRIOR, BAD), key=shares.share),
            "first_bad_request_at": self.traffic.first_seen.get(f"support_chat-{BAD}") if guilty else None,
            "verdict_at": judged_at,
            "rolled_back_at": self.outcome.get("rolled_back_at"),
            "verified_at": self.outcome.get("verified_at"),
            "verdict": verdict,
            "reason": reason,
            "requests": self.traffic.sent,
            "spans": sum("otlp" in source for source in sources),
            "inference_rows": sum("ai_gateway" in source for source in sources),
            "inference_rows_logged": logged["rows"],
            "requests_lost": self.traffic.sent - len(sources),
            "pages": len({event.get("dedup_key") for event in self.pager.events()}),
            "peak_rss_mb": round(self.peak_mb),
        }
        report = self.out / "report.html"
        title = f"Lastgood demo: {self.options.fault}"
        report.write_text(self.watch.page(title, self._headline(), BAD, self.outcome))
        self.outcome |= {"report": str(report), "wall_s": round(time.monotonic() - self.watch.started, 1)}
        last = self.watch.view(
            "report", "", BAD, f"{counted(self.traffic.sent, 'request')} sent, {self.traffic.failed} failed"
        )
        self.live.stop()
        self.console.print(last)
        self.console.print(f"{self._headline()}\nreport: {report}", soft_wrap=True)
        self.finished = True
        return self.outcome

    def _interrupted(self, number: int, frame: object) -> None:
        """The first signal ends the demo; the next ones must not end its cleaning up."""
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt

    def _forget(self) -> None:
        """A demo that was interrupted leaves nothing behind."""
        if not self.finished:
            shutil.rmtree(self.out, ignore_errors=True)

    def _decided(self) -> tuple[str, str, datetime]:
        """State, reason and time of the verdict that was acted on (whichever judge spoke first), else the scheduled job's."""
        store = Store(self.state)
        try:
            with store.read() as tx:
                acted = tx.audit(what=str(Status.PROPOSED))
        finally:
            store.close()
        if acted:
            return str(State.ROLL_BACK), acted[0]["detail"]["evidence"], acted[0]["at"].replace(tzinfo=UTC)
        verdicts = self.watch.deciding(BAD)
        return str(verdicts.state), verdicts.reason, verdicts.judged_at

    def _headline(self) -> str:
        o = self.outcome
        if not o["rolled_back"]:
            return f"Nothing was rolled back: {o['verdict']}, {o['reason']}."
        took = (o["rolled_back_at"] - o["first_bad_request_at"]).total_seconds() if o["first_bad_request_at"] else 0.0
        return f"Version {BAD} was rolled back {took:.0f} s after its first request: {o['reason']}."
