"""The file that declares an endpoint (a Databricks bundle's YAML, Terraform's HCL) -> the patch that makes it agree with a rollback.

Only the numbers of `traffic_percentage` change, where they stand: comments and layout stay. Sources: Databricks Asset Bundles,
`resources.model_serving_endpoints.*.config.traffic_config.routes`; Terraform provider databricks, `databricks_model_serving`.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lastgood.alerts.records import Incident
from lastgood.alerts.rollback.plan import Plan
from lastgood.errors import RefusedError
from lastgood.settings import Settings

ROUTE_NAMES = ("served_entity_name", "served_model_name")
_RESOURCE = re.compile(r'resource\s+"databricks_model_serving\w*"\s+"[^"]+"\s*\{')
_ROUTES = re.compile(r"\broutes\s*\{([^{}]*)\}")
_HCL_NAME = re.compile(r'\b(?:served_entity_name|served_model_name)\s*=\s*"([^"]*)"')
_HCL_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*+"?|/\*.*?(?:\*/|\Z)|(?:#|//)[^\n]*', re.DOTALL)
"""Also where the end is missing: nothing is looked at twice."""
_HCL_SHARE = re.compile(r"\btraffic_percentage\s*=\s*(\d+)")


@dataclass(frozen=True)
class Share:
    """Where a file says how much a served entity takes: per cent, and the number's place in the text."""

    entity: str
    percent: int
    start: int
    end: int


@dataclass(frozen=True)
class Patch:
    """`diff`: unified, for `git apply`. `title`, `body`: of a pull request."""

    diff: str
    title: str
    body: str

    def __str__(self) -> str:
        return f"{self.title}\n\n{self.body}\n{self.diff}"


def source(path: Path | None, endpoint: str) -> tuple[str, str]:
    """Text and name of the file that declares an endpoint. Errors: RefusedError with the reason there is none."""
    if path is None:
        raise RefusedError(f"endpoints.{endpoint}.source_file names no file that declares the endpoint")
    try:
        with path.open(newline="") as file:  # line ends stay as they are: a patch must fit them
            return file.read(), _in_repository(path)
    except (OSError, ValueError) as error:
        raise RefusedError(f"{path} cannot be read: {error}") from error


def _in_repository(path: Path) -> str:
    """The file as Git names it: relative to the folder that holds `.git`."""
    whole = path.resolve()
    root = next((folder for folder in whole.parents if (folder / ".git").exists()), whole.parent)
    return whole.relative_to(root).as_posix()


def patch_of(settings: Settings, incident: Incident, plan: Plan) -> Patch:
    """The patch of an incident's rollback, with a link to its page. Errors: RefusedError when there is none, and why."""
    path = settings.endpoint(plan.endpoint).source_file
    link = f"{settings.web.base_url.rstrip('/')}/incidents/{incident.id}"
    return make_patch(*source(path, plan.endpoint), plan, incident.verdict["reason"], link)


def declared(text: str, file: str, endpoint: str) -> list[Share]:
    """The endpoint's routes as a file declares them. Errors: RefusedError (it is not declared there, or not in a way that is understood)."""
    shares = list(_terraform(text, endpoint) if file.endswith(".tf") else _bundle(text, file, endpoint))
    if not shares:
        raise RefusedError(f"{file} declares no routes of the endpoint {endpoint}")
    return shares


def make_patch(text: str, file: str, plan: Plan, reason: str, link: str = "") -> Patch:
    """The change of `file` that a rollback needs to last. Errors: RefusedError when a person must write it."""
    shares = {share.entity: share for share in declared(text, file, plan.endpoint)}
    moved = {name: share for name, share in plan.traffic_after.items() if share != plan.traffic_before.get(name, 0)}
    if missing := sorted(name for name, share in moved.items() if name not in shares and share):
        raise RefusedError(f"{file} has no route to {', '.join(missing)}: add the served entity and its route by hand")
    changed = text
    for share in sorted(shares.values(), key=lambda share: -share.start):
        wanted = plan.traffic_after.get(share.entity, share.percent)
        changed = changed[: share.start] + str(wanted) + changed[share.end :]
    if changed == text:
        raise RefusedError(f"{file} declares what the rollback made already")
    lines = difflib.unified_diff(text.splitlines(True), changed.splitlines(True), f"a/{file}", f"b/{file}")
    diff = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return Patch(
        diff, f"Roll {plan.endpoint} back to version {plan.prior_version}", _body(file, shares, plan, reason, link)
    )


def _body(file: str, shares: Mapping[str, Share], plan: Plan, reason: str, link: str) -> str:
    drifted = [
        f"{name}: the file said {share.percent}%, the endpoint had {plan.traffic_before.get(name, 0)}%"
        for name, share in shares.items()
        if share.percent != plan.traffic_before.get(name, 0)
    ]
    lines = [
        f"Version {plan.bad_version} of {plan.endpoint} was rolled back to version {plan.prior_version}: {reason}.",
        "",
        *(f"- {line}" for line in plan.diff()),
        "",
        f"Until this is merged, the next deploy of {file} brings version {plan.bad_version} back.",
    ]
    lines += (
        ["", "The file did not agree with the endpoint before the rollback:", *(f"- {line}" for line in drifted)]
        if drifted
        else []
    )
    return "\n".join([*lines, *(["", f"Evidence: {link}"] if link else []), ""])


def undone_by(text: str, file: str, endpoint: str, refused: Mapping[str, str]) -> str:
    """One sentence when the next deploy of a file gives traffic to a version that was rolled back; empty otherwise.

    `refused`: served entity -> version, of versions that were rolled back. Errors: RefusedError.
    """
    for share in declared(text, file, endpoint):
        if share.percent and share.entity in refused:
            version = refused[share.entity]
            return f"{file} gives {share.percent}% to version {version}, which was rolled back: the next deploy brings it back"
    return ""


def _bundle(text: str, file: str, endpoint: str) -> Iterator[Share]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise RefusedError(f"{file} is no YAML: {error}") from error
    endpoints = _items(_at(root, "resources", "model_serving_endpoints"))
    named = [(key, node) for key, node in endpoints if _scalar(_at(node, "name")) == endpoint]
    for key, node in named or (
        endpoints if len(endpoints) == 1 else ()
    ):  # a name with variables: the only one is meant
        for target, overrides in _items(_at(root, "targets")):
            if _at(overrides, "resources", "model_serving_endpoints", key, "config") is not None:
                raise RefusedError(
                    f"{file}: the target {target} overrides the endpoint's configuration: a person must write the patch"
                )
        routes = _at(node, "config", "traffic_config", "routes")
        for route in routes.value if isinstance(routes, yaml.SequenceNode) else ():
            yield _route(text, file, node, route)


def _route(text: str, file: str, endpoint: Any, route: Any) -> Share:
    """Errors: RefusedError for anchors, merges, variables: whatever is not a name and a number where they stand."""
    name = next((value for key in ROUTE_NAMES if (value := _scalar(_at(route, key)))), None)
    share = _at(route, "traffic_percentage")
    if name and isinstance(share, yaml.ScalarNode) and share.value.isdigit():
        start, end = share.start_mark.index, share.end_mark.index
        inside = endpoint.start_mark.index <= start < endpoint.end_mark.index
        if inside and text[start:end].strip("\"'") == share.value:
            quote = (end - start - len(share.value)) // 2
            return Share(name, int(share.value), start + quote, end - quote)
    line = route.start_mark.line + 1
    raise RefusedError(f"{file}, line {line}: the route is not a name and a number: a person must write the patch")


def _items(node: Any) -> list[tuple[str, Any]]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [(key.value, value) for key, value in pairs if isinstance(key, yaml.ScalarNode)]


def _at(node: Any, *path: str) -> Any:
    for name in path:
        node = dict(_items(node)).get(name)
    return node


def _scalar(node: Any) -> str | None:
    return str(node.value) if isinstance(node, yaml.ScalarNode) else None


def _terraform(text: str, endpoint: str) -> Iterator[Share]:
    code = _HCL_COMMENT.sub(lambda match: match[0] if match[0].startswith('"') else " " * len(match[0]), text)
    end = 0
    for opening in _RESOURCE.finditer(code):
        if opening.start() < end:  # resources do not stand in one another: a brace is missing
            continue
        start, end = opening.end(), _closing(code, opening.end())
        if not re.search(rf'^\s*name\s*=\s*"{re.escape(endpoint)}"', _top_level(code[start:end]), re.MULTILINE):
            continue
        for route in _ROUTES.finditer(code, start, end):
            name, share = _HCL_NAME.search(route[1]), _HCL_SHARE.search(route[1])
            if not name or not share:
                line = text.count("\n", 0, route.start()) + 1
                raise RefusedError(
                    f"line {line}: the routes block is not a name and a number: a person must write the patch"
                )
            at = route.start(1)
            yield Share(name[1], int(share[1]), at + share.start(1), at + share.end(1))


def _top_level(block: str) -> str:
    """A block without the blocks inside it."""
    kept, depth = [], 0
    for character in block:
        depth -= character == "}"
        kept.append(character if depth == 0 else " ")
        depth += character == "{"
    return "".join(kept)


def _closing(code: str, start: int) -> int:
    """Where the block that was opened before `start` ends. Braces in strings come in pairs (`${...}`)."""
    depth = 1
    for brace in re.compile(r"[{}]").finditer(code, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.start()
    return len(code)
