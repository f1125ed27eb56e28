"""What inputs cost against their size: no regular expression and no parser of the product takes more than linear time.

Patterns are matched in C, where nothing can be counted: their processor time is taken, over a range of sizes in which a square would be 64 times
as much. Parsers are measured by the lines of Python that they execute, which is exact, and by processor time for what they leave to C.
"""

import ast
import importlib
import itertools
import pkgutil
import re
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from re import _constants as kinds  # type: ignore[attr-defined]
from re import _parser as grammar  # type: ignore[attr-defined]
from typing import Any

import pytest

import lastgood
from fuzz.targets import TARGETS

ROOT = Path(lastgood.__file__).parents[1]
FOLDERS = ("lastgood", "alerts", "collectors", "jobs", "dashboards")
SIZES = (1_500, 3_000, 6_000, 12_000)
LINEAR = 3.0
"""Times the cost of an input that is twice as long may be, three doublings on end; of a square it is 4."""
LINEAR_AT_ONCE = 2.6
"""One doubling that costs less is taken for linear."""
LEAST_S = 0.004
"""What takes less at the largest size is not measured."""
# patterns


LEFT_OUT = ("migrations", "__main__", "lastgood.workspace.local")
"""The local workspace stands in for Databricks in the demo and in tests: it reads what Lastgood itself writes."""


def modules() -> Iterator[types.ModuleType]:
    for found in pkgutil.walk_packages(lastgood.__path__, "lastgood."):
        if not any(part in found.name for part in LEFT_OUT):
            yield importlib.import_module(found.name)


def held(value: Any, depth: int = 0) -> Iterator[re.Pattern[Any]]:
    """Compiled patterns in a module's values, also within containers."""
    if isinstance(value, re.Pattern):
        yield value
    elif depth < 3 and isinstance(value, dict):
        for part in value.values():
            yield from held(part, depth + 1)
    elif depth < 3 and isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from held(part, depth + 1)


def written() -> Iterator[tuple[str, str]]:
    """Patterns that stand as texts in calls of `re`."""
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and isinstance(node.func.value, ast.Name)
                ):
                    first = node.args[0] if node.args else None
                    if node.func.value.id == "re" and isinstance(first, ast.Constant) and isinstance(first.value, str):
                        method = node.func.attr
                        yield first.value, method if method in ("match", "fullmatch", "compile") else "sub"


def patterns() -> dict[str, tuple[re.Pattern[Any], set[str]]]:
    """Each pattern, and how it is matched. One that no call names is matched in every way that its module knows."""
    found: dict[str, tuple[re.Pattern[Any], set[str]]] = {}
    for text, method in written():
        found.setdefault(text, (re.compile(text), set()))[1].add(method)
    elsewhere: dict[str, set[str]] = {}
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for name, methods in used(path).items():
            elsewhere.setdefault(name, set()).update(methods)
    for module in modules():
        own = used(Path(str(module.__file__)))
        for name, value in list(vars(module).items()):
            for pattern in held(value):
                text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
                how = own.get(name) or elsewhere.get(name) or own[""]
                found.setdefault(text, (pattern, set()))[1].update(how)
    return {text: (pattern, (methods - {"compile"}) or {"sub"}) for text, (pattern, methods) in found.items()}


def letters(tree: Any) -> set[str]:
    """Characters that the pattern names: those of its literals, the ends of its ranges, one of each class."""
    chars: set[str] = set()
    for op, value in tree:
        if op in (kinds.LITERAL, kinds.NOT_LITERAL):
            chars.add(chr(value))
        elif op is kinds.IN:
            chars |= letters(value)
        elif op is kinds.RANGE:
            chars.add(chr(value[0]))
        elif op is kinds.CATEGORY:
            chars.add({kinds.CATEGORY_DIGIT: "7", kinds.CATEGORY_SPACE: " ", kinds.CATEGORY_WORD: "w"}.get(value, "~"))
        elif op in (kinds.MAX_REPEAT, kinds.MIN_REPEAT, kinds.POSSESSIVE_REPEAT):
            chars |= letters(value[2])
        elif op is kinds.SUBPATTERN:
            chars |= letters(value[3])
        elif op is kinds.BRANCH:
            for branch in value[1]:
                chars |= letters(branch)
        elif op in (kinds.ASSERT, kinds.ASSERT_NOT):
            chars |= letters(value[1])
    return chars


def literals(tree: Any) -> list[str]:
    """Runs of literals, as they stand one behind another."""
    runs, run = [], ""
    for op, value in tree:
        if op is kinds.LITERAL:
            run += chr(value)
            continue
        runs.append(run)
        run = ""
        if op in (kinds.MAX_REPEAT, kinds.MIN_REPEAT):
            runs += literals(value[2])
        elif op is kinds.SUBPATTERN:
            runs += literals(value[3])
        elif op is kinds.BRANCH:
            for branch in value[1]:
                runs += literals(branch)
    return [each for each in [*runs, run] if each]


def attacks(pattern: re.Pattern[Any]) -> list[str]:
    """What is said again and again: each character and run that the pattern names, pairs of them, and a few others."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    tree = grammar.parse(text, pattern.flags & ~re.UNICODE if isinstance(pattern.pattern, bytes) else pattern.flags)
    singles = sorted(letters(tree))[:14]
    words = list(dict.fromkeys(each for each in literals(tree) if len(each) > 1))[:8]
    others = [" ", "0", "a", "\n", "\t ", "a.", "a-", "a@", "-1", "A ", "é"]
    pairs = [a + b for a in singles[:7] for b in singles[:7] if a != b]
    return list(
        dict.fromkeys([*singles, *words, *(word + part for word in words for part in (" ", "a")), *others, *pairs])
    )


def seconds(act: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(2):
        began = time.thread_time()
        act()
        best = min(best, time.thread_time() - began)
        if best > 0.2:
            break
    return best


def superlinear(cost: Callable[[int], float], least: float) -> list[float]:
    """Costs at SIZES where they grow by more than LINEAR with each doubling; empty for what is linear, or so cheap that it can be no square."""
    first, second = cost(SIZES[0]), cost(SIZES[1])
    if second < least or second < LINEAR_AT_ONCE * first:
        return []
    costs = [first, second, *(cost(size) for size in SIZES[2:])]
    return costs if costs[-1] / costs[0] > LINEAR ** (len(SIZES) - 1) else []


def used(path: Path) -> dict[str, set[str]]:
    """Name of a variable -> how it is matched in a file: searched for (`sub`), at the start, or as a whole; "": whatever has no name there."""
    calls: dict[str, set[str]] = {"": set()}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in METHODS:
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name != "re":
                method = node.attr if node.attr in ("match", "fullmatch") else "sub"
                calls.setdefault(name, set()).add(method)
                calls[""].add(method)
    return calls


METHODS = ("match", "fullmatch", "search", "sub", "finditer", "findall", "split")
PATTERNS = patterns()


@pytest.mark.parametrize("text", PATTERNS, ids=lambda text: text[:60])
def test_no_pattern_costs_more_than_linear_time(text: str) -> None:
    pattern, methods = PATTERNS[text]
    in_bytes = isinstance(pattern.pattern, bytes)
    words = literals(grammar.parse(text, pattern.flags & ~re.UNICODE if in_bytes else pattern.flags))
    slow = {}
    for word in attacks(pattern):
        for start in ("", words[0] if words else "\n"):
            for method in sorted(methods):

                def cost(size: int, word: str = word, start: str = start, method: str = method) -> float:
                    whole = start + word * (size // len(word)) + "\x00"
                    given: Any = whole.encode() if in_bytes else whole
                    nothing: Any = b"" if in_bytes else ""
                    return seconds(
                        (lambda: pattern.sub(nothing, given))
                        if method == "sub"
                        else lambda: getattr(pattern, method)(given)
                    )

                if costs := superlinear(cost, LEAST_S):
                    slow[method, start + word] = [round(each * 1000, 1) for each in costs]
    assert slow == {}, f"milliseconds at {SIZES}"


def test_the_measure_tells_a_square_from_a_line() -> None:
    square, line = re.compile("a+b"), re.compile("a+")
    assert superlinear(lambda size: seconds(lambda: square.search("a" * size)), LEAST_S)
    assert not superlinear(lambda size: seconds(lambda: line.search("a" * size)), LEAST_S)


# parsers


def grown(seed: bytes, size: int) -> Iterator[bytes]:
    """A seed made as large as `size`: all of it, each quarter of it, or a sign in the middle of it, again and again."""
    yield seed * (size // len(seed) + 1)
    quarter = max(1, len(seed) // 4)
    for at in range(0, len(seed), quarter):
        part = seed[at : at + quarter]
        yield seed[:at] + part * (size // len(part)) + seed[at + quarter :]
    half = len(seed) // 2
    for sign in SIGNS:
        yield seed[:half] + sign * (size // len(sign)) + seed[half:]
        yield sign * (size // len(sign))


SIGNS = (b"[", b"{", b'"', b"\\", b" ", b"a", b"7", b"\n", b'{"a":', b",", b"\x1e", b"\n\n- ", b"/*", b"&a ", b"\xff")


def lines(act: Callable[[], object]) -> int:
    """How many lines of Python it executes."""
    count = 0

    def trace(frame: types.FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", TARGETS)
def test_no_parser_costs_more_than_linear_time(name: str) -> None:
    target, slow = TARGETS[name], {}

    def tried(data: bytes) -> None:
        try:
            target.run(data)
        except target.errors:
            return

    for seed in target.seeds[:3]:
        for i, _ in enumerate(grown(seed, SIZES[0])):

            def given(size: int, seed: bytes = seed, i: int = i) -> bytes:
                return next(itertools.islice(grown(seed, size), i, None))

            def cost(size: int) -> float:
                data = given(size)
                return seconds(lambda: tried(data))

            tried(given(500))  # what is imported or compiled first
            if costs := superlinear(cost, PARSER_LEAST_S):
                few, many = (lines(lambda size=size: tried(given(size))) for size in (SIZES[0], SIZES[2]))
                slow[i, seed[:30]] = [round(each * 1000, 1) for each in costs], few, many
    assert slow == {}, f"milliseconds at {SIZES}, lines at {SIZES[0]} and {SIZES[2]}"


PARSER_LEAST_S = 0.02
