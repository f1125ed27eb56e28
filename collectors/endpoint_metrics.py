"""An endpoint's own /metrics (gauges of the last minute) -> rows of `endpoint_minutes`: a third opinion on counts and errors.

Names: Databricks' metrics export API (`request_count_total`, `request_4xx_count_total`, `request_5xx_count_total`,
`provisioned_concurrent_requests_total`).
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from prometheus_client.parser import text_string_to_metric_families

from lastgood import tables
from lastgood.errors import CorruptError, LastgoodError
from lastgood.record import telemetry
from lastgood.workspace import Platform

GAUGES = {
    "request_count_total": "requests",
    "request_4xx_count_total": "errors_4xx",
    "request_5xx_count_total": "errors_5xx",
    "provisioned_concurrent_requests_total": "provisioned",
}


def row(endpoint: str, text: str, now: datetime) -> dict[str, Any] | None:
    """One minute of an endpoint, summed over its labels; None when the text has no count of requests.

    The minute is the last whole one before the sample's time, or before `now` where the sample has none. Errors: CorruptError.
    """
    totals: dict[str, float] = {}
    at = now
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if (name := GAUGES.get(sample.name)) and 0 <= sample.value < 1e12:
                    totals[name] = totals.get(name, 0.0) + sample.value
                    if sample.timestamp:
                        at = datetime.fromtimestamp(float(sample.timestamp), UTC)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, OSError) as error:
        raise CorruptError(f"metrics of {endpoint}: not Prometheus' text format: {error}") from error
    if "requests" not in totals:
        return None
    minute = at.replace(second=0, microsecond=0) - timedelta(minutes=1)
    return {"endpoint": endpoint, "minute": minute, "scraped_at": now, "errors_4xx": 0.0, "errors_5xx": 0.0} | totals


def scrape(
    platform: Platform, endpoints: Iterable[str], store: tables.Store, now: datetime
) -> tuple[list[dict[str, Any]], list[str]]:
    """Ask every endpoint and append what they say: (rows of endpoint_minutes, what could not be had in sentences)."""
    rows, problems = [], []
    for name in endpoints:
        try:
            minute = row(name, platform.metrics(name), now)
        except LastgoodError as error:
            problems.append(str(error))
            continue
        rows += [minute] if minute else []
    if rows:
        schema = telemetry.arrow_schema(tables.ENDPOINT_MINUTES.fields)
        store.home(tables.ENDPOINT_MINUTES).append(pa.Table.from_pylist(rows, schema))
    return rows, problems
