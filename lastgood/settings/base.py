"""What every settings model shares: fixed once read, unknown keys refused, secrets by reference."""

import os
from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Fixed once read; a key nobody knows is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Mode(StrEnum):
    """What Lastgood may do by itself: say it, ask for it, or do it."""

    OBSERVE = "observe"
    APPROVE = "approve"
    AUTO = "auto"


def secret(variable: str | None) -> str | None:
    """The value of the environment variable a `*_env` setting names, or None when unset or empty."""
    return (os.environ.get(variable) or None) if variable else None
