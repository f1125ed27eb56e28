"""Settings -> the redaction rule of each endpoint."""

from collections.abc import Mapping
from dataclasses import dataclass

from lastgood.record.redact import Capture, Redactor
from lastgood.settings.endpoint import EndpointSettings
from lastgood.settings.reading import Settings


def redactor(settings: EndpointSettings) -> Redactor:
    """The rule of an endpoint's settings. Errors: ConfigError."""
    return Redactor(settings.capture, settings.redact, settings.redact_hook).check()


STRICTNESS = (Capture.NONE, Capture.FEATURES, Capture.REDACTED, Capture.FULL)


@dataclass(frozen=True)
class Rules:
    """The rule of each endpoint. A span that does not name its endpoint may be part of a request of any: what it reports under has no rule of
    its own, the strictest there is holds (`unnamed`)."""

    known: Mapping[str, Redactor]
    default: Redactor

    def __call__(self, endpoint: str | None) -> Redactor:
        return self.known.get(endpoint or "", self.default)

    def unnamed(self, endpoint: str | None) -> Redactor:
        every = (self.default, *self.known.values())
        return self.known.get(endpoint or "") or min(every, key=lambda rule: STRICTNESS.index(rule.capture))


def rules(settings: Settings) -> Rules | None:
    """The rule of each endpoint; None when every endpoint keeps its bodies. Errors: ConfigError."""
    known = {name: redactor(endpoint) for name, endpoint in settings.endpoints.items()}
    made = Rules(known, redactor(settings.default))
    return made if any(rule.active for rule in (made.default, *known.values())) else None
