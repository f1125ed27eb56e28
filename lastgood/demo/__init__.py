"""`lastgood demo`: the whole of Lastgood on loopback against a bad model version, shown live, ending in a report."""

from lastgood.demo.story import Demo, Options

__all__ = ["Demo", "Options"]
