"""What telemetry must show after the shift before a rollback counts as done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True)
class Recovery:
    """What was measured since the shift. None: the telemetry does not say yet. `hopeless`: waiting changes nothing."""

    traffic_moved: bool | None
    recovered: bool | None
    sentence: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    hopeless: bool = False


class Telemetry(Protocol):
    """Errors: TransientError when the measures cannot be read now."""

    def recovery(
        self, endpoint: str, bad_version: str, prior_version: str, since: datetime, metric: str
    ) -> Recovery: ...
