"""A validation error and the YAML it came from -> one sentence: line, key, what is wrong, the nearest valid name (pure)."""

import types
import typing
from collections import deque
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

Location = Sequence[str | int]


def line_of(text: str, location: Location, *, exact: bool = False) -> int | None:
    """The line (1 is the first) of the key that `location` names; where the file lacks it, of the nearest one above it (`exact`: None)."""
    try:
        node = yaml.compose(text)
    except yaml.YAMLError:
        return None
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if pair is None:
                return None if exact else line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return None if exact else line
    return line


def parsed(text: str) -> Any:
    """A YAML document in which no key stands twice. Errors: ValueError. PyYAML lets errors of what it makes of a scalar through: a date
    with a 13th month, `!!bool maybe`."""
    try:
        document = yaml.safe_load(text)
        twice = key_twice(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"not valid YAML: {error}") from error
    if twice:
        raise ValueError(twice)
    return document


def key_twice(text: str) -> str | None:
    """The first key that a mapping holds twice, in words. YAML takes the last one in silence. Errors: yaml.YAMLError."""
    waiting, seen = deque([yaml.compose(text)]), set[int]()
    while waiting:
        node = waiting.popleft()
        if id(node) in seen:  # an alias: what it stands for may hold aliases in turn, and itself
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if key.value in lines and key.tag != "tag:yaml.org,2002:merge":
                    return f"line {line}: {key.value} is set twice, in line {lines[key.value]} too; keep one of them"
                lines[str(key.value)] = line
                waiting.append(value)
    return None


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models an annotation can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) is None and not isinstance(annotation, types.UnionType):
        return []
    return [model for argument in typing.get_args(annotation) for model in models_of(argument)]


def names_at(model: type[BaseModel], location: Location) -> list[str]:
    """The settings that exist where `location` is: the names its last part could have had."""
    here = [model]
    for part in location[:-1]:
        known = [model for model in here if str(part) in model.model_fields]
        if known:  # else: a name of the user's own, or a place in a list
            here = [inner for model in known for inner in models_of(model.model_fields[str(part)].annotation)]
    return sorted({name for model in here for name in model.model_fields})


def sentence(error: ValidationError, model: type[BaseModel], text: str) -> str:
    """The first mistake. Of an unknown key the nearest names that exist are said."""
    first = error.errors()[0]
    location = [part for part in first["loc"] if part != "[key]"]
    line = line_of(text, location)
    where = f"line {line}: " if line else ""
    key = ".".join(str(part) for part in location)
    if first["type"] != "extra_forbidden":
        return f"{where}{key}: {first['msg']} (found {first.get('input')!r:.80})"
    names = names_at(model, location)
    near = get_close_matches(str(location[-1]), names, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    return f"{where}{key}: there is no such setting; {hint}"
