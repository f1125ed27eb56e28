"""Fuzz every parser for a while: `uv run --with atheris==3.0.0 python -m tests.fuzz --minutes 60 [--jobs 2] [target ...]`.

Each target runs in a process of its own for its share of the time, guided by coverage (libFuzzer by atheris). Inputs that reach something new are
kept in `.fuzz/TARGET`; some of them, and what crashed, go to `tests/fuzz/corpus/TARGET`, which the suite replays. Inputs that crash a target stand in
`.fuzz/crashes`. The last line is JSON: minutes run, inputs tried and crashes, by target.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
CORPUS, WORK = Path(__file__).parent / "corpus", ROOT / ".fuzz"
KEPT, KEPT_BYTES, LONGEST = 24, 4096, 8192
SLOW_S, RSS_MIB = 20, 4096


def fuzz(name: str, arguments: Sequence[str]) -> None:
    """One target in this process. Ends by itself; an exception that is not documented ends it with libFuzzer's report."""
    import atheris

    with atheris.instrument_imports(include=["lastgood"]):
        from fuzz.targets import TARGETS
    target = TARGETS[name]

    def once(data: bytes) -> None:
        try:
            target.run(data)
        except target.errors:
            return

    own = WORK / name
    own.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(target.seeds):
        (own / f"seed-{i}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *arguments], once)
    atheris.Fuzz()


def _process(name: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "tests.fuzz", "--inside", name, "--", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
    return done.stderr + done.stdout


def run(name: str, seconds: float) -> dict[str, float | str]:
    """Fuzz one target for some seconds, crash after crash, and keep some of what it found."""
    WORK.joinpath("crashes").mkdir(parents=True, exist_ok=True)
    kept, began, tried, crashes = CORPUS / name, time.monotonic(), 0, 0
    folders = [str(WORK / name), *([str(kept)] if kept.is_dir() else [])]
    limits = [
        f"-timeout={SLOW_S}",
        f"-rss_limit_mb={RSS_MIB}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={WORK}/crashes/{name}-",
    ]
    while (left := seconds - (time.monotonic() - began)) > 1 and crashes < 5:
        said = _process(name, *folders, *limits, f"-max_total_time={max(1, round(left))}", "-print_final_stats=1")
        tried += sum(map(int, re.findall(r"number_of_executed_units:\s+(\d+)", said)))
        if "Done " in said and "crash-" not in said:
            break
        crashes += 1
        (WORK / "crashes" / f"{name}-{crashes}.txt").write_text(said[-20_000:])
        print(f"{name}: crash {crashes}, see {WORK}/crashes/{name}-{crashes}.txt", flush=True)
    _keep(name, kept)
    return {"minutes": round((time.monotonic() - began) / 60, 2), "inputs": tried, "crashes": crashes}


def _keep(name: str, kept: Path) -> None:
    """What crashed once, and of the inputs that reached something new some of every size."""
    crashed = sorted((WORK / "crashes").glob(f"{name}-crash-*"))
    new = sorted(
        (path for path in (WORK / name).iterdir() if path.stat().st_size <= KEPT_BYTES),
        key=lambda path: path.stat().st_size,
    )
    kept.mkdir(parents=True, exist_ok=True)
    for path in [*crashed, *new[:: max(1, len(new) // KEPT)][:KEPT]]:
        shutil.copy(path, kept / path.name.rpartition("-")[2][:16])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--minutes", type=float, default=1.0, help="of every target")
    parser.add_argument("--jobs", type=int, default=1, help="targets at once")
    given = parser.parse_args()
    if not given.targets:
        from fuzz.targets import TARGETS

        given.targets = list(TARGETS)
    with ThreadPoolExecutor(given.jobs) as pool:
        done = pool.map(lambda name: run(name, given.minutes * 60), given.targets)
        result = dict(zip(given.targets, done, strict=True))
    for name, figures in result.items():
        print(f"{name:<20} {figures}")
    print(
        json.dumps(
            {
                "minutes": given.minutes,
                "crashes": sum(int(each["crashes"]) for each in result.values()),
                "targets": result,
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        fuzz(sys.argv[2], sys.argv[4:])
    else:
        main()
