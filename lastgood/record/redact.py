"""What is kept of bodies: texts and features -> what the endpoint's capture setting lets through (pure, but for loading a hook)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from importlib import import_module
from typing import Any

from lastgood.errors import ConfigError


class Capture(StrEnum):
    """What is kept of request and response bodies: nothing, tabular features without texts, texts with patterns blotted out, or all."""

    NONE = "none"
    FEATURES = "features"
    REDACTED = "redacted"
    FULL = "full"


PATTERNS = {
    "EMAIL": r"[\w.+-]+@[\w-]+\.[\w.-]+",
    "TOKEN": r"\b(?:sk|pk|dapi|ghp|xox[abp])[-_]?[A-Za-z0-9]{16,}\b|\beyJ[\w-]{10,}\.[\w-]+\.[\w-]+",
    "IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "CARD": r"\b(?:\d[ -]?){13,16}\b",
    "IP": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "PHONE": r"(?<![\w.])\+?\d[\d ()/-]{7,}\d(?![\w.])",
}
"""Name -> pattern, applied in this order; each match becomes `[NAME]`. A person's own patterns come after them."""


@dataclass(frozen=True)
class Redactor:
    """One endpoint's rule. `hook` is `package.module:function`, str -> str (for example around presidio), applied last.

    Errors: ConfigError for a pattern or a hook that is none.
    """

    capture: Capture = Capture.FULL
    patterns: Mapping[str, str] = field(default_factory=dict)
    hook: str | None = None

    @cached_property
    def _compiled(self) -> list[tuple[str, re.Pattern[str]]]:
        try:
            return [(f"[{name}]", re.compile(pattern)) for name, pattern in (PATTERNS | dict(self.patterns)).items()]
        except re.error as error:
            raise ConfigError(f"redact: {error.pattern!r} is not a pattern: {error}") from error

    @cached_property
    def _hook(self) -> Callable[[str], str]:
        if not self.hook:
            return lambda text: text
        module, _, name = self.hook.partition(":")
        try:
            function: Any = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"redact_hook {self.hook}: expected package.module:function ({error})") from error
        return lambda text: str(function(text))

    @property
    def active(self) -> bool:
        return self.capture is not Capture.FULL

    def check(self) -> "Redactor":
        """Itself, when its patterns and hook can be used."""
        _ = self._compiled, self._hook
        return self

    def text(self, value: str | None) -> str | None:
        """What is kept of a prompt or an answer."""
        if value is None or self.capture is Capture.FULL:
            return value
        if self.capture is not Capture.REDACTED:
            return None
        for name, pattern in self._compiled:
            value = pattern.sub(name, value)
        return self._hook(value)

    def feature(self, value: str | None) -> str | None:
        """What is kept of a tabular feature's value."""
        return value if self.capture is Capture.FEATURES else self.text(value)
