"""OTLP in: exports -> spool (on disk, then acknowledged) -> inbox and scores in Delta, exactly once.

receiver (gRPC, HTTP) -> writer (group fsync) -> spool (segments) -> drain (own process) -> rows | columns -> Delta.
"""
