"""What is kept of bodies: texts and features -> what the endpoint's capture setting lets through (pure, but for loading a hook)."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from typing import Any

from stdnum import iban, luhn

from lastgood.errors import ConfigError
from lastgood.record.hooks import load


class Capture(StrEnum):
    """What is kept of request and response bodies: nothing, tabular features without texts, texts with patterns blotted out, or all."""

    NONE = "none"
    FEATURES = "features"
    REDACTED = "redacted"
    FULL = "full"


MAX_REPEAT = 4_096
"""No repetition of a shipped pattern goes on for longer: so a text takes a bounded number of steps a character."""
PATTERNS = {
    "EMAIL": r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{1,190}",
    "TOKEN": r"\b(?:sk|pk|dapi|ghp|xox[abp])[-_]?[A-Za-z0-9]{16,512}\b|\beyJ[\w-]{10,4096}\.[\w-]{1,4096}\.[\w-]{1,4096}",
    "IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "CARD": r"\b(?:\d[ -]?){13,16}\b",
    "IP": r"\b(?:\d{1,3}\.){3}\d{1,3}\b",
    "PHONE": r"(?<![\w.])\+?\d[\d ()/-]{7,40}\d(?![\w.])",
}
"""Name -> pattern, applied in this order; each match becomes `[NAME]`. A person's own patterns come after them."""
VALID: Mapping[str, Callable[[str], bool]] = {
    "IBAN": iban.is_valid,
    "CARD": lambda text: luhn.is_valid(re.sub(r"[ -]", "", text)),
}
"""Name -> whether a match is one: other numbers look the same, but for the checksum."""


_CATEGORY = re.compile(r"[^\s{}\[\]]{0,64}(?: [^\s{}\[\]]{1,32}){0,3}|[\d\s.,eE+\[\]-]+")
"""At most four words, or numbers."""
_SHIPPED = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}


def _blotted(name: str, match: re.Match[str]) -> str:
    valid = VALID.get(name)
    return f"[{name}]" if valid is None or valid(match[0]) else match[0]


@dataclass(frozen=True)
class Redactor:
    """One endpoint's rule. `hook` is `package.module:function`, str -> str (for example around presidio), applied last.

    Errors: ConfigError for a pattern or a hook that is none.
    """

    capture: Capture = Capture.FULL
    patterns: Mapping[str, str] = field(default_factory=dict)
    hook: str | None = None

    @cached_property
    def _own(self) -> list[tuple[str, str]]:
        """A person's patterns, matched by RE2: in linear time, whatever they are."""
        for pattern in self.patterns.values():
            try:
                _replaced("", pattern, "")
            except ValueError as error:  # pyarrow.ArrowInvalid is one
                raise ConfigError(f"redact: {pattern!r} is not a pattern: {error}") from error
        return [(f"[{name}]", pattern) for name, pattern in self.patterns.items()]

    @cached_property
    def _hook(self) -> Callable[[str], str]:
        if not self.hook:
            return lambda text: text
        function: Any = load(self.hook, "redact_hook")
        try:
            function("")  # what it needs is missed now, not at the first request
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"redact_hook {self.hook}: it fails on an empty text ({error})") from error
        return lambda text: str(function(text))

    @property
    def active(self) -> bool:
        return self.capture is not Capture.FULL

    def check(self) -> "Redactor":
        """Itself, when its patterns and hook can be used."""
        _ = self._own, self._hook
        return self

    def text(self, value: str | None) -> str | None:
        """What is kept of a prompt or an answer."""
        if value is None or self.capture is Capture.FULL:
            return value
        if self.capture is not Capture.REDACTED:
            return None
        for name, shipped in _SHIPPED.items():
            value = shipped.sub(partial(_blotted, name), value)
        for name, pattern in self._own:
            value = _replaced(str(value), pattern, name)
        return self._hook(str(value))

    def feature(self, value: str | None) -> str | None:
        """What is kept of a tabular feature's value (or name): with `features` numbers, vectors and categories. A chat model may be asked in
        the tabular format: then the "features" are its prompts."""
        if self.capture is not Capture.FEATURES:
            return self.text(value)
        return value if value is None or _CATEGORY.fullmatch(value) else None

    def features(self, pairs: Mapping[str, str | None]) -> dict[str, str | None] | None:
        """What is kept of a record's features. None: nothing, not even their names."""
        if self.capture is Capture.NONE:
            return None
        return {name: self.feature(value) for key, value in pairs.items() if (name := self.feature(key)) is not None}


def _replaced(text: str, pattern: str, name: str) -> str:
    """By RE2. Arrow is loaded only where there is something to redact: the kill switch starts without it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return str(pc.replace_substring_regex(pa.array([text]), pattern, name)[0].as_py())
