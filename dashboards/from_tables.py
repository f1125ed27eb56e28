"""The charts of the AI/BI dashboard as a Grafana board that asks the tables themselves, for teams that let no Prometheus reach the service.

Data source: Grafana's `grafana-databricks-datasource` (a SQL warehouse answers). Shapes: Grafana's dashboard JSON; of a query `rawSql` and `format`
(0: time series, 1: table), as Grafana's SQL data sources share them.
"""

import json
from typing import Any

from lastgood.dashboards.aibi import CHARTS, Chart, sql

KIND = "grafana-databricks-datasource"
SOURCE = {"type": KIND, "uid": "${datasource}"}
REFRESH = "30m"
"""A warehouse that is asked wakes up: as seldom as somebody looks."""


def query(chart: Chart, where: str) -> str:
    """The chart's query as a time series: its time as `time`, its line as `metric`."""
    plain = sql(chart, where)
    if not chart.x:
        return plain
    return f"SELECT {chart.x} AS time, {chart.colour} AS metric, {chart.y[0]} AS value FROM (\n{plain}\n) ORDER BY time"


def _panel(number: int, chart: Chart, where: str, x: int, y: int) -> dict[str, Any]:
    target = {"refId": "A", "datasource": SOURCE, "format": 0 if chart.x else 1, "rawSql": query(chart, where)}
    return {
        "id": number, "title": chart.title, "type": "timeseries" if chart.x else "table", "datasource": SOURCE, "targets": [target],
        "gridPos": {"x": 4 * x, "y": y, "w": 4 * chart.width, "h": 8},
    }  # fmt: skip


def build(where: str) -> str:
    """The board of the tables in `where` (catalog.schema)."""
    panels, x, y = [], 0, 0
    for number, chart in enumerate(CHARTS, 1):
        if x + chart.width > 6:
            x, y = 0, y + 8
        panels.append(_panel(number, chart, where, x, y))
        x += chart.width
    variable = {"name": "datasource", "label": "Data source", "type": "datasource", "query": KIND}
    board = {
        "uid": "lastgood-tables", "title": "Lastgood from its tables", "tags": ["lastgood"], "schemaVersion": 39, "editable": False,
        "time": {"from": "now-14d", "to": "now"}, "refresh": REFRESH, "templating": {"list": [variable]}, "panels": panels,
    }  # fmt: skip
    return json.dumps(board, indent=1) + "\n"
