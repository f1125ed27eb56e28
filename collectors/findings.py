"""What a reader says of rows beside their values (pure): values that were there and could not be read, rows set aside, units of times; each
with how many there are and where the first stands. Sums of findings are findings, so processes share a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lastgood.collectors import coerce
from lastgood.errors import ConfigError
from lastgood.record.words import counted

SHOWN_CHARS = 60
MOST_ODD = 0.1
"""A table in which more of the rows cannot be read, or have a time that cannot, is refused."""
LEAST_TIME = 1e8
"""A number below this (1973 in seconds) is no time, and has no unit."""
NOT_AN_OBJECT = "not a JSON object"
RAGGED = "row has another number of fields than the header"
WHOLE_ROW = (NOT_AN_OBJECT, RAGGED)
EXPECTED = {
    "time": "ISO 8601, as 2026-03-01T12:00:00Z, or a number since 1970 in s, ms, us or ns",
    "map": "a map, a struct, or its JSON text",
    "name": "text, or a whole number below 2**53: 1.1 and 1.10 are one number, and long numbers are cut when they are floats",
}


@dataclass(frozen=True, order=True)
class Place:
    """A row: of which file of the table, from which byte or row of it a piece was read, and the row in the piece, from 0."""

    file: int
    first: int
    row: int
    path: str = ""


@dataclass(frozen=True)
class Cases:
    """How many, the place of the first, and its value."""

    number: int
    place: Place
    value: str = ""

    def __add__(self, other: "Cases") -> "Cases":
        first = min(self, other, key=lambda cases: cases.place)
        return replace(first, number=self.number + other.number)


class UnfitError(Exception):
    """A value for which the whole table is refused; `why`: unless it is a number that is no exact name."""

    def __init__(self, place: Place, column: str, value: str, why: str = "") -> None:
        super().__init__(place, column, value, why)
        self.place, self.column, self.value, self.why = place, column, value, why


@dataclass
class Findings:
    """`unread`: column -> values; `aside`: reason -> rows; `units`: unit -> times that are numbers, in `clock`."""

    unread: dict[str, Cases] = field(default_factory=dict)
    aside: dict[str, Cases] = field(default_factory=dict)
    units: dict[str, Cases] = field(default_factory=dict)
    clock: str = ""
    _piece: Place = field(default_factory=lambda: Place(0, 0, 0))
    _counted: bool = True
    _skipped: list[int] = field(default_factory=list)
    _base: int = 0

    def begin(self, place: Place, counted: bool) -> None:
        """A piece begins. `counted`: its place counts rows, not bytes."""
        self._piece, self._counted, self._skipped, self._base = place, counted, [], 0

    def passed(self, rows: int) -> None:
        """A batch of the piece is done."""
        self._base += rows

    def ids(self, rows: int) -> list[str]:
        """Names for the rows of a batch, made of their places: the same in every run."""
        first = self._base
        if self._counted:
            first, start = first + self._piece.first, f"row-{self._piece.file}-"
        else:
            start = f"row-{self._piece.file}-{self._piece.first}-"
        return [f"{start}{i}" for i in range(first, first + rows)]

    def _place(self, row: int) -> Place:
        """Of a row of the batch: rows that were skipped before it count."""
        at = self._base + row
        for skipped in self._skipped:
            at += skipped <= at
        return replace(self._piece, row=at)

    def skip(self, reason: str, row: int, value: str) -> None:
        """A row of the piece (from 0) that gives no row of a batch."""
        if reason:
            _note(self.aside, reason, Cases(1, replace(self._piece, row=row), value[:SHOWN_CHARS]))
        self._skipped.append(row)

    def set_aside(self, reason: str, number: int, row: int, value: str = "") -> None:
        """Rows of the batch, the first of which is `row`."""
        _note(self.aside, reason, Cases(number, self._place(row), value))

    def lose(self, column: str, held: pa.Array, rows: Any) -> None:
        """Values of the batch that could not be read."""
        if len(rows):
            _note(self.unread, column, Cases(len(rows), self._place(int(rows[0])), shown(held[int(rows[0])].as_py())))

    def refuse(self, column: str, row: int, value: Any) -> None:
        """Errors: UnfitError, always."""
        raise UnfitError(self._place(row), column, shown(value))

    def refuse_row(self, column: str, row: int) -> None:
        """A row of the piece (from 0) that has a column twice. Errors: UnfitError, always."""
        raise UnfitError(replace(self._piece, row=row), column, "", "it stands there twice; give each key one value")

    def times(self, column: str, held: pa.Array) -> None:
        """Notes the units of times that are numbers, by their size."""
        numbers = coerce.number(held)
        if numbers.null_count == len(numbers):
            return
        size = np.abs(np.nan_to_num(numbers.to_numpy(zero_copy_only=False), nan=0.0))
        self.clock = column
        least = LEAST_TIME
        for below, unit, _ in coerce.UNITS:
            rows = np.flatnonzero((size >= least) & (size < below))
            if len(rows) and unit not in self.units:
                self.units[unit] = Cases(1, self._place(int(rows[0])), shown(held[int(rows[0])].as_py()))
            least = below

    def merge(self, other: "Findings") -> None:
        """Add what another process found."""
        for own, theirs in ((self.unread, other.unread), (self.aside, other.aside), (self.units, other.units)):
            for name, cases in theirs.items():
                _note(own, name, cases)
        self.clock = self.clock or other.clock

    @property
    def reasons(self) -> dict[str, int]:
        """Reason -> how many rows were set aside."""
        return {reason: cases.number for reason, cases in self.aside.items()}

    def judged(self, rows: int, needed: Mapping[str, str], where: Callable[[Place], str]) -> None:
        """Errors: ConfigError where the table must not be read as it is: two units of time, or too much of it that cannot be read. `rows`: how
        many rows were read; `needed`: column -> what it must hold; `where`: a place in words."""
        if len(self.units) > 1:
            (first, _), (other, odd) = sorted(self.units.items(), key=lambda item: item[1].place)[:2]
            raise ConfigError(
                f"{where(odd.place)}, column {self.clock}: {odd.value} is a time in {other} where earlier rows have {first}; give all rows one unit"
            )
        for reason in WHOLE_ROW:
            cases = self.aside.get(reason)
            if cases and cases.number > MOST_ODD * (rows + sum(self.reasons.get(name, 0) for name in WHOLE_ROW)):
                raise ConfigError(
                    f"{where(cases.place)}: {reason}: {cases.value!r}, and {counted(cases.number, 'row')} are like it, more than a tenth; mend the file"
                )
        for column, expected in needed.items():
            cases = self.unread.get(column)
            if cases and cases.number > MOST_ODD * rows:
                raise ConfigError(
                    f"{where(cases.place)}, column {column}: {cases.value!r} cannot be read, and {cases.number:,} of {counted(rows, 'row')} are like it; "
                    f"expected {expected}"
                )

    def notes(self, where: Callable[[Place], str]) -> list[str]:
        """Sentences on what could not be read."""
        return [
            f"could not be read, so unknown: {cases.number:,} value{'s' * (cases.number > 1)} of {column}, the first in "
            f"{where(cases.place)}: {cases.value!r}"
            for column, cases in sorted(self.unread.items())
        ]


def _note(into: dict[str, Cases], name: str, cases: Cases) -> None:
    had = into.get(name)
    into[name] = cases if had is None else had + cases


def shown(value: Any) -> str:
    """A value for people, cut."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


def first_of(reasons: pa.Array) -> Mapping[str, tuple[int, int]]:
    """Reason -> (how many rows, the first), of a column of reasons."""
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(reasons.drop_null()).to_pylist()}
    return {reason: (number, pc.index(reasons, reason).as_py()) for reason, number in counts.items()}
