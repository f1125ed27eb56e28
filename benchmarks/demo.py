"""`lastgood demo` for every fault and several seeds: `python -m benchmarks.demo [--seeds 1 2 3] [--faults errors ...]`."""

import argparse
import json
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.measured import machine, run

FAULTS = ("errors", "latency", "quality", "drift", "stale-features", "none")
BAD = ("errors", "latency", "quality")


def seconds(found: dict[str, Any], first: str, last: str) -> str:
    if not found.get(first) or not found.get(last):
        return "-"
    return f"{(datetime.fromisoformat(found[last]) - datetime.fromisoformat(found[first])).total_seconds():.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", nargs="+", default=FAULTS, choices=FAULTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="one fault, one seed")
    given = parser.parse_args()
    faults, seeds = (("errors",), [1]) if given.quick else (given.faults, given.seeds)
    results: list[dict[str, Any]] = []
    print(
        "| fault | seed | verdict | rolled back | to verdict s | to rollback s | to verified s | requests | lost | wall s | peak MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for fault in faults:
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "outcome.json"
                command = [sys.executable, "-m", "lastgood", "demo", "--fault", fault, "--seed", str(seed)]
                with (Path(folder) / "log").open("wb") as log:
                    run([*command, "--out", f"{folder}/demo", "--json", str(out)], stdout=log)
                one = json.loads(out.read_text())
            results.append(one)
            times = (seconds(one, "first_bad_request_at", to) for to in ("verdict_at", "rolled_back_at", "verified_at"))
            cells = (
                fault,
                seed,
                one["verdict"],
                one["rolled_back"],
                *times,
                one["requests"],
                one["requests_lost"],
                one["wall_s"],
            )
            print("|", " | ".join(str(cell) for cell in cells), "|", one["peak_rss_mb"], "|", flush=True)
    print(f"\n{machine()}")
    right = sum(one["rolled_back"] == (one["fault"] in BAD) for one in results)
    lost = sum(one["requests_lost"] for one in results)
    walls = [one["wall_s"] for one in results]
    print(json.dumps({"runs": len(results), "right": right, "requests_lost": lost, "wall_s_max": max(walls)}))


if __name__ == "__main__":
    main()
