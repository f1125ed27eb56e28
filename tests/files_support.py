"""Files of requests as people write them, and what `lastgood check` makes of them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from lastgood.cli.check import check
from lastgood.settings import load

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS = 120
PROMPT = 'Tell me,\n"please", about\nversion 7, and; "tabs"\t|too'


def rows(**change: Any) -> list[dict[str, Any]]:
    """Canonical records of two versions."""
    return [
        {
            "endpoint": "chat", "model_version": "2" if i % 2 else "1", "requested_at": (START + timedelta(seconds=i)).isoformat(),
            "latency_ms": 20.0 + i, "error_code": "TIMEOUT" if i % 10 == 0 else None, "input": PROMPT, "output": f"answer {i}",
            "request_id": f"r{i}",
        }
        | {name: value(i) if callable(value) else value for name, value in change.items()}
        for i in range(ROWS)
    ]  # fmt: skip


def legacy(metadata: Any) -> list[dict[str, Any]]:
    return [
        {
            "databricks_request_id": f"r{i}", "timestamp_ms": round((START.timestamp() + i) * 1e3), "status_code": "200",
            "execution_time_ms": 20.0, "request_metadata": metadata({"endpoint_name": "chat", "model_name": "m", "model_version": str(1 + i % 2)}),
        }
        for i in range(ROWS)
    ]  # fmt: skip


def run(path: Path) -> dict[str, Any]:
    return check(str(path), load(None))


def csv(path: Path, made: list[dict[str, Any]], **how: Any) -> Path:
    pd.DataFrame(made).to_csv(path, index=False, **how)
    return path


def versions(result: dict[str, Any]) -> dict[str, float]:
    return {
        version: figures["requests"]
        for endpoint in result["endpoints"]
        for version, figures in endpoint["versions"].items()
    }


HALVES = {"1": ROWS / 2, "2": ROWS / 2}
