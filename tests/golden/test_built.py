"""What is generated and committed is what the code builds today, and asks only for metrics and labels that exist."""

import ast
import importlib.util
import json
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import promql_parser
import pytest
import yaml

import lastgood
from lastgood.alerts.rules import build as build_rules
from lastgood.alerts.rules import document
from lastgood.cli.config import schema
from lastgood.dashboards import aibi, from_tables
from lastgood.dashboards.boards import BOARDS
from lastgood.dashboards.grafana import build as build_board
from lastgood.record.exported import CATALOGUE, SERIES, VERDICTS
from lastgood.record.verdict import State
from lastgood.settings import Settings, load

ROOT = Path(__file__).parents[2]
RULES = ROOT / "conf" / "prometheus" / "lastgood.rules.yml"
COMMANDS = (
    "run: uv run lastgood rules build --out conf/prometheus; uv run lastgood dashboards build --out dashboards/built"
)
SPECIAL = {"le", "alertname", "policy", "window", "job"}


def board(uid: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "dashboards" / "built" / f"{uid}.json").read_text())
    return found


def test_rules_are_what_the_policies_give() -> None:
    assert RULES.read_text() == build_rules(Settings()), COMMANDS


@pytest.mark.parametrize("one", BOARDS, ids=lambda one: one.uid)
def test_boards_are_what_the_code_gives(one: Any) -> None:
    assert (ROOT / "dashboards" / "built" / f"{one.uid}.json").read_text() == build_board(one, Settings()), COMMANDS


def test_the_databricks_dashboard_is_what_the_code_gives_and_names_what_its_queries_say() -> None:
    found = json.loads((ROOT / "dashboards" / "built" / "lastgood.lvdash.json").read_text())
    assert found == json.loads(aibi.build("main.lastgood")), COMMANDS
    board = (ROOT / "dashboards" / "built" / "lastgood-tables.json").read_text()
    assert board == from_tables.build("main.lastgood"), COMMANDS
    datasets = {one["name"] for one in found["datasets"]}
    taken: set[tuple[int, int]] = set()
    for one in found["pages"][0]["layout"]:
        widget, place = one["widget"], one["position"]
        (query,) = widget["queries"]
        assert query["query"]["datasetName"] in datasets
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["width"]) for j in range(place["height"])}
        assert not cells & taken and place["x"] + place["width"] <= 6, "widgets do not overlap on a grid of 6 columns"
        taken |= cells


def test_the_schema_is_that_of_the_settings_and_takes_the_example() -> None:
    assert (ROOT / "conf" / "lastgood.schema.json").read_text() == schema(), "run: make built"
    example = yaml.safe_load((ROOT / "conf" / "lastgood.example.yaml").read_text())
    assert load(ROOT / "conf" / "lastgood.example.yaml").endpoints.keys() == example["endpoints"].keys()
    valid = jsonschema_rs.validator_for(json.loads(schema())).is_valid
    assert valid(example)
    assert not valid(example | {"storag": "x"})
    assert not valid(example | {"window_s": "soon"})


def selectors(node: Any) -> Iterator[Any]:
    """All vector selectors of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
        return
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
        if (inner := getattr(node, name, None)) is not None:
            yield from selectors(inner)
    for inner in getattr(node, "args", None) or ():
        yield from selectors(inner)


def check(query: str, recorded: dict[str, set[str]]) -> set[str]:
    """Metrics that a query uses; each must be exported or recorded, with the labels it is asked for."""
    plain = query.replace("$__rate_interval", "5m").replace("$endpoint", "chat").replace("$version", "2")
    found = list(selectors(promql_parser.parse(plain)))
    assert found, query
    for one in found:
        labels = set(SERIES[one.name].labels) if one.name in SERIES else recorded.get(one.name)
        assert labels is not None, f"{one.name} of {query} is neither exported nor recorded"
        asked = {matcher.name for matcher in one.matchers.matchers}
        assert asked <= labels | SPECIAL, f"{asked - labels} of {one.name} in {query}"
    for by in re.findall(r"by \(([^)]*)\)", plain):
        known = {
            label for one in found for label in (SERIES[one.name].labels if one.name in SERIES else recorded[one.name])
        }
        assert set(re.split(r",\s*", by)) <= known | SPECIAL, query
    return {one.name for one in found}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def recorded() -> dict[str, set[str]]:
    return {
        rule["record"]: {"endpoint"} | ({"model_version"} if "model_version" in rule["expr"] else set())
        for rule in rules()
        if "record" in rule
    }


def test_every_query_of_every_board_asks_for_what_exists_and_every_metric_is_shown() -> None:
    used: set[str] = set()
    for one in BOARDS:
        for panel in board(one.uid)["panels"]:
            assert panel["description"], panel["title"]
            for target in panel["targets"]:
                used |= check(target["expr"], recorded())
    shown = {SERIES[name].name for name in used if name in SERIES}
    shown |= {
        SERIES[name].name
        for rule in rules()
        if rule.get("record") in used
        for name in check(rule["expr"], recorded())
        if name in SERIES
    }
    missing = {one.name for one in CATALOGUE if not one.off_board} - shown
    assert missing == set()
    assert {one.name for one in CATALOGUE if one.off_board} & shown == set()


def test_every_rule_asks_for_what_exists_and_says_what_to_do() -> None:
    runbooks = (ROOT / "docs" / "runbooks.md").read_text()
    for rule in rules():
        check(rule["expr"], recorded())
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("page", "ticket")
            assert set(rule["annotations"]) == {"summary", "runbook_url", "evidence_url"}
            assert rule["annotations"]["runbook_url"].endswith(f"#{rule['alert'].lower()}")
            assert f"\n## {rule['alert']}\n" in runbooks


def test_boards_fit_the_grid_and_their_ids_are_their_own() -> None:
    for one in BOARDS:
        found = board(one.uid)
        assert found["uid"] == one.uid
        cells: set[tuple[int, int]] = set()
        for panel in found["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not mine & cells, panel["title"]
            cells |= mine
            assert panel["type"] in ("stat", "timeseries", "table")
            assert panel["datasource"]["uid"] == "${datasource}"


def test_what_is_marked_over_a_board_is_of_the_endpoints_that_are_chosen_on_it() -> None:
    for one in BOARDS:
        marked = board(one.uid)["annotations"]["list"]
        assert {annotation["name"] for annotation in marked} >= {"Rollback verdicts", "Pages"} | (
            {"Deploys"} if one.scoped else set()
        )
        for annotation in marked:
            check(annotation["expr"], recorded())
            assert ('endpoint=~"$endpoint"' in annotation["expr"]) == one.scoped


def test_verdicts_are_words_in_their_colours_and_every_panel_says_when_it_is_empty() -> None:
    (verdict,) = [panel for panel in board("lastgood-fleet")["panels"] if panel["title"] == "Verdict"]
    (mapping,) = verdict["fieldConfig"]["defaults"]["mappings"]
    said = {options["text"]: options["color"] for options in mapping["options"].values()}
    assert set(said) == {str(state) for state in State} and said["Page"] != said["Healthy"] == "green"
    assert {mapping["options"][str(value)]["text"] for state, value in VERDICTS.items() if state is State.PAGE} == {
        "Page"
    }
    for one in BOARDS:
        for panel in board(one.uid)["panels"]:
            assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
            for target in panel["targets"]:
                assert panel["type"] == "table" or target["legendFormat"], panel["title"]


def test_no_link_of_a_board_or_a_rule_leads_to_an_example() -> None:
    for path in (RULES, *(ROOT / "dashboards" / "built").glob("*.json")):
        assert "example.com" not in path.read_text(), path


def test_an_endpoint_with_a_policy_of_its_own_has_rules_of_its_own() -> None:
    settings = load(endpoints={"a.b": {"policy": {"error_slo": 0.001}}, "plain": {}})
    groups = {group["name"]: group["rules"] for group in document(settings)["groups"]}
    own, others = groups["lastgood-objectives-a.b"], groups["lastgood-objectives-default"]
    assert 'endpoint="a.b"' in own[0]["expr"]
    assert "14.4 * 0.001" in own[0]["expr"]
    assert 'endpoint!~"a\\\\.b"' in others[0]["expr"]
    for rule in (*own, *others):
        promql_parser.parse(rule["expr"])


VAGUE = {"one", "found", "said", "mine", "there", "came"}


def test_names_in_production_code_say_what_they_hold() -> None:
    """No variable or parameter is called `one`, `found`, ...: a reader who opens a function in the middle must know what it holds."""
    vague = []
    for room in ("lastgood", "alerts", "collectors", "dashboards", "jobs"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                name = getattr(node, "id", None) if isinstance(node, ast.Name) else getattr(node, "arg", None)
                if isinstance(node, ast.Name | ast.arg) and name in VAGUE:
                    vague.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert not vague


def test_no_function_is_longer_than_a_screen() -> None:
    long = []
    for room in ("lastgood", "alerts", "collectors", "dashboards", "jobs"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                    and (node.end_lineno or 0) - node.lineno >= 60
                ):
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not long


def test_no_module_hides_a_name_that_its_package_gives() -> None:
    """Imported, a module takes the place of a function of its name in the package: who imports that gets the module."""
    hidden = []
    for package in pkgutil.walk_packages(lastgood.__path__, "lastgood."):
        spec = importlib.util.find_spec(package.name)
        if not package.ispkg or spec is None or spec.origin is None:
            continue
        imports = [
            node for node in ast.walk(ast.parse(Path(spec.origin).read_text())) if isinstance(node, ast.ImportFrom)
        ]
        given = {
            alias.name
            for node in imports
            for alias in node.names
            if node.module not in (package.name, f"{package.name}.{alias.name}")
        }
        hidden += [
            f"{package.name}.{module.name}"
            for module in pkgutil.iter_modules([str(Path(spec.origin).parent)])
            if module.name in given
        ]
    assert hidden == []
