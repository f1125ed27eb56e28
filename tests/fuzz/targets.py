"""One entry for each parser: what is done with the bytes, which errors are its documented answer, and inputs to start from."""

import gzip
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from otlp_support import AT, batch, pairs, value
from starlette.exceptions import HTTPException

from fuzz import served
from lastgood.alerts.calendar import Calendar
from lastgood.alerts.notify import pagerduty_hook
from lastgood.alerts.notify.alertmanager import reported
from lastgood.alerts.rollback import git
from lastgood.alerts.rollback.links import Action, Claims, Signer
from lastgood.alerts.web import guard
from lastgood.collectors import bodies, files, inference_tables, log_tables, span_tables
from lastgood.collectors.findings import Findings, UnfitError
from lastgood.collectors.otlp import drain, feedback, rows, signals, spool
from lastgood.collectors.otlp.capture import Rules, redact
from lastgood.collectors.otlp.columns import TraceDecoder
from lastgood.collectors.otlp.signals import SIGNALS
from lastgood.dashboards.protobuf import choose
from lastgood.errors import ConfigError, CorruptError, RefusedError
from lastgood.record import contents, fault, vocabulary
from lastgood.record.redact import Redactor
from lastgood.service.assistant import TOOLS
from lastgood.settings import Capture, load
from lastgood.settings.prices import prices
from lastgood.tables import names

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROOT = Path(__file__).parents[2]
KEY = "a-signing-key-for-fuzzing-only"
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None


@dataclass(frozen=True)
class Target:
    """`run` takes any bytes; `errors` are what it may raise; `seeds` make a first corpus."""

    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode()


@contextmanager
def _file(data: bytes, name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        yield path


# OTLP


@cache
def _decoder() -> TraceDecoder:
    return TraceDecoder()


def _received(signal: signals.Signal, message: Any) -> None:
    """As the receiver takes it and the drain reads it: what was acknowledged must be decoded, whatever it is."""
    hidden = signal.request.FromString(message.SerializeToString())
    redact(hidden, Rules(lambda name: Redactor(Capture.REDACTED), list(vocabulary.ENDPOINT_ATTRIBUTES)))
    for each in (message, hidden):
        taken, left = signal.count(each, NOW)
        signal.answer(taken, left).SerializeToString()
        if taken:
            record = spool.Record(signal.kind, int(NOW.timestamp() * 1e6), each.SerializeToString())
            drain.decode([record, record], _decoder())


def _protobuf(number: int) -> Callable[[bytes], object]:
    return lambda data: _received(SIGNALS[number], SIGNALS[number].request.FromString(data))


def _json(data: bytes) -> None:
    signal = SIGNALS[data[0] % len(SIGNALS)] if data else SIGNALS[0]
    _received(signal, rows.parse_json(data[1:], signal.request()))


def _feedback(data: bytes) -> None:
    reports = feedback.parse(data)
    feedback.decode(data, NOW)
    feedback.decode(feedback.redacted(reports, lambda name: Redactor(Capture.REDACTED)), NOW)


def _unpack(data: bytes) -> None:
    encodings = ("", "gzip", "deflate", "zstd", "br")
    signals.unpack(data[1:], encodings[data[0] % len(encodings)] if data else "", 100_000)


def _spool(data: bytes) -> None:
    with _file(data, "0000000001.seg") as path:
        drain.decode([record for record in spool.read(path) if record.kind == 99], _decoder())


# tables and files


def _bodies(data: bytes) -> None:
    request, _, response = _text(data).partition("\x1e")
    bodies.columns([request, None], [response, response])
    told = {
        "mlflow.spanInputs": request,
        "gen_ai.input.messages": response,
        "gen_ai.tool.definitions": request,
        "llm.invocation_parameters": response,
    }
    for parts in (contents.of_body(request), contents.of_span(told)):
        contents.attributes(parts, set())


def _inference(data: bytes) -> None:
    kinds = ("canonical", *inference_tables.BY_NAME)
    kind, cells = kinds[data[0] % len(kinds)] if data else kinds[0], _text(data[1:]).split("\x1e")
    columns = inference_tables.needed(kind)
    row = {name: cells[i % len(cells)] for i, name in enumerate(columns)}
    part = pa.RecordBatch.from_pylist(
        [row, dict.fromkeys(columns)], pa.schema([(name, pa.string()) for name in columns])
    )
    inference_tables.shaped(part, inference_tables.Shape(kind, alone=bool(cells[0])), NOW)


def _check(name: str) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with _file(data, name) as path:
            source = files.opened(str(path), path.parent)
            kind, findings = inference_tables.detect(source.columns), Findings()
            wanted = inference_tables.needed(kind)
            for piece in source.pieces(wanted, 1, findings):
                for part in source.read(piece, wanted, findings):
                    inference_tables.shaped(part, inference_tables.Shape(kind, alone=True), NOW, findings)

    return run


def _logs(data: bytes) -> None:
    cells = [*_text(data).split("\x1e"), *[""] * 8]
    row = dict(
        zip(
            ("event_name", "trace_id", "span_id", "attributes", "body", "resource", "service_name"), cells, strict=False
        )
    )
    logged = row | {"time_unix_nano": len(data), "observed_time_unix_nano": None}
    for _ in log_tables._logs(iter([pa.RecordBatch.from_pylist([logged])]), (), vocabulary.ENDPOINT_ATTRIBUTES):
        pass
    told = dict(
        zip(
            ("annotation_type", "target_type", "target_id", "name", "value", "comment"),
            ["FEEDBACK", "TRACE", "tr-" + "a" * 32, *cells],
            strict=False,
        )
    )
    for _ in log_tables._annotations(iter([pa.RecordBatch.from_pylist([told | {"deleted_at": None, "at": NOW}])])):
        pass


def _spans(data: bytes) -> None:
    cells = [*_text(data).split("\x1e"), *[""] * 8]
    row = dict(
        zip(
            ("name", "trace_id", "span_id", "parent_span_id", "attributes", "resource", "service_name", "message"),
            cells,
            strict=False,
        )
    )
    row |= {
        "kind": "SPAN_KIND_CLIENT",
        "code": "STATUS_CODE_ERROR",
        "start_time_unix_nano": AT,
        "end_time_unix_nano": AT + len(data),
        "events": None,
    }
    for _ in span_tables._decode(iter([pa.RecordBatch.from_pylist([row])]), (), vocabulary.ENDPOINT_ATTRIBUTES):
        pass


# people's files


def _settings(data: bytes) -> None:
    with _file(data, "lastgood.yaml") as path:
        load(path)


def _prices(data: bytes) -> None:
    with _file(data, "prices.yaml") as path:
        prices(path)


def _calendar(data: bytes) -> None:
    with _file(data, "calendar.ics") as path:
        Calendar(path)(NOW)


def _declared(data: bytes) -> None:
    kind, text = data[:1], _text(data[1:])
    shares = git.declared(text, "main.tf" if kind == b"t" else "databricks.yml", "chat")
    assert all(
        text[share.start : share.end] == str(share.percent) or text[share.start : share.end].isdigit()
        for share in shares
    )


# the web


def _hook(data: bytes) -> None:
    header, _, body = data.partition(b"\x1e")
    pagerduty_hook.signed(body, header.decode("latin-1"), KEY)
    pagerduty_hook.done(guard.parsed(body))
    reported(guard.parsed(body))


def _link(data: bytes) -> None:
    signer, text = Signer([KEY]), data.decode("latin-1")
    token, _, rest = text.partition("\x1e")
    value_, _, cookie = rest.partition("\x1e")
    for step in (lambda: signer.verify(token, NOW), lambda: signer.verify_form(value_, token, "approve", cookie)):
        try:
            step()
        except RefusedError:
            continue


def _payload(data: bytes) -> None:
    """What a link of ours says, whatever that is: a key that is known must not make the pages fail."""
    signer = Signer([KEY])
    try:
        token = signer._serializer("link").dumps(json.loads(data))
    except (ValueError, RecursionError):
        return
    signer.verify(token, NOW)


def _words(data: bytes) -> None:
    text = _text(data)
    choose(text)
    names.quoted(text)
    vocabulary.finish_reason(text)
    vocabulary.stated_code(text)
    fault.fault(vocabulary.failure_code(text[:40], text))
    Redactor(Capture.REDACTED).text(text)
    Redactor(Capture.FEATURES).feature(text)


SECRET = "ask ann@example.com, card 4111 1111 1111 1111, +44 20 7946 0958, key sk-abcdefghijklmnopqrstuvwx"
CHAT = {
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    "max_tokens": 5,
    "temperature": 0.1,
}
ANSWER = {
    "id": "c1", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes",
    "tool_calls": [{"id": "t", "function": {"name": "f", "arguments": "{}"}}]}}], "usage": {"prompt_tokens": 3, "completion_tokens": 4},
}  # fmt: skip
EVENTS = (
    "".join(f"data: {json.dumps({'choices': [{'delta': {'content': word}}]})}\n\n" for word in ("a", "b"))
    + "data: [DONE]\n\n"
)
MARKS = {
    "gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 3, "gen_ai.response.finish_reasons": ["stop"], "lastgood.endpoint": "chat",
    "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": SECRET}]}]), "gen_ai.request.temperature": 0.2,
    "gen_ai.prompt.0.content": SECRET, "nested": {"a": [1, "b", {"c": 1.5}]}, "error.type": "TimeoutError", "model_version": "3",
}  # fmt: skip
CANONICAL = [
    {
        "endpoint": "chat", "model_version": "2", "requested_at": "2026-03-01T12:00:00Z", "latency_ms": 5.5, "error_code": None,
        "input": 'a,"b"\nc', "request_id": f"r{i}",
    }
    for i in range(3)
]  # fmt: skip
ALIASES = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (i, i, i - 1, i - 1) for i in range(98, 123))
SETTINGS = b"""storage: data
endpoints:
  chat:
    mode: approve
    policy: {min_windows: 2, max_evidence_age_s: 600}
receiver: {grpc_port: 0, senders: {app: APP_TOKEN}}
"""
BUNDLE = b"""resources:
  model_serving_endpoints:
    chat:
      name: chat
      config:
        traffic_config:
          routes:
            - served_entity_name: chat-1
              traffic_percentage: 100
"""
TERRAFORM = b"""resource "databricks_model_serving" "chat" {
  name = "chat" # a comment
  config { traffic_config { routes {
    served_entity_name = "chat-1"
    traffic_percentage = 100
  } } } /* more */
}
"""
ICS = b"""BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1\r\nDTSTAMP:20260301T000000Z\r\nDTSTART:20260301T110000Z\r
DTEND:20260301T130000Z\r\nRRULE:FREQ=WEEKLY;COUNT=3\r\nSUMMARY:freeze chat\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"""
EVENT = {
    "event": {
        "id": "1",
        "event_type": "incident.acknowledged",
        "agent": {"summary": "Ann"},
        "data": {"incident_key": "abc-1", "content": "x"},
    }
}
GROUP = {
    "version": "4",
    "status": "firing",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "x", "endpoint": "chat"},
            "startsAt": "2026-03-01T12:00:00Z",
            "annotations": {"summary": "s"},
        }
    ],
}


def _traces() -> Any:
    request = batch("a", "b")
    for each in request.resource_spans[0].scope_spans[0].spans:
        each.attributes.extend(pairs(MARKS))
        each.events.add(name="exception", time_unix_nano=AT).attributes.extend(
            pairs({"exception.type": "ValueError", "exception.message": "status 503"})
        )
        each.links.add(trace_id=b"\x02" * 16, span_id=b"\x03" * 8)
        each.status.code, each.status.message = 2, "deadline exceeded"
    request.resource_spans[0].resource.attributes.extend(pairs({"service.name": "app", "k8s.pod.name": "p"}))
    return request


def _scores() -> tuple[Any, Any]:
    marks = {
        "gen_ai.evaluation.name": "relevance",
        "gen_ai.evaluation.score.value": 0.5,
        "gen_ai.evaluation.score.label": "good",
        "lastgood.request_id": "r",
    }
    record = LogRecord(
        event_name="gen_ai.evaluation.result", time_unix_nano=AT, attributes=pairs(marks), trace_id=b"\x01" * 16
    )
    details = LogRecord(
        event_name="gen_ai.client.inference.operation.details",
        time_unix_nano=AT,
        attributes=pairs(MARKS),
        body=value({"a": [1]}),
    )
    logs = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=[record, details])])])
    points = Gauge(data_points=[NumberDataPoint(time_unix_nano=AT, as_double=0.5, attributes=pairs(marks))])
    metric = Metric(name="gen_ai.evaluation.score", gauge=points)
    return logs, ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(scope_metrics=[ScopeMetrics(metrics=[metric])])]
    )


def _hexed(message: Any) -> bytes:
    """OTLP's JSON, in which ids are hexadecimal."""
    text = MessageToJson(message, indent=None)
    return re.sub(
        r'"(traceId|spanId)": ?"[^"]*"',
        lambda match: f'"{match[1]}":"{"0a" * (16 if match[1] == "traceId" else 8)}"',
        text,
    ).encode()


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(CANONICAL), sink, compression="none")
    return sink.getvalue().to_pybytes()


def _csv() -> bytes:
    lines = [
        ",".join(CANONICAL[0]),
        *(",".join('"' + str(cell or "").replace('"', '""') + '"' for cell in row.values()) for row in CANONICAL),
    ]
    return "\n".join(lines).encode()


def _requests() -> list[str]:
    session = "Cookie: lastgood_session=eyJwZXJzb24iOiJhIn0=.aaaa.bbbb; lastgood_form=c"
    form = "Content-Type: application/x-www-form-urlencoded\nOrigin: http://127.0.0.1:8484"
    hook = json.dumps(GROUP)
    return [
        f"GET /\n{session}\nAccept: text/html\n\n",
        f"GET {served.link()}\n{session}\n\n",
        f"POST {served.link()}\n{session}\n{form}\n\naction=approve&form=x&person_token=t",
        f"GET /fleet?sort=-name&q=chat&page=2\n{session}\n\n",
        "GET /api/incidents?endpoint=chat&limit=5\nAuthorization: Bearer x\n\n",
        f"POST /hooks/alertmanager\nContent-Type: application/json\nAuthorization: Bearer x\n\n{hook}",
        f"POST /hooks/pagerduty\nContent-Type: application/json\nX-PagerDuty-Signature: v1=00\n\n{json.dumps(EVENT)}",
        f"POST /kill\n{session}\n{form}\n\naction=on&why=x&form=y",
        "GET /drift/chat/3\n\n",
        "GET /login?next=/fleet\n\n",
    ]


def _made() -> Mapping[str, Target]:
    traces, (logs, metrics) = _traces(), _scores()
    lines = "\n".join(map(json.dumps, CANONICAL)).encode()
    claims = Claims("chat", "i", Action.DECIDE, "p", 7, "n", NOW + timedelta(hours=1))
    signer = Signer([KEY])
    token = signer.sign(claims)
    report = json.dumps(
        [{"request_id": "r", "name": "thumbs", "value": True, "at": "2026-03-01T12:00:00+01:00", "label": SECRET}]
    ).encode()
    plain = b"plain" * 9
    chat, usage = json.dumps(CHAT), json.dumps(ANSWER)
    split = (
        json.dumps({"dataframe_split": {"columns": ["a"], "data": [[1], ["x"]]}}),
        json.dumps({"predictions": [1, 2]}),
    )
    scored = json.dumps({"gen_ai.evaluation.name": "n", "gen_ai.evaluation.score.value": 1})
    judged = json.dumps({"assessment_name": "n", "feedback.value": "yes"})
    flat = json.dumps({name: mark for name, mark in MARKS.items() if name != "nested"})
    logged = ("200", "5.5", "1772366400000", '{"endpoint_name": "chat", "model_version": "1"}', "r1")
    written = ("chat", "1", "2026-03-01T12:00:00Z", "5", '{"a": "1"}', "HTTP 503", "r")
    identity = ("a" * 32, "b" * 16)
    price = b"as_of: 2026-11-24\ndbu: 0.07\ncpu: { per_hour: 1.0, concurrency: 1 }\ngpu:\n  small: { per_hour: 10.48, concurrency: 4 }\n"
    words = (
        SECRET,
        "application/openmetrics-text;q=0.9,*/*",
        "HTTP 503 Service Unavailable",
        "a.`b`.c",
        "finish_reason_stop",
    )

    def joined(*parts: str, kind: bytes = b"") -> bytes:
        return kind + "\x1e".join(parts).encode()

    hexed = tuple(bytes([i]) + _hexed(each) for i, each in enumerate((traces, logs, metrics)))
    kinds = tuple(joined(*cells, kind=bytes([i])) for i in range(6) for cells in ((chat, usage, *logged), written))
    packed = (b"\x00" + plain, b"\x01" + gzip.compress(plain), b"\x03" + pa.compress(plain, codec="zstd", asbytes=True))
    return {
        "otlp_traces": Target(
            _protobuf(0), (DecodeError,), (traces.SerializeToString(), batch("x", good=False).SerializeToString())
        ),
        "otlp_logs": Target(_protobuf(1), (DecodeError,), (logs.SerializeToString(),)),
        "otlp_metrics": Target(_protobuf(2), (DecodeError,), (metrics.SerializeToString(),)),
        "otlp_json": Target(_json, (ValueError, DecodeError), hexed),
        "feedback": Target(_feedback, (ValueError,), (report, report[1:-1])),
        "content_encoding": Target(_unpack, (ValueError, OverflowError), packed),
        "spool": Target(_spool, (CorruptError,), (spool.pack(spool.Record(0, 1, b"abc")) * 2,)),
        "bodies": Target(_bodies, (), (joined(chat, usage), joined(*split), joined("{}", EVENTS))),
        "inference_tables": Target(_inference, (), kinds),
        "check_csv": Target(
            _check("t.csv"),
            (ConfigError, UnfitError),
            (_csv(), _csv().replace(b",", b";"), lines, json.dumps(CANONICAL).encode()),
        ),
        "check_parquet": Target(_check("t.parquet"), (ConfigError, UnfitError), (_parquet(),)),
        "log_tables": Target(
            _logs,
            (),
            (
                joined("gen_ai.evaluation.result", *identity, scored, "{}", "{}", "app"),
                joined("mlflow.assessment", *identity, judged, '{"feedback": {"value": 1}}', "{}", ""),
            ),
        ),
        "span_tables": Target(_spans, (), (joined("chat", *identity, "", flat, "{}", "app", "failed"),)),
        "settings": Target(_settings, (ConfigError,), (SETTINGS, ALIASES, b"storage: &a [*a]\n", b"[" * 500)),
        "prices": Target(_prices, (ConfigError,), (price,)),
        "calendar": Target(_calendar, (ConfigError,), (ICS,)),
        "source_files": Target(_declared, (RefusedError,), (b"y" + BUNDLE, b"t" + TERRAFORM)),
        "webhooks": Target(
            _hook,
            (HTTPException, ConfigError),
            (b"v1=00\x1e" + json.dumps(EVENT).encode(), b"\x1e" + json.dumps(GROUP).encode()),
        ),
        "links": Target(_link, (), (joined(token, signer.sign_form(token, "approve", "c"), "c"),)),
        "link_payloads": Target(
            _payload, (RefusedError,), (json.dumps({**claims.__dict__, "expires_at": 1772370000}).encode(),)
        ),
        "pages": Target(served.page, (), tuple(each.encode() for each in _requests())),
        "assistant": Target(
            served.tool,
            (),
            tuple(
                json.dumps({"name": name, "arguments": {"endpoint": "chat", "hours": 6.5, "incident": "x"}}).encode()
                for name in TOOLS
            ),
        ),
        "words": Target(_words, (), tuple(word.encode() for word in words)),
    }


os.environ.setdefault("APP_TOKEN", "x")
TARGETS = _made()
