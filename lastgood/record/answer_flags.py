"""Names of the flags of answers, and what makes an answer bad."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

AnswerFlag = Literal[
    "empty", "refusal", "repetitive", "truncated", "template", "echo", "script", "not_json", "not_schema", "toxic"
]
FLAGS: tuple[AnswerFlag, ...] = get_args(AnswerFlag)
"""In the order of their bits. `toxic` is looked for only where words are given."""
PROVEN: frozenset[AnswerFlag] = frozenset(FLAGS)
"""Flags that make an answer bad: of the labelled answers that they name (`python -m benchmarks.flags`) at least 95% have the fault.
The others are counted and shown; a test compares."""


@dataclass(frozen=True)
class BadAnswers:
    """Which flags make an answer bad. `words`: those of `toxic`. `left_out`: endpoint -> flags that are only shown there; None: every
    endpoint that is not named."""

    words: tuple[str, ...] = ()
    left_out: Mapping[str | None, tuple[AnswerFlag, ...]] = field(default_factory=dict)

    @property
    def flags(self) -> tuple[AnswerFlag, ...]:
        """Flags that are looked for."""
        return FLAGS if self.words else FLAGS[:-1]

    def bits(self, endpoint: str) -> int:
        """A bit, in the order of FLAGS, for each flag that makes an answer of the endpoint bad."""
        shown = self.left_out.get(endpoint, self.left_out.get(None, ()))
        return sum(1 << i for i, flag in enumerate(self.flags) if flag in PROVEN and flag not in shown)
