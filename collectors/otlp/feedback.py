"""`POST /v1/feedback`: labels and feedback about requests, as JSON -> rows of `scores` (pure).

A report names the request, what is said of it and the value: a number, true / false, or a label. Reports about the same request,
name and source replace each other by time (the last one holds); all of them stay in the table.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lastgood.collectors.otlp.capture import attribute
from lastgood.collectors.otlp.rows import Decoded
from lastgood.record.redact import Redactor

REMOVED = "removed"
"""Label of a report whose own is not kept."""


class Report(BaseModel):
    """One label or opinion. `at`: when it was given (default: when it arrived)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: str = Field(min_length=1, max_length=512)
    endpoint: str | None = Field(None, max_length=512)
    name: str = Field("feedback", min_length=1, max_length=200)
    value: float | bool | None = Field(None, allow_inf_nan=False)
    label: str | None = Field(None, max_length=1000)
    explanation: str | None = Field(None, max_length=20_000)
    source: str = Field("feedback", min_length=1, max_length=200)
    at: AwareDatetime | None = Field(None, strict=False)


_REPORTS = TypeAdapter(list[Report])


def parse(body: bytes) -> list[Report]:
    """One report or a list of them. Errors: ValueError, naming the report and the field."""
    document = orjson.loads(body)
    try:
        reports = _REPORTS.validate_python(document if isinstance(document, list) else [document])
    except ValidationError as error:
        first: Mapping[str, Any] = error.errors()[0]
        raise ValueError(f"report {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    for i, report in enumerate(reports):
        if report.value is None and report.label is None:
            raise ValueError(f"report {i}: expected a value or a label")
    return reports


def redacted(reports: list[Report], rule: Callable[[str | None], Redactor]) -> bytes:
    """Reports without what their endpoint's capture setting hides: explanations, and labels that are no word."""
    kept = []
    for report in reports:
        own = rule(report.endpoint)
        if own.active:
            label = report.label and (attribute("label.", report.label, own) or REMOVED)
            report = report.model_copy(update={"label": label, "explanation": own.text(report.explanation)})
        kept.append(report.model_dump(mode="json"))
    return orjson.dumps(kept)


def decode(body: bytes, received_at: datetime) -> Decoded:
    """Accepted reports -> scores."""
    rows = []
    for report in parse(body):
        row = report.model_dump() | {
            "received_at": received_at,
            "at": report.at.astimezone(UTC) if report.at else received_at,
        }
        rows.append(row | {"value": None if report.value is None else float(report.value), "trace_id": None})
    return Decoded(scores=rows)
