"""Scores, labels and feedback -> the requests they are about."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def about(scores: "DataFrame", requests: "DataFrame") -> "DataFrame":
    """Each score beside its request: by request id, else by trace; of the endpoint that the score names, where it names one.

    requests: endpoint, request_id, trace_id and whatever else is wanted. Gives their columns and name, value, label, at, and
    `scored_at` (when the score was received).
    """
    from pyspark.sql import functions as f

    selected = scores.select(
        f.col("endpoint").alias("_endpoint"), f.col("request_id").alias("_id"), f.col("trace_id").alias("_trace"),
        "name", "value", "label", "at", f.col("received_at").alias("scored_at"),
    )  # fmt: skip
    by_id = requests.join(selected.where("_id IS NOT NULL"), f.col("request_id") == f.col("_id"))
    by_trace = requests.join(selected.where("_id IS NULL"), f.col("trace_id") == f.col("_trace"))
    both = by_id.unionByName(by_trace).where("_endpoint IS NULL OR _endpoint = endpoint")
    return both.drop("_endpoint", "_id", "_trace")
