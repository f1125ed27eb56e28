"""Sources as the world has them: `python -m benchmarks.torture`. Every row must be a request, set aside with a reason, or in a count.

Files go through `lastgood check` without Spark, bodies through an inference table, tables through collect and conform (without --quick). A case is
right when its requests are those that are in it, or when it is refused where it must be.
"""

import argparse
import gzip
import json
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from benchmarks.measured import machine
from lastgood.cli.check import check
from lastgood.errors import ConfigError
from lastgood.settings import load

START, ROWS = datetime(2026, 3, 1, 12, tzinfo=UTC), 120
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """`make` writes a table and gives its path. `versions`: version -> requests, or None where it must be refused; `aside`: rows set aside."""

    name: str
    make: Callable[[Path], Path]
    versions: Mapping[str, float] | None
    aside: int = 0


@dataclass(frozen=True)
class Result:
    right: bool
    lost: float = 0
    doubled: float = 0
    traceback: bool = False
    said: str = ""


PROMPT = 'Tell me,\n"please", about\nversion 7; "tabs"\t|too\\n'
HALVES = {"1": ROWS / 2, "2": ROWS / 2}


def records(**change: Any) -> Rows:
    rows = [
        {
            "endpoint": "chat", "model_version": "2" if i % 2 else "1", "requested_at": (START + timedelta(seconds=i)).isoformat(),
            "latency_ms": 20.0 + i, "error_code": "TIMEOUT" if i % 10 == 0 else None, "input": PROMPT, "output": f"answer {i}",
            "request_id": f"r{i}",
        }
        for i in range(ROWS)
    ]  # fmt: skip
    return [row | {k: v(i) if callable(v) else v for k, v in change.items()} for i, row in enumerate(rows)]


def written(form: str, rows: Rows, **how: Any) -> Callable[[Path], Path]:
    """Writes rows in a form: csv, jsonl, json, parquet or delta, and their .gz."""

    def make(folder: Path) -> Path:
        kind = form.removesuffix(".gz")
        path = folder / f"support.{kind}"
        if kind == "csv":
            pd.DataFrame(rows).to_csv(path, index=False, **how)
        elif kind in ("jsonl", "json"):
            text = (
                json.dumps(rows, default=str, **how)
                if kind == "json"
                else "\n".join(json.dumps(r, default=str) for r in rows)
            )
            path.write_text(text)
        elif kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, **how)
        else:
            path = folder / "support"
            write_deltalake(str(path), pa.Table.from_pylist(rows), **how)
        if form.endswith(".gz"):
            packed = path.with_name(f"{path.name}.gz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            return packed
        return path

    return make


def text(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def edited(form: str, rows: Rows, edit: Callable[[str], str]) -> Callable[[Path], Path]:
    """The file, changed by hand."""

    def make(folder: Path) -> Path:
        path = written(form, rows)(folder)
        path.write_text(edit(path.read_text()))
        return path

    return make


def _two_ragged(content: str) -> str:
    return content.replace("r5\n", "r5,more\n").replace("r7\n", "r7,a,b\n")


def _one_far(i: int) -> str:
    return f"{2062 if i == 3 else 2026}-03-01T12:00:00Z"


def files() -> list[Case]:
    return [*_in_every_form(), *_of_one_form()]


def _in_every_form() -> list[Case]:
    forms = ("csv", "jsonl", "json", "parquet", "delta", "csv.gz", "jsonl.gz", "json.gz")
    cases = [Case(f"{form}: as it should be", written(form, records()), HALVES) for form in forms]
    units = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
    for form in ("csv", "jsonl", "json", "parquet"):
        for unit, scale in units.items():
            rows = records(requested_at=lambda i, scale=scale: round((START.timestamp() + i) * scale))
            cases.append(Case(f"{form}: times in {unit}", written(form, rows), HALVES))
        zones = records(
            requested_at=lambda i: (
                (START + timedelta(seconds=i)).astimezone().isoformat()
                if i % 2
                else f"2026-03-01T13:00:{i % 60:02}+01:00"
            )
        )
        cases.append(Case(f"{form}: zones of several kinds", written(form, zones), HALVES))
        cases.append(
            Case(
                f"{form}: versions 1.1 and 1.10",
                written(form, records(model_version=lambda i: ("1.1", "1.10")[i % 2])),
                {"1.1": 60, "1.10": 60},
            )
        )
        cases.append(
            Case(
                f"{form}: no version",
                written(form, records(model_version=lambda i: None if i % 2 else "1")),
                {"1": 60, "?": 60},
            )
        )
        cases.append(
            Case(
                f"{form}: a negative latency",
                written(form, records(latency_ms=lambda i: -1.0 if i == 4 else 5.0)),
                {"1": 59, "2": 60},
                1,
            )
        )
        cases.append(
            Case(
                f"{form}: a time in 2062",
                written(form, records(requested_at=_one_far)),
                {"1": 60, "2": 59},
                1,
            )
        )
        cases.append(
            Case(
                f"{form}: no time",
                written(form, records(requested_at=lambda i: None if i == 3 else "2026-03-01T12:00:00Z")),
                {"1": 60, "2": 59},
                1,
            )
        )
        doubled = [*records(), *records()[:20]]
        cases.append(Case(f"{form}: twenty rows twice", written(form, doubled), HALVES))
    return cases


def _of_one_form() -> list[Case]:
    cases = []
    for delimiter in ";\t|":
        cases.append(Case(f"csv: delimiter {delimiter!r}", written("csv", records(), sep=delimiter), HALVES))
    cases += [
        Case("csv: byte order mark", written("csv", records(), encoding="utf-8-sig"), HALVES),
        Case("csv: UTF-16", written("csv", records(), encoding="utf-16"), None),
        Case("csv: Latin-1", written("csv", records(input="Größe"), encoding="latin-1"), None),
        Case("csv: backslash quotes", written("csv", records(), doublequote=False, escapechar="\\"), HALVES),
        Case("csv: all quoted", written("csv", records(error_code="", input="x"), quoting=1), HALVES),
        Case("csv: CRLF", written("csv", records(), lineterminator="\r\n"), HALVES),
        Case("csv: two ragged rows", edited("csv", records(input="x"), _two_ragged), {"1": 60, "2": 58}, 2),
        Case("csv: all rows ragged", edited("csv", records(input="x"), lambda t: t.replace("\n", ",more\n").replace(",more\n", "\n", 1)), None),
        Case("csv: a column twice", text("x.csv", "endpoint,model_version,requested_at,a,a\nc,1,2026-03-01,1,2\n"), None),
        Case("csv: two units", written("csv", records(requested_at=lambda i: round(START.timestamp() * (1e3 if i == 9 else 1)))), None),
        Case("csv: of something else", text("x.csv", "order,price\n1,2\n"), None),
        Case("csv: empty", text("x.csv", ""), None),
        Case("csv: a header alone", text("x.csv", "endpoint,model_version,requested_at,latency_ms\n"), None),
        Case("jsonl: two broken lines", edited("jsonl", records(), lambda t: t + '\n{"broken\n[1]\n'), HALVES, 2),
        Case("jsonl: NaN", written("jsonl", records(feature_age_ms=float("nan"))), HALVES),
        Case("jsonl: nested maps", written("jsonl", records(attributes={"a": {"b": 1}})), HALVES),
        Case("jsonl: versions as numbers with fractions", written("jsonl", records(model_version=1.1)), None),
        Case("json: indented", written("json", records(), indent=2), HALVES),
        Case("json: broken off", edited("json", records(), lambda t: t[:-40]), None),
        Case("parquet: several row groups", written("parquet", records(), row_group_size=7), HALVES),
        Case("parquet: garbage", text("x.parquet", b"PAR1garbage"), None),
        Case("parquet: whole versions as floats", written("parquet", records(model_version=lambda i: float(1 + i % 2))), HALVES),
        Case("parquet: versions 1.1 as floats", written("parquet", records(model_version=1.1)), None),
        Case("delta: partitioned", written("delta", records(), partition_by=["model_version"]), HALVES),
        Case("nothing there", lambda folder: folder / "missing", None),
    ]  # fmt: skip
    return cases


def logged(response: Any, **more: Any) -> Rows:
    request = {"messages": [{"role": "user", "content": PROMPT}]}
    return [
        {
            "databricks_request_id": f"r{i}", "request_time": (START + timedelta(seconds=i)).isoformat(), "status_code": 200,
            "execution_duration_ms": 20, "served_entity_id": str(1 + i % 2), "request": json.dumps(request),
            "response": response if isinstance(response, str) else json.dumps(response),
        } | more
        for i in range(ROWS)
    ]  # fmt: skip


CALL = {"function": {"name": "f", "arguments": "{}"}}
BODIES: dict[str, Any] = {
    "chat": {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]},
    "tool call": {"choices": [{"message": {"content": None, "tool_calls": [CALL]}, "finish_reason": "tool_calls"}]},
    "empty tool call": {"choices": [{"message": {"content": "", "tool_calls": [CALL]}, "finish_reason": "tool_calls"}]},
    "refusal": {"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]},
    "Responses": {"output": [{"type": "message", "content": [{"text": "a"}]}], "status": "completed"},
    "Responses stream": [{"type": "response.output_item.done", "item": {"type": "message", "content": [{"text": "a"}]}}],
    "ChatAgent": {"messages": [{"role": "assistant", "content": "a"}]},
    "Anthropic": {"type": "message", "content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"},
    "Google": {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]},
    "embedding": {"data": [{"embedding": [0.1, 0.2]}]}, "predictions": {"predictions": [1]}, "not JSON": "<html>", "null": "null",
    "NaN": '{"predictions": [NaN]}', "deep": "[" * 5000, "a number": "7",
}  # fmt: skip


def bodies() -> list[Case]:
    return [Case(f"body: {name}", written("jsonl", logged(response)), HALVES) for name, response in BODIES.items()]


def run(case: Case) -> Result:
    with tempfile.TemporaryDirectory() as name:
        try:
            result = check(str(case.make(Path(name))), load(None))
        except ConfigError as error:
            return Result(case.versions is None, said=str(error))
        except Exception:
            return Result(False, traceback=True, said=traceback.format_exc().splitlines()[-1])
    counted = {v: f["requests"] for e in result["endpoints"] for v, f in e["versions"].items()}
    aside = sum(result["rejected"].values())
    if case.versions is None:
        return Result(False, said=f"was not refused: {counted}")
    given = sum(case.versions.values())
    missing = given + case.aside - sum(counted.values()) - aside
    said = f"{counted}, set aside {aside}"
    return Result(counted == case.versions and aside == case.aside, max(0, missing), max(0, -missing), said=said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the tables that Spark reads")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    cases = [*files(), *bodies()]
    results = [(case.name, run(case)) for case in cases]
    if not given.quick:
        from benchmarks.torture_tables import tables_of_teams

        results += tables_of_teams()
    for name, result in results:
        if not result.right or result.lost or result.doubled:
            print(f"{name}: {result.said}")
    print(f"{len(results)} cases; {machine()}")
    print(json.dumps({
        "cases": len(results), "right": sum(result.right for _, result in results),
        "silent_losses": sum(result.lost for _, result in results), "doubled": sum(result.doubled for _, result in results),
        "tracebacks": sum(result.traceback for _, result in results),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
