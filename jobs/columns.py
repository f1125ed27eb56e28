"""Column expressions that jobs share. Spark only."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lastgood.settings import EndpointSettings, Settings

if TYPE_CHECKING:
    from pyspark.sql import Column


def by_endpoint(settings: Settings, make: "Callable[[EndpointSettings], Column | None]") -> "Column":
    """What the settings of a row's endpoint make of it (column `endpoint`), those of `default` for endpoints without their own; null for None."""
    from pyspark.sql import functions as f

    def made(own: EndpointSettings) -> "Column":
        column = make(own)
        return f.lit(None) if column is None else column

    chosen = made(settings.default)
    for name, own in settings.endpoints.items():
        chosen = f.when(f.col("endpoint") == name, made(own)).otherwise(chosen)
    return chosen
