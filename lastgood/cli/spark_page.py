"""A table in Spark -> what only the page of a check shows: the two distributions of each column, and a few requests to look at."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lastgood.cli import examples
from lastgood.record.answer_flags import BadAnswers

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

Comparison = tuple[str, str, str, str]
"""(endpoint, version, against, column)."""
Bins = tuple[list[str], bool, list[float], list[float]]
"""(labels, whether they are numbers, shares of the version, shares of the reference): see `tables.drifted.binned`."""
_BINS = "`key` array<string>, labels array<string>, numeric boolean, current array<double>, reference array<double>"
_EXAMPLES = (
    "endpoint string, model_version string, requested_at timestamp, request_id string, latency_ms double, error_code string, input string, output string, "
    "why string, kind string, rank double"
)
_READ = (*examples.COLUMNS, "finish_reason", "attributes")


def binned_columns(group: "pd.DataFrame", prefer: str, columns: Sequence[str]) -> Iterator[tuple[str, Bins]]:
    """The two sides of a comparison (as `jobs.comparison.compare` takes them) in common bins, for each of its columns that has values on both."""
    from lastgood.jobs.comparison import reference_side, wide_columns
    from lastgood.tables.drifted import LENGTHS, binned

    wide, _ = wide_columns(group)
    sides = [wide[wide["side"] == side] for side in ("current", reference_side(group, prefer))]
    for column in columns:
        name = LENGTHS.get(column, column)
        values = [side[name].dropna().tolist() if name in side else [] for side in sides]
        if shape := binned(*values):
            yield column, shape


def bins_of(few: "DataFrame") -> dict[Comparison, Bins]:
    """The bins of every comparison of samples that stand on their sides (`jobs.drift.sides`), made by Spark's workers."""
    rows = few.groupBy("endpoint", "version", "against").applyInPandas(_shapes, _BINS).collect()
    return {tuple(row["key"]): (row["labels"], row["numeric"], row["current"], row["reference"]) for row in rows}


def _shapes(group: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    from lastgood.jobs.comparison import wide_columns

    key = [str(group[name].iloc[0]) for name in ("endpoint", "version", "against")]
    kinds = wide_columns(group)[1]
    shapes = binned_columns(group, str(group["prefer"].iloc[0]), list(kinds))
    return pd.DataFrame(
        [([*key, column], *shape) for column, shape in shapes],
        columns=["key", "labels", "numeric", "current", "reference"],
    )


def examples_of(requests: "DataFrame", rule: BadAnswers) -> list[dict[str, Any]]:
    """Rows of `cli.examples` of all requests: Spark's workers choose those of their parts, of these the best are taken here."""

    def narrow(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from lastgood.jobs.sampling import hashes

        best: list[pa.Table] = []
        for batch in batches:
            if batch.num_rows:
                table = pa.Table.from_batches([batch])
                best = [examples.chosen([*best, examples.narrow(table, hashes(table["request_id"]), rule)])]
        for table in best:
            yield from table.combine_chunks().to_batches()

    rows = requests.select(*_READ).mapInArrow(narrow, _EXAMPLES).toArrow()
    return examples.chosen([rows]).to_pylist() if rows.num_rows else []
