"""`package.module:name` in a setting -> the object."""

from importlib import import_module
from typing import Any

from lastgood.errors import ConfigError


def load(path: str, setting: str) -> Any:
    """Errors: ConfigError that names the setting and what is missing."""
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{setting} {path}: expected package.module:function ({error})") from error
