"""Two samples of requests -> how far each of their columns moved (pure): the same for Spark's workers and for one machine."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lastgood import tables
from lastgood.errors import ConfigError
from lastgood.jobs.sampling import names, smallest
from lastgood.judge.ledger import Pair
from lastgood.tables.measures import report_path

if TYPE_CHECKING:
    import pandas as pd

MIN_ROWS = 50
NOT_MEASURED = "not measured: too few independent rows"
"""Method of a column whose distance is unknown: its values go with time, so that neighbours say the same."""
NUMERIC = {"tokens_in": "input", "input_chars": "input", "tokens_out": "output", "output_chars": "output"}
CATEGORICAL = {"finish_reason": "output"}
TEXTS = {"input": "input", "output": "output"}
FEW_VALUES = 10
"""A column of no more distinct numbers than this is compared value by value."""
NEAR = 0.01
"""Numbers of such a column that differ by less than this share of their size are one value."""
CURRENT, WEEK = timedelta(days=1), timedelta(days=7)
REFERENCES = ("baseline", "week", "before")
"""Sides that can be the reference, the preferred first; the prior version's rows are `prior`."""
COMPARED = ("hash", "tokens_in", "tokens_out", "input_chars", "output_chars", "finish_reason", "input", "output")
"""Columns of `samples` that a comparison takes as they are."""


def sides(samples: pa.Table, endpoint: str, pair: Pair, now: datetime, prefer: str) -> "Iterator[pd.DataFrame]":
    """Rows of `samples` (with or without `baseline`) -> each comparison of one endpoint, as `compare` takes it: at most KEEP rows a side.

    The comparisons are those of `jobs.drift.sides`. Only the columns that choose are read of rows that are not chosen.
    """
    since = pair.since if pair.since.tzinfo else pair.since.replace(tzinfo=UTC)
    start, at = max(since, now - CURRENT), samples["requested_at"].cast(pa.int64()).to_numpy()
    begin, end, arrived, day, week = (
        round(m.timestamp() * 1e6) for m in (start, now, since, since - CURRENT, _EPOCH + WEEK)
    )
    own = names(samples, "endpoint", {endpoint: 0}) == 0
    stored = np.zeros(len(at), bool)
    if "baseline" in samples.column_names:
        stored = samples["baseline"].is_valid().to_numpy()
    live = own & ~stored
    after = live & (at >= begin) & (at <= end)
    former = {
        "baseline": own & stored,
        "week": live & (at >= begin - week) & (at < end - week) & (at < arrived),
        "before": live & (at < arrived) & (at >= day),
    }
    version = names(samples, "model_version", {pair.candidate: 1} | ({pair.prior: 0} if pair.prior else {}))
    arms = {pair.candidate: 1} | ({pair.prior: 0} if pair.prior else {})
    plans = [(name, "reference", {"current": after & (version == arm)} | former) for name, arm in arms.items()]
    if pair.prior:
        plans.append((pair.candidate, "prior", {"current": after & (version == 1), "prior": after & (version == 0)}))
    hashed = samples["hash"].to_numpy()
    for name, against, masks in plans:
        chosen = {side: _smallest(mask, hashed) for side, mask in masks.items()}
        yield comparable(samples, chosen, endpoint, name, against, prefer)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _smallest(mask: Any, hashed: Any) -> Any:
    rows = np.flatnonzero(mask)
    return rows[smallest(np.zeros(len(rows), np.int64), hashed[rows])]


def comparable(
    samples: pa.Table, chosen: Mapping[str, Any], endpoint: str, version: str, against: str, prefer: str
) -> "pd.DataFrame":
    """Chosen rows of samples (side -> their places) as `compare` takes them."""
    rows = np.concatenate(list(chosen.values()))
    table = samples.take(pa.array(rows))
    features = np.array(
        [None if pairs is None else json.dumps(dict(pairs)) for pairs in table["features"].to_pylist()], object
    )
    group: pd.DataFrame = table.select(list(COMPARED)).to_pandas()
    baseline = table["baseline"].to_pandas() if "baseline" in table.column_names else np.nan
    return group.assign(
        endpoint=endpoint, version=version, against=against, prefer=prefer, baseline=baseline, features=features,
        side=np.repeat(list(chosen), [len(some) for some in chosen.values()]),
        at=table["requested_at"].cast(pa.int64()).to_numpy(),
    )  # fmt: skip


def wide_columns(group: "pd.DataFrame") -> tuple["pd.DataFrame", dict[str, str]]:
    """The group's columns side by side, tabular features included, and the kind (input or output) of each."""
    import pandas as pd

    kinds = NUMERIC | CATEGORICAL | TEXTS
    parsed = [json.loads(text) if isinstance(text, str) else {} for text in group["features"]]
    features = (
        pd.DataFrame(parsed, index=group.index).add_prefix("feature.").replace("", None)
    )  # "" is how null is kept
    types = {}
    for name in features.columns:
        numbers = pd.to_numeric(features[name], errors="coerce")
        endless = pd.Series(np.isinf(numbers), group.index)
        types[f"{name}:type"] = (
            pd.Series("null", group.index)
            .mask(features[name].notna(), "text")
            .mask(numbers.notna(), "number")
            .mask(endless, "infinite")
        )
        numbers, features[name] = numbers.mask(endless), features[name].mask(endless, None)
        if numbers.notna().sum() >= 0.9 * features[name].notna().sum():
            features[name] = numbers
        kinds |= {str(name): "input", f"{name}:type": "input"}
    return pd.concat([group.drop(columns="features"), features, pd.DataFrame(types, index=group.index)], axis=1), kinds


def reference_side(wide: "pd.DataFrame", prefer: str) -> str | None:
    """The side to compare with: the wanted one, else the first there is with enough rows."""
    counts = wide["side"].value_counts()
    order = [prefer, *REFERENCES] if prefer in REFERENCES else [*REFERENCES]
    return next((side for side in ["prior", *order] if counts.get(side, 0) >= MIN_ROWS), None)


def measured(group: "pd.DataFrame", limit: float, now: datetime) -> list[dict[str, Any]]:
    """Rows of the drift table of one comparison, as plain values."""
    rows = compare(group, limit, now.astimezone(UTC).replace(tzinfo=None)).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def compare(group: "pd.DataFrame", limit: float, computed_at: datetime) -> "pd.DataFrame":
    """One group's samples -> rows of the drift table. Columns with fewer than MIN_ROWS values on a side are left out, but a column that
    is new, went missing or changed its type shows in `NAME:type`.
    """
    import pandas as pd

    from lastgood.judge.drift import discoveries

    side = reference_side(group, str(group["prefer"].iloc[0]))
    wide, kinds = wide_columns(group[group["side"].isin(["current", side])])
    columns = list(_columns(wide, kinds, limit)) if side and (wide["side"] == "current").any() else []
    fell = discoveries([ours.p for _, ours, _, _ in columns])
    label = {"week": "last week", "prior": "prior"}.get(str(side), str(side))
    if side == "baseline":
        label = f"baseline {int(wide['baseline'].max())}"
    key = [group[name].iloc[0] for name in ("endpoint", "version", "against")]
    rows = [
        (
            *key, kinds[name], name, computed_at, ours.n_current, ours.n_reference, ours.distance if ours.measured else None,
            ours.low if ours.measured else None, bool(moved),
            theirs.method if theirs else None, theirs.score if theirs else None, theirs.drifted if theirs else None, label,
            method if ours.measured else NOT_MEASURED, ours.p,
        )
        for (name, ours, theirs, method), moved in zip(columns, fell, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(tables.DRIFT.columns), dtype=object)  # None stays None


def _columns(wide: "pd.DataFrame", kinds: Mapping[str, str], limit: float) -> Iterator[tuple[str, Any, Any, str]]:
    """(column, our Distance, Evidently's Opinion or None, method) of every column that can be compared."""
    import pandas as pd

    from lastgood.jobs.classifier import separation
    from lastgood.jobs.evidently_report import opinion
    from lastgood.judge.drift import distance

    current, reference = wide[wide["side"] == "current"], wide[wide["side"] != "current"]
    for name in kinds:
        new, old = (side[side[name].notna()] for side in (current, reference))
        if min(len(new), len(old)) < MIN_ROWS:
            continue
        times = (new["at"].tolist(), old["at"].tolist())
        if name in TEXTS:
            yield name, separation(new[name].tolist(), old[name].tolist(), times, limit), None, "classifier"
            continue
        distinct = pd.concat([new[name], old[name]]).nunique()
        if name.endswith(":type") and distinct == 1:
            continue
        number = pd.api.types.is_numeric_dtype(wide[name])
        a, b = (np.asarray(side[name], dtype=object) for side in (new, old))
        if number and distinct <= FEW_VALUES:
            a, b = snapped(a, b)
        ours = distance(a, b, *times, number and distinct > FEW_VALUES, limit=limit)
        yield name, ours, opinion(new[name], old[name], number), "jensen-shannon"


def snapped(current: Any, reference: Any) -> tuple[Any, Any]:
    """Two samples of few distinct numbers, those that lie closer than NEAR of their size made one: 0.1 and 0.1001 are no two categories."""
    values = np.unique(np.concatenate([current, reference]).astype(float))
    gaps = np.diff(values) > NEAR * np.maximum(np.abs(values[1:]), np.abs(values[:-1]))
    group = np.concatenate([[0], np.cumsum(gaps)])
    first = values[np.searchsorted(group, group)]
    return tuple(first[np.searchsorted(values, side.astype(float))].astype(object) for side in (current, reference))


def report(
    store: tables.Store, group: "pd.DataFrame", endpoint: str, pair: Pair, prefer: str, path: Path | None = None
) -> dict[str, Any]:
    """Write Evidently's own report on the candidate against the reference (without `path` where the evidence page looks for it); what was
    compared. Errors: ConfigError when there is nothing to compare.
    """
    import pandas as pd

    from lastgood.jobs import evidently_report

    side = reference_side(group, prefer) if len(group) else None
    if side is None or not (group["side"] == "current").any():
        raise ConfigError(f"{endpoint}: no samples to compare; run `lastgood job samples`, or set a baseline")
    wide, kinds = wide_columns(group[group["side"].isin(["current", side])])
    current, reference = wide[wide["side"] == "current"], wide[wide["side"] == side]
    usable = [
        n for n in kinds if n not in TEXTS and min(current[n].notna().sum(), reference[n].notna().sum()) >= MIN_ROWS
    ]
    numeric = [name for name in usable if pd.api.types.is_numeric_dtype(wide[name])]
    path = path or report_path(store, endpoint, pair.candidate)
    path.parent.mkdir(parents=True, exist_ok=True)
    evidently_report.report(current, reference, numeric, [name for name in usable if name not in numeric], path)
    return {
        "endpoint": endpoint,
        "version": pair.candidate,
        "reference": side,
        "rows": [len(current), len(reference)],
        "html": str(path),
    }
