"""Requests in the record's columns -> what is counted of them, with the key of their window (pure), without Spark.

`jobs/windows.py` does the same with column expressions, so that no body goes to a Python worker for the sake of its length.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.jobs.counting import strata
from lastgood.record.telemetry import TOKENS
from lastgood.record.windows import CHARS_PER_TOKEN

SCORE_PREFIX = "eval."
"""Attributes with this prefix are evaluation scores or labels, 0-1."""
PASSED = (
    "endpoint", "latency_scope", "latency_ms", "ttft_ms", "feature_age_ms", *TOKENS, "error_code", "requester",
)  # fmt: skip


def keyed(requests: pa.Table, seconds: int) -> pa.Table:
    """Requests with `model_version` (? where unknown), `stratum`, `window_start`, `weight` (1 where unknown), and `size`: tokens of
    the prompt, from its length where it was captured."""
    at, width = requests["requested_at"].cast(pa.int64()).to_numpy(), seconds * 1_000_000
    size = pc.coalesce(
        pc.divide(pc.utf8_length(requests["input"]).cast(pa.float64()), float(CHARS_PER_TOKEN)),
        requests["tokens_in"].cast(pa.float64()),
    )
    made = {
        "model_version": pc.fill_null(requests["model_version"], "?"),
        "window_start": pa.array(at // width * width).cast(pa.timestamp("us", "UTC")),
        "weight": pc.fill_null(requests["weight"], 1.0),
        "size": size,
        "stratum": strata(requests["latency_scope"], np.asarray(size.to_numpy(), np.float64)).dictionary_decode(),
    }
    for name, column in made.items():
        place = requests.schema.get_field_index(name)
        requests = requests.append_column(name, column) if place < 0 else requests.set_column(place, name, column)
    return requests


def counted(requests: pa.Table) -> pa.Table:
    """Keyed requests -> the columns that `counting.count` takes."""
    return pa.table({
        **{name: requests[name] for name in (*PASSED, "model_version", "window_start", "weight", "size")},
        "scores": _scores(requests["attributes"]),
    })  # fmt: skip


def _scores(attributes: pa.ChunkedArray) -> pa.Array:
    kind = pa.map_(pa.string(), pa.float64())
    if attributes.null_count == len(attributes):
        return pa.nulls(len(attributes), kind)
    rows = [
        [(name[len(SCORE_PREFIX) :], _number(value)) for name, value in pairs or () if name.startswith(SCORE_PREFIX)]
        for pairs in attributes.to_pylist()
    ]
    return pa.array(rows, kind)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
