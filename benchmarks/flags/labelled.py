"""Labelled answers (texts.yaml) and what the flags say of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from lastgood.jobs.flags import flags

TEXTS = Path(__file__).with_name("texts.yaml")


@dataclass(frozen=True)
class Answer:
    """An answer with its prompt, and the flags it has by a person's judgement. `section`: the flag it was written for."""

    text: str
    asked: str | None
    finish_reason: str | None
    response_format: str | None
    section: str
    has: frozenset[str]


@dataclass(frozen=True)
class Result:
    """Of one flag: answers written for it, those that have it, precision and recall over all answers, and the mistakes."""

    flag: str
    texts: int
    positives: int
    precision: float
    recall: float
    accused: tuple[str, ...]
    unseen: tuple[str, ...]


def answers() -> list[Answer]:
    """All labelled answers."""
    document: dict[str, dict[str, list[Any]]] = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    made = []
    for section, sides in document.items():
        for side, entries in sides.items():
            for entry in entries:
                given: dict[str, Any] = entry if isinstance(entry, dict) else {"answer": entry}
                has = {section} if side == "has" else set()
                made.append(
                    Answer(
                        given["answer"] * given.get("repeat", 1), given.get("asked"), given.get("reason"), given.get("format"), section,
                        frozenset(has | set(given.get("also", []))),
                    )
                )  # fmt: skip
    return made


def measured() -> list[Result]:
    """What each flag says of all answers, those written for other flags too."""
    known = answers()
    attributes = [[("response_format", a.response_format)] if a.response_format else None for a in known]
    marks = flags(
        pa.array([a.text for a in known], pa.string()),
        pa.array([a.asked for a in known], pa.string()),
        pa.array([a.finish_reason for a in known], pa.string()),
        pa.array(attributes, pa.map_(pa.string(), pa.string())),
    )
    return [_result(flag, known, marked.tolist()) for flag, marked in marks.items()]


def _result(flag: str, known: list[Answer], marked: list[bool]) -> Result:
    pairs = list(zip(known, marked, strict=True))
    right = sum(mark and flag in answer.has for answer, mark in pairs)
    accused = tuple(answer.text for answer, mark in pairs if mark and flag not in answer.has)
    unseen = tuple(answer.text for answer, mark in pairs if not mark and flag in answer.has)
    return Result(
        flag, sum(answer.section == flag for answer in known), right + len(unseen),
        right / max(right + len(accused), 1), right / max(right + len(unseen), 1), accused, unseen,
    )  # fmt: skip
