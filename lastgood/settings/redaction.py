"""Settings -> the redaction rule of each endpoint."""

from collections.abc import Callable

from lastgood.record.redact import Redactor
from lastgood.settings.endpoint import EndpointSettings
from lastgood.settings.reading import Settings


def redactor(settings: EndpointSettings) -> Redactor:
    """The rule of an endpoint's settings. Errors: ConfigError."""
    return Redactor(settings.capture, settings.redact, settings.redact_hook).check()


def rules(settings: Settings) -> Callable[[str | None], Redactor] | None:
    """The rule of each endpoint; None when every endpoint keeps its bodies. Errors: ConfigError."""
    known = {name: redactor(endpoint) for name, endpoint in settings.endpoints.items()}
    default = redactor(settings.default)
    if not any(rule.active for rule in (default, *known.values())):
        return None
    return lambda endpoint: known.get(endpoint or "", default)
