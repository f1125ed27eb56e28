"""Moved to lastgood.runs."""

from lastgood.runs import Context, Run, append, bookmark, increment, merge, record

__all__ = ["Context", "Run", "append", "bookmark", "increment", "merge", "record"]
