"""Rules and configurations under the real promtool and amtool: they are valid, fire, do not fire, and resolve."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import needs

from lastgood.alerts.rules import build
from lastgood.settings import Settings

CONF = Path(__file__).parents[2] / "conf" / "prometheus"


def tool(name: str, *arguments: str) -> str:
    needs(name, shutil.which(name) is not None)
    done = subprocess.run([name, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_configurations_are_valid() -> None:
    tool("promtool", "check", "config", str(CONF / "prometheus.yml"))
    tool("promtool", "check", "config", "--syntax-only", str(CONF / "databricks-app.yml"))
    tool("amtool", "check-config", str(CONF / "alertmanager.yml"))


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


V2 = {"endpoint": "chat", "model_version": "2"}
FAILING = [
    series("lastgood_requests_total", "0+600x400", **V2),
    series("lastgood_errors_total", "0+0x60 180+180x60 10980+0x280", **V2, error_code="HTTP_500"),
]
SLOW = [
    series("lastgood_request_duration_seconds_count", "0+600x400", **V2),
    series("lastgood_request_duration_seconds_bucket", "0+600x60 36000+60x60 39600+600x280", **V2, le="10.0"),
]
CASES: dict[str, tuple[list[dict[str, str]], str, dict[str, tuple[str, bool]]]] = {
    "30% errors for an hour burn the budget fast, then it resolves": (
        FAILING, "LastgoodErrorBudgetBurn", {"50m": ("page", False), "115m": ("page", True), "160m": ("page", False)},
    ),
    "90% slow requests for an hour burn the latency budget": (
        SLOW, "LastgoodLatencyBudgetBurn", {"50m": ("page", False), "115m": ("page", True), "160m": ("page", False)},
    ),
    "a verdict to roll back pages at once and resolves with the next": (
        [series("lastgood_verdict", "1x10 4x10 0x20", **V2), series("lastgood_incidents_open", "1x40", endpoint="chat")],
        "LastgoodRollBack", {"5m": ("page", False), "15m": ("page", True), "30m": ("page", False)},
    ),
    "a verdict that was acted on pages nobody any more": (
        [series("lastgood_verdict", "4x40", **V2), series("lastgood_incidents_open", "1x15 stale", endpoint="chat")],
        "LastgoodRollBack", {"10m": ("page", True), "30m": ("page", False)},
    ),
    "a task of the service that fails pages until it works again": (
        [series("lastgood_task_errors_total", "0x10 1+1x5 6x60")],
        "LastgoodTaskFails", {"5m": ("page", False), "14m": ("page", True), "50m": ("page", False)},
    ),
    "old features": (
        [series("lastgood_feature_age_seconds_count", "0+60x120", **V2),
         series("lastgood_feature_age_seconds_bucket", "0+60x30 1800+6x40 2040+60x50", **V2, le="3600.0")],
        "LastgoodFeaturesStale", {"20m": ("ticket", False), "69m": ("ticket", True), "110m": ("ticket", False)},
    ),
    "a feature table gets nothing new for an hour and a quarter": (
        [series("lastgood_feature_source_timestamp_seconds", "0x100 6060x60", endpoint="chat", kind="feature_table", source="m.s.t")],
        "LastgoodFeatureSourceOld", {"70m": ("ticket", False), "90m": ("ticket", True), "110m": ("ticket", False)},
    ),
    "bad answers": (
        [series("lastgood_answers_total", "0+60x300", **V2), series("lastgood_bad_answers_total", "0+1x60 60+30x120 3660+0x120", **V2)],
        "LastgoodAnswersBad", {"50m": ("ticket", False), "170m": ("ticket", True), "290m": ("ticket", False)},
    ),
    "a column that drifted": (
        [series("lastgood_drifted", "0x10 1x50 0x30", **V2, against="reference", column="feature.x")], "LastgoodDrift",
        {"9m": ("ticket", False), "55m": ("ticket", True), "80m": ("ticket", False)},
    ),
    "a version whose estimated recall fell for three days": (
        [series("lastgood_estimated_performance_fell_days", "2x40 3x60 0x40", **V2, metric="recall")], "LastgoodPerformanceFell",
        {"60m": ("ticket", False), "80m": ("ticket", True), "120m": ("ticket", False)},
    ),
    "a version of which nothing can be known for a week": (
        [series("lastgood_estimated_performance_unknown_days", "6x40 7x60 stale", **V2)], "LastgoodPerformanceUnknown",
        {"60m": ("ticket", False), "80m": ("ticket", True), "120m": ("ticket", False)},
    ),
    "no telemetry: nobody is judged": (
        [series("lastgood_newest_window_timestamp_seconds", "0x200", endpoint="chat")], "LastgoodBlind",
        {"100m": ("page", False), "150m": ("page", True)},
    ),
    "no service": ([series("up", "0x60", job="lastgood")], "LastgoodDown", {"2m": ("page", False), "20m": ("page", True)}),
    "the spool fills": (
        [series("lastgood_spool_bytes", "1000x10 2000000000x20 1000x20")], "LastgoodSpoolFilling",
        {"5m": ("page", False), "25m": ("page", True), "45m": ("page", False)},
    ),
    "the jobs have stopped": (
        [series("lastgood_job_run_timestamp_seconds", "0x200", job="windows")], "LastgoodJobsLate",
        {"100m": ("page", False), "140m": ("page", True)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_alert_fires_when_it_should_and_only_then(case: str, tmp_path: Path) -> None:
    given, alert, times = CASES[case]
    rules = tmp_path / "lastgood.rules.yml"
    rules.write_text(build(Settings()))
    tool("promtool", "check", "rules", str(rules))
    test: dict[str, Any] = {
        "rule_files": [rules.name],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": given,
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing",severity="{severity}"}}) > bool 0',
                        "eval_time": time,
                        "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                    }
                    for time, (severity, fires) in times.items()
                ],
            }
        ],
    }
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    tool("promtool", "test", "rules", str(tmp_path / "test.yml"))
