"""For applications: put what Lastgood reads onto OpenTelemetry spans, in two lines or around a whole client call.

Needs only `opentelemetry-api`; where no SDK is set up, nothing happens.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode


def freshness(*, oldest: datetime | None = None, **tables: datetime) -> None:
    """On the current span: the age of the features used now, from the time they are of.

    `oldest` is the time of the oldest feature; or name each feature table: `freshness(orders=orders_time, users=users_time)` sets
    `feature.<table>.age_ms` and, from the oldest of them, `feature.age_ms`. Times with a zone. Errors: ValueError without one.
    """
    span, now, ages = trace.get_current_span(), datetime.now(UTC), {}
    for name, time in {**tables, **({"": oldest} if oldest else {})}.items():
        if time.tzinfo is None:
            raise ValueError(f"freshness: {name or 'oldest'} has no time zone")
        ages[name] = max(0.0, (now - time).total_seconds() * 1000)
        if name:
            span.set_attribute(f"feature.{name}.age_ms", ages[name])
    if ages:
        span.set_attribute("feature.age_ms", max(ages.values()))


@contextmanager
def request(endpoint: str, request_id: str, **attributes: str | int | float | bool) -> Iterator[Span]:
    """A client span around one call of a served model; an exception inside it becomes its error.

    Send `request_id` as `client_request_id` too, so that the inference table's row and the span become one record.
    """
    marks = {"gen_ai.operation.name": "chat", "lastgood.endpoint": endpoint, "lastgood.request_id": request_id}
    tracer = trace.get_tracer("lastgood.record.instrument")
    with tracer.start_as_current_span(
        f"chat {endpoint}", kind=SpanKind.CLIENT, attributes={**marks, **attributes}
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            raise


def answer(response: Any, *, model_version: str | None = None, span: Span | None = None) -> None:
    """On the current span (or `span`): tokens, finish reason, version and error of an OpenAI-compatible or Databricks response.

    `response` is the client library's object (`model_dump` or `as_dict`) or the decoded JSON.
    """
    document = _plain(response)
    span = span or trace.get_current_span()
    usage, choices = document.get("usage") or {}, document.get("choices") or [{}]
    attributes = {
        "gen_ai.response.id": document.get("id") or document.get("request_id"),
        "gen_ai.response.model": document.get("model"),
        "model_version": model_version or document.get("model_version"),
        "gen_ai.usage.input_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "gen_ai.usage.output_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
        "error.type": document.get("error_code"),
    }
    for name, value in attributes.items():
        if value is not None:
            span.set_attribute(name, value)
    reason = _plain(choices[0]).get("finish_reason") or document.get("finish_reason")
    if reason:
        span.set_attribute("gen_ai.response.finish_reasons", [str(reason)])
    if document.get("error_code"):
        span.set_status(StatusCode.ERROR)


def _plain(response: Any) -> Mapping[str, Any]:
    for method in ("model_dump", "as_dict"):
        if hasattr(response, method):
            document: Mapping[str, Any] = getattr(response, method)()
            return document
    if isinstance(response, Mapping):
        return response
    raise TypeError(f"expected a response object or a mapping, found {type(response).__name__}")
