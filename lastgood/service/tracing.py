"""Lastgood's own spans, when asked (`traces_url`): the service's loops and the jobs, over OTLP/HTTP by opentelemetry-sdk."""

from collections.abc import Iterator
from contextlib import contextmanager

from lastgood import __version__
from lastgood.settings import Settings


@contextmanager
def tracing(settings: Settings, service: str) -> Iterator[None]:
    """While it lasts, spans go to `traces_url`; at its end what is left is sent. Without a URL nothing is set up."""
    if not settings.traces_url:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{settings.traces_url.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


@contextmanager
def spanned(name: str) -> Iterator[None]:
    """One piece of work as a span; an exception becomes its error."""
    from opentelemetry import trace

    with trace.get_tracer("lastgood").start_as_current_span(name):
        yield
