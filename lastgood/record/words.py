"""Figures -> the words that all pages, messages, reports and commands say them in (pure)."""

import math


def percent(share: float | None) -> str:
    """A share 0-1 in per cent, a dash when it is not known. One decimal, or two digits of what is left to 0 or 100 where that is less than 1 %: a share that
    is not 0 never reads 0%."""
    if share is None or math.isnan(share):
        return "-"
    value = 100 * share
    rest = min(abs(value), abs(100 - value))
    decimals = 1 if rest >= 1 or rest < 1e-9 else 1 - math.floor(math.log10(rest))
    text = f"{value:.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.')}%"


def counted(number: float, noun: str, nouns: str = "") -> str:
    """So many of something: `1 request`, `1,204 requests`. `nouns`: of several, where it is not the noun and an s."""
    text = f"{number:,.0f}"
    return f"{text} {noun if text == '1' else nouns or noun + 's'}"
