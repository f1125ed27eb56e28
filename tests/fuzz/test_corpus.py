"""The kept corpus of every parser, and seeded mutations of it: nothing but the documented errors."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = 40
ODD = (b"\x00", b"\xff", b"{}", b"[]", b"null", b"-1", b"1e999", b"\xed\xa0\x80", b'"', b"\\u0000", b"\n", b": ")


def mutated(inputs: list[bytes], r: random.Random) -> Iterator[bytes]:
    """Bytes flipped, cut, doubled and set in; parts of one input in another."""
    for _ in range(MUTATIONS):
        data, other = bytearray(r.choice(inputs)), r.choice(inputs)
        for _ in range(r.randint(1, 4)):
            at, length = r.randint(0, len(data)), r.randint(0, 16)
            kind = r.randrange(5)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << r.randrange(8)
            elif kind == 1:
                del data[at : at + length]
            elif kind == 2:
                data[at:at] = data[at : at + length]
            elif kind == 3:
                data[at:at] = r.choice(ODD)
            else:
                start = r.randint(0, len(other))
                data[at : at + length] = other[start : start + length]
        yield bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_makes_a_parser_fail_in_a_way_it_does_not_document(name: str) -> None:
    target, kept = TARGETS[name], sorted((CORPUS / name).glob("*"))
    inputs = [*target.seeds, *(path.read_bytes() for path in kept)]
    refused = 0
    for data in (b"", *inputs, *mutated(inputs, random.Random(name))):
        try:
            target.run(data)
        except target.errors:
            refused += 1
    assert refused < len(inputs) + MUTATIONS + 1, "all of it was refused: the seeds are worth nothing"
