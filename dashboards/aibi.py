"""The Delta tables -> a Databricks AI/BI dashboard definition (`.lvdash.json`), for teams without Grafana.

Queries are Spark SQL over the tables of one catalog.schema, by hour, of the last 14 days. A test runs every one of them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lastgood.record.windows import GROWTH, ZERO
from lastgood.tables import quoted

SINCE = "current_timestamp() - INTERVAL 14 DAYS"
HOURS = "endpoint, model_version, date_trunc('HOUR', window_start) AS hour"


@dataclass(frozen=True)
class Chart:
    """One query and how it is drawn: `x` and `y` columns (a line each for `colour`), or, without `x`, a table of `y`."""

    name: str
    title: str
    query: str
    y: Sequence[str]
    x: str | None = None
    colour: str = "version"
    width: int = 3


def _quantile(q: float) -> str:
    """SQL: a quantile per endpoint, version and hour from the latency histograms (`windows.bucket`)."""
    value = f"IF(bucket = {ZERO}, 0, exp((bucket + 0.5) * {math.log(GROWTH)!r}))"
    return f"""WITH counted AS (
  SELECT {HOURS}, bucket, sum(requests_in_it) AS n FROM {{windows}} LATERAL VIEW explode(latency) AS bucket, requests_in_it
  WHERE window_start >= {SINCE} GROUP BY ALL),
upto AS (
  SELECT *, sum(n) OVER (PARTITION BY endpoint, model_version, hour ORDER BY bucket) AS below,
         sum(n) OVER (PARTITION BY endpoint, model_version, hour) AS total FROM counted)
SELECT concat(endpoint, ' ', model_version) AS version, hour, min(IF(below >= {q} * total, {value}, NULL)) AS ms
FROM upto GROUP BY endpoint, model_version, hour"""


def _hourly(figure: str, table: str = "windows") -> str:
    return f"""SELECT concat(endpoint, ' ', model_version) AS version, hour, {figure} AS value FROM (
  SELECT {HOURS}, * EXCEPT (endpoint, model_version) FROM {{{table}}} WHERE window_start >= {SINCE})
GROUP BY endpoint, model_version, hour"""


FAILED = "sum(aggregate(map_values(errors), 0D, (a, n) -> a + n))"
CHARTS = (
    Chart("verdicts", "Newest verdicts", """SELECT endpoint, candidate, prior, state, reason, judged_at FROM (
  SELECT *, row_number() OVER (PARTITION BY endpoint ORDER BY judged_at DESC) AS newest FROM {verdicts}) WHERE newest = 1""",
          ("endpoint", "candidate", "prior", "state", "reason", "judged_at"), width=6),
    Chart("p95", "Latency p95, ms", _quantile(0.95), ("ms",), "hour"),
    Chart("p50", "Latency p50, ms", _quantile(0.5), ("ms",), "hour"),
    Chart("errors", "Error rate", _hourly(f"try_divide({FAILED}, sum(requests))"), ("value",), "hour"),
    Chart("requests", "Requests an hour", _hourly("sum(requests)"), ("value",), "hour"),
    Chart("tokens", "Tokens an hour", _hourly("sum(coalesce(tokens_in, 0) + coalesce(tokens_out, 0))"), ("value",), "hour"),
    Chart("answers", "Bad answers, share", _hourly("try_divide(sum(quality['bad']), sum(quality['answers']))", "quality"), ("value",), "hour"),
    Chart("drift", "Columns that drifted", f"""SELECT endpoint, model_version, against, `column`, distance, low, computed_at FROM (
  SELECT *, row_number() OVER (PARTITION BY endpoint, model_version, against, `column` ORDER BY computed_at DESC) AS newest
  FROM {{drift}} WHERE computed_at >= {SINCE}) WHERE newest = 1 AND drifted""",
          ("endpoint", "model_version", "against", "column", "distance", "low", "computed_at"), width=6),
    Chart("freshness", "Sources of features", """SELECT endpoint, kind, name, as_of, state, checked_at FROM (
  SELECT *, row_number() OVER (PARTITION BY endpoint, kind, name ORDER BY checked_at DESC) AS newest FROM {freshness}) WHERE newest = 1""",
          ("endpoint", "kind", "name", "as_of", "state", "checked_at"), width=6),
)  # fmt: skip


def sql(chart: Chart, where: str) -> str:
    """The chart's query over the tables of `where` (catalog.schema)."""
    names = ("windows", "quality", "drift", "verdicts", "freshness")
    return chart.query.format(**{name: quoted(f"{where}.{name}") for name in names})


def _widget(chart: Chart) -> Mapping[str, Any]:
    columns = (*((chart.x, chart.colour) if chart.x else ()), *chart.y)
    fields = [{"name": name, "expression": f"`{name}`"} for name in columns]
    spec: dict[str, Any] = {"frame": {"showTitle": True, "title": chart.title}}
    if chart.x:
        axes = {"x": (chart.x, "temporal"), "y": (chart.y[0], "quantitative"), "color": (chart.colour, "categorical")}
        drawn = {
            axis: {"fieldName": name, "scale": {"type": kind}, "displayName": name}
            for axis, (name, kind) in axes.items()
        }
        spec |= {"version": 3, "widgetType": "line", "encodings": drawn}
    else:
        spec |= {
            "version": 1,
            "widgetType": "table",
            "encodings": {"columns": [{"fieldName": name, "displayName": name} for name in chart.y]},
        }
    query = {"name": "main_query", "query": {"datasetName": chart.name, "fields": fields, "disaggregated": True}}
    return {"name": chart.name, "queries": [query], "spec": spec}


def build(where: str) -> str:
    """The dashboard of the tables in `where` (catalog.schema)."""
    layout, x, y = [], 0, 0
    for chart in CHARTS:
        if x + chart.width > 6:
            x, y = 0, y + 6
        layout.append({"widget": _widget(chart), "position": {"x": x, "y": y, "width": chart.width, "height": 6}})
        x += chart.width
    datasets = [
        {
            "name": chart.name,
            "displayName": chart.title,
            "queryLines": [f"{line}\n" for line in sql(chart, where).splitlines()],
        }
        for chart in CHARTS
    ]
    page = {"name": "lastgood", "displayName": "Lastgood", "layout": layout, "pageType": "PAGE_TYPE_CANVAS"}
    return json.dumps({"datasets": datasets, "pages": [page]}, indent=1) + "\n"
