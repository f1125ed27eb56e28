"""Lastgood watches every model version served on Databricks Model Serving and puts the last good one back."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`from lastgood import instrument` for applications; nothing else pays for the import of OpenTelemetry."""
    if name == "instrument":
        return import_module("lastgood.record.instrument")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
