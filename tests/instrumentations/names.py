"""Names of span attributes as the packages define them: `python names.py NAME ...` in the environment of the instrumentations prints JSON, of each
name the constants (package, class, constant) whose value it is."""

import importlib
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

PACKAGES = {
    "opentelemetry-semantic-conventions": (
        "opentelemetry.semconv._incubating.attributes.gen_ai_attributes", "opentelemetry.semconv.attributes.error_attributes",
        "opentelemetry.semconv.attributes.http_attributes", "opentelemetry.semconv._incubating.attributes.http_attributes",
        "opentelemetry.semconv.attributes.service_attributes", "opentelemetry.semconv._incubating.attributes.enduser_attributes",
    ),
    "opentelemetry-semantic-conventions-ai": ("opentelemetry.semconv_ai",),
    "openinference-semantic-conventions": ("openinference.semconv.trace",),
    "mlflow-skinny": ("mlflow.tracing.constant",),
}  # fmt: skip
"""Package -> modules with its names."""


def constants(holder: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(place, text) of every constant of a module or class, and of the classes in it."""
    for name, value in sorted(vars(holder).items()):
        if name.startswith("_"):
            continue
        value = getattr(value, "value", value)
        if isinstance(value, str) and name.isupper():
            yield f"{path}{name}", value
        elif isinstance(value, type) and value.__module__ == getattr(holder, "__name__", "") and not path:
            yield from constants(value, f"{name}.")


def defined(wanted: frozenset[str]) -> dict[str, list[str]]:
    """Of each wanted name that a package defines, where."""
    places: dict[str, list[str]] = {}
    for package, modules in PACKAGES.items():
        for module in modules:
            for place, text in constants(importlib.import_module(module)):
                if text in wanted:
                    places.setdefault(text, []).append(f"{package}: {place}")
    return {name: sorted(set(places[name])) for name in sorted(places)}


if __name__ == "__main__":
    made = {"packages": {package: version(package) for package in PACKAGES}, "names": defined(frozenset(sys.argv[1:]))}
    json.dump(made, sys.stdout, indent=1)
    print()
