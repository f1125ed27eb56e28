"""An OTLP receiver in a thread, exports for it, and what it has stored."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from waiting import HANG_S, until

from lastgood.collectors.otlp.receiver import OtlpReceiver
from lastgood.settings import Receiver
from lastgood.tables import delta

AT = int(datetime.now(UTC).timestamp()) * 10**9


def value(given: Any) -> AnyValue:
    """A Python value as OTLP has it."""
    if isinstance(given, list):
        return AnyValue(array_value=ArrayValue(values=[value(each) for each in given]))
    if isinstance(given, dict):
        return AnyValue(kvlist_value=KeyValueList(values=pairs(given)))
    kinds = {bool: "bool_value", int: "int_value", float: "double_value", str: "string_value"}
    return AnyValue(**{kinds[type(given)]: given})


def pairs(given: dict[str, Any]) -> list[KeyValue]:
    """Attributes as OTLP has them."""
    return [KeyValue(key=key, value=value(each)) for key, each in given.items()]


def batch(*ids: str, good: bool = True) -> ExportTraceServiceRequest:
    spans = [
        Span(
            trace_id=b"\x01" * 16, span_id=i.to_bytes(8, "big"), kind=Span.SPAN_KIND_CLIENT, start_time_unix_nano=AT,
            end_time_unix_nano=AT + (1000 if good else -1000),
            attributes=pairs({"lastgood.request_id": name, "lastgood.endpoint": "chat"}),
        )
        for i, name in enumerate(ids, 1)
    ]  # fmt: skip
    return ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])


@contextmanager
def receiving(path: Path, **settings: object) -> Iterator[OtlpReceiver]:
    """A receiver in a thread, its event loop its own; leaving drains it."""
    options = {"grpc_port": 0, "http_port": 0, "commit_interval_s": 0.05, "spool": path / "spool"} | settings
    more = {name: options.pop(name) for name in ("sink", "redaction", "clock") if name in options}
    receiver, up = OtlpReceiver(str(path / "inbox"), Receiver(**options), **more), threading.Event()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        done, loop = asyncio.Event(), asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(done.set))
        async with receiver.running():
            up.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert up.wait(HANG_S)
    try:
        yield receiver
    finally:
        stop[0]()
        thread.join(HANG_S)
        assert not thread.is_alive()


def inbox(path: Path, receiver: OtlpReceiver | None = None) -> list[dict[str, object]]:
    """The inbox, once all that was acknowledged is there."""
    if receiver:
        until(lambda: not receiver.spool_bytes, "all of the spool in Delta", 0.02)
    return delta.read(path / "inbox").to_pylist()
