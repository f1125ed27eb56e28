"""prometheus-client metrics -> Prometheus's protobuf exposition, the one format in which Prometheus takes native histograms.

Fields and numbers: prometheus/client_model, io/prometheus/client/metrics.proto. Counts are weights, so histograms are those of floats.
"""

from collections.abc import Iterable
from io import BytesIO
from itertools import accumulate
from typing import Any

from google.protobuf import descriptor_pb2, message_factory, proto, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Exemplar, NativeHistogram, Sample

KIND = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
TYPES = {"counter": 0, "gauge": 1, "histogram": 4}
_MESSAGES = {
    "LabelPair": "name:string=1 value:string=2",
    "Gauge": "value:double=1",
    "Counter": "value:double=1",
    "Exemplar": "label:*LabelPair=1 value:double=2 timestamp:Timestamp=3",
    "Bucket": "cumulative_count:uint64=1 upper_bound:double=2 exemplar:Exemplar=3 cumulative_count_float:double=4",
    "BucketSpan": "offset:sint32=1 length:uint32=2",
    "Histogram": "sample_count:uint64=1 sample_sum:double=2 bucket:*Bucket=3 sample_count_float:double=4 schema:sint32=5 "
    "zero_threshold:double=6 zero_count_float:double=8 positive_span:*BucketSpan=12 positive_count:*double=14",
    "Metric": "label:*LabelPair=1 gauge:Gauge=2 counter:Counter=3 histogram:Histogram=7",
    "MetricFamily": "name:string=1 help:string=2 type:int32=3 metric:*Metric=4",
}


def _family() -> Any:
    """The class of MetricFamily. `type` is an enum over there, which is an int32 on the wire."""
    field = descriptor_pb2.FieldDescriptorProto
    package = "io.prometheus.client"
    file = descriptor_pb2.FileDescriptorProto(
        name="metrics.proto", package=package, dependency=["google/protobuf/timestamp.proto"]
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for entry in fields.split():
            key, _, rest = entry.partition(":")
            kind, _, number = rest.partition("=")
            label = field.LABEL_REPEATED if kind.startswith("*") else field.LABEL_OPTIONAL
            kind = kind.removeprefix("*")
            made = message.field.add(name=key, number=int(number), label=label)
            if kind[0].isupper():
                made.type = field.TYPE_MESSAGE
                made.type_name = f".{package if kind in _MESSAGES else 'google.protobuf'}.{kind}"
            else:
                made.type = field.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.MetricFamily"))


MetricFamily = _family()


def choose(accept: str) -> tuple[Any, str]:
    """(encoder, content type) of what the scraper likes best: protobuf where it names it first, else a text format."""
    first = accept.partition(",")[0]
    if "vnd.google.protobuf" in first and "io.prometheus.client.MetricFamily" in first:
        return generate_latest, KIND
    return choose_encoder(accept)


def generate_latest(registry: Any) -> bytes:
    """All of the registry's counters, gauges and histograms, each as a length and a MetricFamily."""
    out = BytesIO()
    for family in registry.collect():
        if family.samples:
            proto.serialize_length_prefixed(_encode(family), out)
    return out.getvalue()


def _encode(family: Metric) -> Any:
    name = family.name + ("_total" if family.type == "counter" else "")
    made = MetricFamily(name=name, help=family.documentation, type=TYPES[family.type])
    if family.type == "histogram":
        for samples in _histograms(family.samples):
            _histogram(made.metric.add(), samples)
    else:
        for sample in family.samples:
            metric = made.metric.add()
            _label(metric, sample.labels)
            getattr(metric, family.type).value = sample.value
    return made


def _label(of: Any, labels: dict[str, str]) -> None:
    for name in sorted(labels):
        of.label.add(name=name, value=labels[name])


def _histograms(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples of a family by their labels, `le` apart."""
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple((k, v) for k, v in sample.labels.items() if k != "le"), []).append(sample)
    return list(groups.values())


def _histogram(metric: Any, samples: Iterable[Sample]) -> None:
    made = metric.histogram
    for sample in samples:
        if sample.native_histogram:
            _native(made, sample.native_histogram)
        elif sample.name.endswith("_sum"):
            made.sample_sum = sample.value
        elif sample.name.endswith("_count"):
            _label(metric, sample.labels)
            made.sample_count, made.sample_count_float = round(sample.value), sample.value
        else:
            bucket = made.bucket.add(upper_bound=float(sample.labels["le"]))
            bucket.cumulative_count, bucket.cumulative_count_float = round(sample.value), sample.value
            if sample.exemplar:
                _exemplar(bucket.exemplar, sample.exemplar)


def _exemplar(made: Any, given: Exemplar) -> None:
    _label(made, given.labels)
    made.value = given.value
    if given.timestamp is not None:
        made.timestamp.FromNanoseconds(int(float(given.timestamp) * 1e9))


def _native(made: Any, given: NativeHistogram) -> None:
    made.schema, made.zero_threshold, made.zero_count_float = given.schema, given.zero_threshold, given.zero_count
    for span in given.pos_spans or ():
        made.positive_span.add(offset=span.offset, length=span.length)
    made.positive_count.extend(accumulate(given.pos_deltas or ()))
