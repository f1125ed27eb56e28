"""Lastgood watches every model version served on Databricks Model Serving and puts the last good one back."""

__version__ = "0.1.0"
