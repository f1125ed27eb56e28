"""Real instrumentations against the real receiver: does every request give one record, with the right figures?

`python -m benchmarks.instrumentations [--dialects NAME ...] [--page FILE]`, or `--names FILE`: where the packages define the names that are
read. Each dialect runs in the environment of the instrumentations
(`tests/instrumentations/requirements.txt`; LASTGOOD_INSTRUMENTATIONS names its Python, else `.instrumentations/bin/python`) against a small
OpenAI-compatible server; what the receiver stored is folded as the job `conform` folds it.
"""

import argparse
import asyncio
import json
import math
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from itertools import groupby
from pathlib import Path
from typing import Any

from lastgood.collectors.otlp import dialects
from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.record import contents, trees
from lastgood.settings import Receiver
from lastgood.tables import delta

FOLDER = Path(__file__).parent.parent / "tests" / "instrumentations"
PYTHON = Path(
    os.environ.get("LASTGOOD_INSTRUMENTATIONS", Path(__file__).parent.parent / ".instrumentations" / "bin" / "python")
)
DIALECTS = (
    "openai-v2",
    "openai-v2-latest",
    "openllmetry",
    "langchain",
    "llama-index",
    "mlflow",
    "litellm",
    "pydantic-ai",
    "semantic-kernel",
    "azure-ai",
    "fastapi",
    "vercel",
)


NODE_DIALECTS = ("vercel",)
NODE = PYTHON.parent.parent / "node"
"""Where `package.json` is installed."""


@dataclass(frozen=True)
class Expected:
    """What a scenario should give: how many requests, whose tokens are of how many calls; whether it fails, and streams; how
    many calls of tools it tells, none of which fails."""

    requests: int = 1
    calls: int = 1
    fails: bool = False
    streams: bool = False
    tools: int = 0


SCENARIOS: Mapping[str, Expected] = {
    "success": Expected(), "429": Expected(fails=True), "500": Expected(fails=True), "time-out": Expected(fails=True),
    "streamed": Expected(streams=True), "tool asked for": Expected(), "retry": Expected(), "nested": Expected(calls=2),
    "nested, failing": Expected(fails=True), "agent with a tool": Expected(calls=2, tools=1), "fallback": Expected(), "health check": Expected(requests=0),
}  # fmt: skip
PROMPTED = ("langchain", "llama-index", "mlflow", "litellm", "pydantic-ai", "vercel", "openllmetry")
"""Packages whose spans hold the system prompt, as they come."""
STREAM_MS = 250
"""A streamed answer takes longer, and its first token comes earlier."""
NO_FIRST_TOKEN = (
    "openai-v2",
    "openai-v2-latest",
    "mlflow",
    "langchain",
    "litellm",
    "semantic-kernel",
    "azure-ai",
    "fastapi",
)
UNTOLD: Mapping[tuple[str, str], frozenset[str]] = {
    (name, "streamed"): frozenset({"ttft"}) for name in NO_FIRST_TOKEN
} | {
    ("llama-index", "streamed"): frozenset({"latency", "tokens"}),  # its spans end when the generator is handed over
}
"""(dialect, scenario) -> figures that its spans do not hold, so that nobody can read them: tokens, ttft."""


@dataclass(frozen=True)
class Outcome:
    """One scenario of one dialect: the records that came of it, and what is wrong with them."""

    dialect: str
    scenario: str
    records: list[dict[str, Any]]
    problem: str | None = None

    @property
    def expected(self) -> Expected:
        return SCENARIOS[self.scenario]

    @property
    def lost(self) -> int:
        return max(0, self.expected.requests - len(self.records))

    @property
    def doubled(self) -> int:
        return max(0, len(self.records) - self.expected.requests)

    @property
    def tokens_wrong(self) -> bool:
        if (
            self.expected.fails
            or not self.expected.requests
            or "tokens" in UNTOLD.get((self.dialect, self.scenario), ())
        ):
            return False
        told = (sum(row["tokens_in"] or 0 for row in self.records), sum(row["tokens_out"] or 0 for row in self.records))
        return told != (11 * self.expected.calls, 5 * self.expected.calls)

    def wrong(self) -> list[str]:
        """What is not as it should be, in words."""
        said = [self.problem] if self.problem else []
        said += [f"{self.lost} requests lost"] if self.lost else []
        said += [f"{self.doubled} requests doubled"] if self.doubled else []
        said += ["tokens wrong"] if self.tokens_wrong else []
        untold = UNTOLD.get((self.dialect, self.scenario), ())
        for row in self.records:
            if (row["error_code"] is not None) != self.expected.fails:
                said.append(f"error code {row['error_code']}")
            told = dict(row.get("attributes") or ())
            if self.expected.tools and (told.get("run.tools"), told.get("eval.tools")) != (
                str(self.expected.tools),
                "1.0",
            ):
                said.append(f"tools {told.get('run.tools')}, of which succeeded {told.get('eval.tools')}")
            prompt = told.get(contents.PREFIX + "prompt")
            if self.dialect in PROMPTED and self.scenario == "success" and prompt != contents.digest("Be brief."):
                said.append("the system prompt is not told")
            if row["endpoint"] != "support":
                said.append(f"endpoint {row['endpoint']}")
            if self.expected.streams and "latency" not in untold and (row["latency_ms"] or 0) < STREAM_MS:
                said.append(f"a stream of {row['latency_ms']} ms")
            if (
                self.expected.streams
                and "ttft" not in untold
                and not 0 < (row["ttft_ms"] or 0) < (row["latency_ms"] or math.inf)
            ):
                said.append(f"first token after {row['ttft_ms']}")
        return said


def _model() -> Any:
    """The server of `tests/instrumentations/model.py`."""
    spec = spec_from_file_location("instrumentations_model", FOLDER / "model.py")
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Model()


class _Receiving:
    """A receiver in a thread of its own; `stored` drains it and gives what it stored."""

    def __init__(self, folder: Path) -> None:
        settings = Receiver(grpc_port=0, http_port=0, spool=folder / "spool", commit_interval_s=0.2)
        self.receiver, self.inbox = OtlpReceiver(str(folder / "inbox"), settings, contents=True), folder / "inbox"
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._up.wait(60)

    async def _serve(self) -> None:
        self._done, self._loop = asyncio.Event(), asyncio.get_running_loop()
        async with self.receiver.running():
            self._up.set()
            await self._done.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.receiver.http_port}"

    def stored(self) -> list[dict[str, Any]]:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(120)
        rows: list[dict[str, Any]] = delta.read(self.inbox).to_pylist() if delta.version(self.inbox) is not None else []
        return rows


def records(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Inbox rows -> requests, as `conform` makes them."""
    ordered = sorted(rows, key=lambda row: row["trace_id"] or "")
    return [record for _, parts in groupby(ordered, lambda row: row["trace_id"]) for record in trees.records(parts)]


def _driver(dialect: str) -> list[str]:
    """The program that drives a dialect; Node looks for packages beside the file that it runs."""
    if dialect not in NODE_DIALECTS:
        return [str(PYTHON), str(FOLDER / "drive.py")]
    shutil.copy(FOLDER / "drive.mjs", NODE / "drive.mjs")
    return ["node", str(NODE / "drive.mjs")]


def run(dialect: str) -> list[Outcome]:
    """Every scenario of a dialect."""
    with tempfile.TemporaryDirectory() as folder:
        model, receiving = _model(), _Receiving(Path(folder))
        command = [*_driver(dialect), dialect, model.url, receiving.url]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON"))}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=300, env=environment, cwd=folder
        )
        time.sleep(0.3)
        made = records(receiving.stored())
        model.shutdown()
        model.server_close()
    steps = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"scenario"')]
    if done.returncode or not steps:
        raise RuntimeError(f"{dialect}: {done.stderr[-3000:]}")
    outcomes = []
    for step in steps:
        own = [row for row in made if step["begun"] - 0.002 <= row["requested_at"].timestamp() <= step["ended"]]
        outcomes.append(Outcome(dialect, step["scenario"], own, step["problem"]))
        made = [row for row in made if row not in own]
    if made:
        outcomes.append(Outcome(dialect, "health check", made, "records of no scenario"))
    return outcomes


HEAD = """# Instrumentations

What real packages send, and what Lastgood makes of it. Made by `python -m benchmarks.instrumentations --page docs/reference/instrumentations.md`:
each package drives the receiver against a small server; a call answers with 11 prompt tokens (4 of them cached) and 5 generated ones.

| dialect | scenario | records | endpoint | latency | first token | tokens in / out / cached | calls | healed | code | as it should be |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def page(outcomes: Iterable[Outcome], versions: Mapping[str, str]) -> str:
    """The reference page. Times are only said to be there: they are another each time."""
    lines = []
    for outcome in outcomes:
        row = outcome.records[0] if outcome.records else {}
        told = [row.get(name) for name in ("tokens_in", "tokens_out", "tokens_cached")]
        cells = [
            outcome.dialect, outcome.scenario, len(outcome.records), row.get("endpoint"), "yes" if row.get("latency_ms") else "",
            "yes" if row.get("ttft_ms") else "", " / ".join("-" if each is None else str(each) for each in told) if row else "",
            row.get("calls"), row.get("healed"), row.get("error_code"), "; ".join(outcome.wrong()) or "yes",
        ]  # fmt: skip
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return HEAD + "\n".join(lines) + f"\n\nPackages: {named}.\n"


def versions() -> dict[str, str]:
    """The packages that are driven, as they are pinned."""
    asked = {line.split("[")[0].strip() for line in (FOLDER / "requirements.in").read_text().splitlines()}
    pins = (line.strip().partition("==") for line in (FOLDER / "requirements.txt").read_text().splitlines())
    node: dict[str, str] = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    return {name: version for name, _, version in pins if name.split("[")[0] in asked} | node


def names() -> str:
    """JSON: each attribute that a dialect reads -> the constants of the packages that define it (`tests/instrumentations/names.py`)."""
    read = sorted({name for dialect in dialects.DIALECTS for sources in dialect.values() for name, _ in sources})
    command = [str(PYTHON), str(FOLDER / "names.py"), *read]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialects", nargs="+", default=DIALECTS, choices=DIALECTS)
    parser.add_argument("--page", type=Path)
    parser.add_argument("--names", type=Path)
    given = parser.parse_args()
    if given.names:
        given.names.write_text(names())
        return
    outcomes: list[Outcome] = []
    for dialect in given.dialects:
        outcomes += run(dialect)
        for outcome in outcomes:
            if outcome.dialect == dialect:
                print(dialect, outcome.scenario, "; ".join(outcome.wrong()) or "right", flush=True)
    if given.page:
        given.page.write_text(page(outcomes, versions()))
    figures = {
        "dialects": len(given.dialects), "scenarios": len(outcomes), "right": sum(not outcome.wrong() for outcome in outcomes),
        "requests_lost": sum(outcome.lost for outcome in outcomes), "requests_doubled": sum(outcome.doubled for outcome in outcomes),
        "tokens_wrong": sum(outcome.tokens_wrong for outcome in outcomes),
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
