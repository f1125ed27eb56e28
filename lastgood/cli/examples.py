"""Requests -> a few to look at of each version: failed, with a flagged answer, slow (pure)."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.jobs.flags import flags
from lastgood.jobs.sampling import Ints
from lastgood.record.answer_flags import BadAnswers

KEPT = {"failed": 3, "flagged": 2, "slow": 2}
"""Kind -> how many of a version. Failed and flagged: those with the smallest hashes of their ids; slow: the slowest that succeeded."""
COLUMNS = ("endpoint", "model_version", "requested_at", "request_id", "latency_ms", "error_code", "input", "output")


def narrow(requests: pa.Table, hashed: Ints, rule: BadAnswers) -> pa.Table:
    """Requests in the record's columns, with the hashes of their ids -> candidates: COLUMNS, `kind`, `why` (flags of the answer) and `rank`."""
    failed = np.asarray(pc.is_valid(requests["error_code"]))
    latency = np.asarray(pc.fill_null(requests["latency_ms"], -1.0)).astype(float)
    asked, reason, noted = (requests[name].combine_chunks() for name in ("input", "finish_reason", "attributes"))
    answers = pc.fill_null(requests["output"], "").combine_chunks()
    bad = flags(answers, asked, reason, noted, rule.words)
    why = [", ".join(name for name, hit in bad.items() if hit[i]) for i in range(len(failed))]
    flagged = ~failed & np.asarray([bool(words) for words in why], bool) & np.asarray(pc.is_valid(requests["output"]))
    of = {
        "failed": (failed, hashed.astype(float)),
        "flagged": (flagged, hashed.astype(float)),
        "slow": (~failed & (latency >= 0), -latency),
    }
    table = requests.select(list(COLUMNS)).append_column("why", pa.array(why, pa.string()))
    made = []
    for kind, (mask, rank) in of.items():
        rows = table.append_column("kind", pa.array([kind] * len(table), pa.string())).append_column(
            "rank", pa.array(rank, pa.float64())
        )
        made.append(chosen([rows.filter(pa.array(mask))]))
    return pa.concat_tables(made)


def chosen(tables: Sequence[pa.Table]) -> pa.Table:
    """Of candidates those with the lowest ranks: KEPT of each endpoint, version and kind."""
    rows = pa.concat_tables(tables).sort_by([(n, "ascending") for n in ("endpoint", "model_version", "kind", "rank")])
    seen: dict[tuple[str, ...], int] = {}
    take = []
    keys = zip(*(rows[name].to_pylist() for name in ("endpoint", "model_version", "kind")), strict=True)
    for i, key in enumerate(keys):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= KEPT[key[2]]:
            take.append(i)
    return rows.take(pa.array(take, pa.int64()))
