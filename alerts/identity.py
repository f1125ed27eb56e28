"""One name per person (pure): whatever way somebody comes in, approvals and audit know them by the same name."""

import unicodedata
from collections.abc import Mapping

MAX_NAME = 200


def identity(raw: str, aliases: Mapping[str, str]) -> str:
    """A name as it is compared and kept: without case, width variants and blanks around; `aliases` (token name, login, workspace user
    -> address) make several names one. Empty stays empty."""
    name = _folded(raw)
    folded = {_folded(alias): _folded(address) for alias, address in aliases.items()}
    return folded.get(name, name)


def _folded(raw: str) -> str:
    return unicodedata.normalize("NFKC", raw).strip().casefold()[:MAX_NAME]
