"""The bundle: every resource by the classes that Databricks generates from its published schema, and what the validator misses."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from databricks.bundles.apps import App
from databricks.bundles.jobs import Job
from databricks.bundles.schemas import Schema
from databricks.bundles.secret_scopes import SecretScope
from databricks.bundles.volumes import Volume

from lastgood.service.loop import JOBS
from lastgood.settings import load

ROOT = Path(__file__).parents[2]
KINDS: dict[str, Any] = {"jobs": Job, "schemas": Schema, "volumes": Volume, "apps": App, "secret_scopes": SecretScope}
BUNDLE = yaml.safe_load((ROOT / "databricks.yml").read_text())
PARTS = {
    path.name: yaml.safe_load(path.read_text()) for pattern in BUNDLE["include"] for path in sorted(ROOT.glob(pattern))
}
RESOURCES = [
    (kind, name, one)
    for part in PARTS.values()
    for kind, group in part["resources"].items()
    for name, one in group.items()
]
ROOTS = {
    "bundle",
    "include",
    "variables",
    "artifacts",
    "targets",
    "resources",
    "workspace",
    "run_as",
    "permissions",
    "sync",
}


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize(("kind", "name", "one"), RESOURCES, ids=[f"{kind}.{name}" for kind, name, _ in RESOURCES])
def test_a_resource_has_only_fields_and_values_of_the_schema(kind: str, name: str, one: dict[str, Any]) -> None:
    assert KINDS[kind].from_dict(one).as_dict().keys() >= one.keys() - {"permissions", "grants"}
    with pytest.raises(ValueError, match="Unexpected field"):
        KINDS[kind].from_dict(one | {"no_such_field": 1})


def test_the_bundle_itself_names_only_what_a_bundle_has_and_three_targets() -> None:
    assert set(BUNDLE) <= ROOTS
    assert set(BUNDLE["targets"]) == {"dev", "staging", "prod"}
    assert [one["mode"] for one in BUNDLE["targets"].values()] == ["development", "production", "production"]
    assert [name for name, one in BUNDLE["targets"].items() if one.get("default")] == ["dev"]
    assert {kind for kind, _, _ in RESOURCES} == set(KINDS)


def test_every_reference_leads_somewhere() -> None:
    known = {f"resources.{kind}.{name}" for kind, name, _ in RESOURCES}
    names = {one for text in [*texts(BUNDLE), *texts(PARTS)] for one in re.findall(r"\$\{([^}]+)\}", text)}
    for name in names:
        root = name.split(".")[0]
        if root == "var":
            assert name.removeprefix("var.") in BUNDLE["variables"], name
        elif root == "resources":
            assert ".".join(name.split(".")[:3]) in known, name
        else:
            assert name in {"bundle.name", "workspace.file_path"}, name
    for target in BUNDLE["targets"].values():
        assert set(target.get("variables", {})) <= set(BUNDLE["variables"])


def test_every_task_runs_a_job_there_is_in_an_environment_there_is_after_tasks_there_are() -> None:
    run = []
    for name, one in PARTS["jobs.yml"]["resources"]["jobs"].items():
        environments = {env["environment_key"] for env in one["environments"]}
        tasks = {task["task_key"] for task in one["tasks"]}
        for task in one["tasks"]:
            wheel = task["python_wheel_task"]
            assert task["environment_key"] in environments
            assert {before["task_key"] for before in task.get("depends_on", [])} <= tasks - {task["task_key"]}
            assert (wheel["package_name"], wheel["entry_point"], wheel["parameters"][0]) == (
                "lastgood",
                "lastgood",
                "job",
            )
            run.append(wheel["parameters"][1])
        if "schedule" in one:
            fields = one["schedule"]["quartz_cron_expression"].split()
            assert len(fields) in (6, 7), name
            assert fields.count("?") == 1, name
        for env in one["environments"]:
            assert (ROOT / "conf" / "bundle" / env["spec"]["dependencies"][0]).resolve().parent == ROOT / "dist"
    assert len(run) == len(set(run))
    assert set(run) == set(JOBS) - {"samples"}, "drift takes the samples"


def test_the_jobs_settings_are_settings_and_the_app_gets_secrets_by_reference_only() -> None:
    settings = load(ROOT / "conf" / "bundle" / "lastgood.yaml")
    assert settings.spark.mode == "databricks"
    app = PARTS["app.yml"]["resources"]["apps"]["service"]
    given = {one["name"]: one.get("value_from") for one in app["config"]["env"]}
    known = {one["name"] for one in app["resources"]}
    for name, source in given.items():
        if any(word in name for word in ("KEY", "SECRET", "TOKEN", "STATE")):
            assert source in known, name
    assert (ROOT / "conf" / "bundle" / app["source_code_path"]).is_dir()
