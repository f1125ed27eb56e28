"""The bundle: every resource by the classes that Databricks generates from its published schema, and what the platform's tools refuse or miss."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from databricks.bundles.apps import App
from databricks.bundles.database_instances import DatabaseInstance
from databricks.bundles.jobs import Job
from databricks.bundles.schemas import Schema
from databricks.bundles.secret_scopes import SecretScope
from databricks.bundles.volumes import Volume
from typer.testing import CliRunner

from lastgood.cli.app import app as cli
from lastgood.cli.app_folder import make, stamped
from lastgood.cli.bundle import INSTANCE, STORAGE, Answers, files
from lastgood.errors import ConfigError, RefusedError
from lastgood.service.loop import JOBS
from lastgood.settings import is_catalog, load

ROOT = Path(__file__).parents[2]
KINDS: dict[str, Any] = {
    "jobs": Job, "schemas": Schema, "volumes": Volume, "apps": App, "secret_scopes": SecretScope, "database_instances": DatabaseInstance,
}  # fmt: skip
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
OTHER = Answers("prod_ml", "watch", {"a": None, "b": "x.y.b_payload", "c": None}, "ml-ops", "auto")


class Bundle:
    """A bundle's files as read, and what a target makes of them."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts
        self.root: dict[str, Any] = yaml.safe_load(texts["databricks.yml"])
        parts = [
            yaml.safe_load(text) for path, text in texts.items() if path.endswith(".yml") and path.startswith("conf/")
        ]
        self.parts: list[dict[str, Any]] = parts
        self.resources = [
            (kind, name, one)
            for part in parts
            for kind, group in part["resources"].items()
            for name, one in group.items()
        ]

    def of(self, kind: str) -> dict[str, Any]:
        return {name: one for other, name, one in self.resources if other == kind}

    def target(self, name: str) -> dict[str, dict[str, Any]]:
        """kind.name -> resource, with the target's overrides and variables in force."""
        target = self.root["targets"][name]
        values = {key: one.get("default") for key, one in self.root["variables"].items()} | target.get("variables", {})
        overrides = {
            f"{kind}.{key}": one for kind, group in target.get("resources", {}).items() for key, one in group.items()
        }
        prefix = "dev_ann_" if target["mode"] == "development" else ""
        made = {}
        for kind, key, one in self.resources:
            merged = resolved(one, values) | resolved(overrides.get(f"{kind}.{key}", {}), values)
            if kind in ("schemas", "jobs"):
                merged["name"] = prefix + merged["name"]
            made[f"{kind}.{key}"] = merged
        return {
            key: resolved(one, {f"resources.{k}.name": v["name"] for k, v in made.items()}) for key, one in made.items()
        }


def resolved(value: Any, values: dict[str, Any]) -> Any:
    """References to variables (var.x) and to names (resources.kind.x.name) put in."""
    if isinstance(value, dict):
        return {key: resolved(one, values) for key, one in value.items()}
    if isinstance(value, list):
        return [resolved(one, values) for one in value]
    if isinstance(value, str):
        return re.sub(
            r"\$\{(?:var\.)?([^}]+)\}", lambda m: str(values[m[1]]) if values.get(m[1]) is not None else m[0], value
        )
    return value


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str):
        yield value


def wheel(dist: Path, code: str = "1", version: str = "0.1.0") -> Path:
    """A wheel as a build writes it."""
    dist.mkdir(parents=True, exist_ok=True)
    info = f"lastgood-{version}.dist-info"
    path = dist / f"lastgood-{version}-py3-none-any.whl"
    with ZipFile(path, "w") as target:
        target.writestr("lastgood/__init__.py", code)
        target.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.4\nName: lastgood\nVersion: {version}\n\nVersion: 0.1.0\n"
        )
        target.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        target.writestr(f"{info}/RECORD", "")
    return path


BUNDLES = {"default": Bundle(files(Answers())), "other": Bundle(files(OTHER))}


@pytest.fixture(params=BUNDLES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return BUNDLES[request.param]


def test_the_repositorys_bundle_is_what_the_default_answers_make() -> None:
    for path, text in files(Answers()).items():
        assert (ROOT / path).read_text() == text, path


def test_a_resource_has_only_fields_and_values_of_the_schema(bundle: Bundle) -> None:
    assert {kind for kind, _, _ in bundle.resources} == set(KINDS)
    for kind, _, one in bundle.resources:
        assert KINDS[kind].from_dict(one).as_dict().keys() >= one.keys() - {"permissions", "grants"}
        with pytest.raises(ValueError, match="Unexpected field"):
            KINDS[kind].from_dict(one | {"no_such_field": 1})


def test_the_bundle_itself_names_only_what_a_bundle_has_and_three_targets(bundle: Bundle) -> None:
    assert set(bundle.root) <= ROOTS
    assert {name: one["mode"] for name, one in bundle.root["targets"].items()} == {
        "dev": "development", "staging": "production", "prod": "production",
    }  # fmt: skip
    assert [name for name, one in bundle.root["targets"].items() if one.get("default")] == ["dev"]


def test_no_run_as_stands_beside_the_app_and_every_job_of_production_has_its_own(bundle: Bundle) -> None:
    """The CLI: apps do not support a run_as user that is different from the owner."""
    assert "run_as" not in bundle.root
    for name, target in bundle.root["targets"].items():
        assert "run_as" not in target
        for key, one in bundle.target(name).items():
            if key.startswith("jobs."):
                assert ("run_as" in one) == (name != "dev"), (name, key)
                Job.from_dict(one)
            else:
                assert "run_as" not in one


@pytest.mark.parametrize("target", ["dev", "staging", "prod"])
def test_who_runs_the_jobs_may_make_the_tables_in_every_target(bundle: Bundle, target: str) -> None:
    """Where nobody grants it, the first run of the first job ends with a missing CREATE TABLE."""
    values = bundle.root["targets"][target].get("variables", {})
    runner = values.get("service_principal", "${var.service_principal}")
    grants = {
        grant["principal"]: set(grant["privileges"]) for grant in bundle.target(target)["schemas.tables"]["grants"]
    }
    assert grants[runner] >= {"USE_SCHEMA", "SELECT", "MODIFY", "CREATE_TABLE"}
    assert runner.startswith("${workspace.current_user") == (target == "dev")


@pytest.mark.parametrize("target", ["dev", "staging", "prod"])
def test_jobs_app_and_schema_mean_the_same_tables_and_the_same_state_in_every_target(
    bundle: Bundle, target: str
) -> None:
    made = bundle.target(target)
    schema, state = made["schemas.tables"], made["database_instances.state"]["name"]
    storage = f"{schema['catalog_name']}.{schema['name']}"
    given = [
        dict(pair.split("=", 1) for pair in parameters[parameters.index("--set") + 1 :] if "=" in pair)
        for key, one in made.items() if key.startswith("jobs.")
        for task in one["tasks"]
        for parameters in [resolved(task["python_wheel_task"]["parameters"], {"resources.schemas.tables.catalog_name": schema["catalog_name"]})]
    ]  # fmt: skip
    assert given
    assert {one["storage"] for one in given} == {storage}
    assert {one["state_instance"] for one in given} == {state}
    environment = {one["name"]: one.get("value") for one in made["apps.service"]["config"]["env"]}
    assert (
        resolved(environment["LASTGOOD_STORAGE"], {"resources.schemas.tables.catalog_name": schema["catalog_name"]})
        == storage
    )
    assert environment["LASTGOOD_STATE_INSTANCE"] == state
    assert storage.startswith("prod_ml." if bundle is BUNDLES["other"] else "main.")


def test_nothing_but_the_bundle_names_the_schema(bundle: Bundle) -> None:
    for path, text in bundle.texts.items():
        if path != "databricks.yml":
            settings = yaml.safe_load(text)
            assert not {"storage", "state_url"} & set(settings), path
    assert (STORAGE in str(bundle.parts), INSTANCE in str(bundle.parts)) == (True, True)


def test_every_reference_leads_somewhere(bundle: Bundle) -> None:
    known = {f"resources.{kind}.{name}" for kind, name, _ in bundle.resources}
    names = {one for text in [*texts(bundle.root), *texts(bundle.parts)] for one in re.findall(r"\$\{([^}]+)\}", text)}
    for name in names:
        root = name.split(".")[0]
        if root == "var":
            assert name.removeprefix("var.") in bundle.root["variables"], name
        elif root == "resources":
            assert ".".join(name.split(".")[:3]) in known, name
        else:
            assert name in {"bundle.name", "bundle.target", "workspace.file_path", "workspace.current_user.userName"}, (
                name
            )
    for target in bundle.root["targets"].values():
        assert set(target.get("variables", {})) <= set(bundle.root["variables"])


def test_every_task_runs_a_job_there_is_in_an_environment_there_is_after_tasks_there_are(bundle: Bundle) -> None:
    run = []
    for name, one in bundle.of("jobs").items():
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
            assert f'postgres = ["{env["spec"]["dependencies"][1]}"]' in (ROOT / "pyproject.toml").read_text()
            assert (ROOT / "conf" / "bundle" / env["spec"]["dependencies"][0]).resolve().parent == ROOT / "dist"
    assert len(run) == len(set(run))
    assert set(run) == set(JOBS) - {"samples"}, "drift takes the samples"


def test_the_app_gets_what_it_needs_from_its_resources(bundle: Bundle) -> None:
    app = bundle.of("apps")["service"]
    resources = {one["name"]: one for one in app["resources"]}
    for one in app["config"]["env"]:
        if "value_from" in one:
            assert one["value_from"] in resources
        elif any(word in one["name"] for word in ("KEY", "SECRET", "TOKEN", "PASSWORD")):
            pytest.fail(f"{one['name']} is a secret in plain text")
    endpoints = [one["serving_endpoint"] for one in resources.values() if "serving_endpoint" in one]
    watched = yaml.safe_load(bundle.texts["conf/bundle/lastgood.yaml"])["endpoints"]
    assert {one["name"]: one["permission"] for one in endpoints} == dict.fromkeys(watched, "CAN_MANAGE")
    assert all(re.fullmatch(r"[a-z0-9-]{1,30}", name) for name in resources)


def test_the_app_folder_is_made_by_the_build_and_can_start(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the platform: requirements installed from the folder alone, the command run in it with the App's environment."""
    settings, dist = tmp_path / "lastgood.yaml", tmp_path / "dist"
    settings.write_text(bundle.texts["conf/bundle/lastgood.yaml"])
    with pytest.raises(ConfigError, match="no wheel"):
        make(tmp_path / "app", dist, settings)
    wheel(dist)
    app = bundle.of("apps")["service"]
    folder = (tmp_path / "conf" / "bundle" / app["source_code_path"]).resolve()
    shipped, *others = make(folder, dist, settings)
    assert shipped.name.startswith("lastgood-0.1.0+")
    assert others == [folder / name for name in ("lastgood.yaml", "requirements.txt")]
    (requirement,) = (folder / "requirements.txt").read_text().splitlines()
    assert (folder / requirement.partition("[")[0]).is_file()
    assert any(str(folder).endswith(pattern.removesuffix("/**")) for pattern in bundle.root["sync"]["include"]), (
        "ignored by Git: synced by name"
    )
    assert str(Path(app["source_code_path"]).name) in bundle.root["artifacts"]["lastgood"]["build"]
    command = app["config"]["command"]
    assert (folder / command[command.index("--config") + 1]).is_file()
    for name, value in {
        "DATABRICKS_APP_PORT": "8123", "DATABRICKS_APP_URL": "https://lastgood.example.com", "LASTGOOD_STORAGE": "main.lastgood",
        "LASTGOOD_STATE_INSTANCE": "lastgood-prod", "LASTGOOD_TABLES__WAREHOUSE_ID": "w1", "LASTGOOD_WEB__TRUST_FORWARDED_USER": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    started = load(folder / "lastgood.yaml")
    assert (started.web.host, started.web.port, started.web.base_url) == (
        "0.0.0.0",
        8123,
        "https://lastgood.example.com",
    )
    assert (started.storage, started.state_instance, started.tables.warehouse_id) == (
        "main.lastgood",
        "lastgood-prod",
        "w1",
    )
    given = {one["name"] for one in app["config"]["env"]}
    assert {name for name in os.environ if name.startswith("LASTGOOD_") and name != "LASTGOOD_REQUIRE_SERVERS"} <= given


def test_settings_given_to_a_job_are_in_force(tmp_path: Path) -> None:
    from lastgood.cli.data import _given

    path = tmp_path / "lastgood.yaml"
    path.write_text(files(Answers())["conf/bundle/lastgood.yaml"])
    settings = load(path, **_given(["storage=main.other", "state_instance=i", "tables.warehouse_id=w=1"]))
    assert (settings.storage, settings.state_instance, settings.tables.warehouse_id) == ("main.other", "i", "w=1")
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        _given(["storage"])


def test_init_asks_and_writes_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(cli, ["init", "--databricks"])
    assert isinstance(refused.exception, ConfigError)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "lastgood"\n')
    typed = "prod_ml\nwatch\na, b=x.y.b_payload, c\nml-ops\nauto\n"
    done = CliRunner().invoke(cli, ["init", "--databricks"], input=typed)
    assert done.exit_code == 0, done.output
    assert {path: (tmp_path / path).read_text() for path in files(OTHER)} == files(OTHER)
    again = CliRunner().invoke(cli, ["init", "--databricks"], input=typed.replace("watch", "other"))
    assert isinstance(again.exception, RefusedError)
    assert "databricks.yml" in str(again.exception)
    assert CliRunner().invoke(cli, ["init", "--databricks"], input=typed).exit_code == 0
    assert files(replace(OTHER, schema="other")) != files(OTHER)


def test_the_build_makes_the_folder(tmp_path: Path) -> None:
    settings = tmp_path / "conf" / "bundle" / "lastgood.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("{}")
    wheel(tmp_path / "dist")
    subprocess.run([sys.executable, "-m", "lastgood.cli.app_folder", "build/app"], cwd=tmp_path, check=True)
    assert (tmp_path / "build" / "app" / "requirements.txt").is_file()


def test_other_code_is_another_version_and_the_same_code_the_same(tmp_path: Path) -> None:
    """Jobs and App keep their environments while the version, or the text of the requirements, is the one of before."""
    settings, dist = tmp_path / "lastgood.yaml", tmp_path / "dist"
    settings.write_text("{}")

    def deployed(code: str) -> str:
        wheel(dist, code)
        make(tmp_path / "app", dist, settings)
        (kept,) = dist.glob("*.whl")
        requirement = (tmp_path / "app" / "requirements.txt").read_text()
        assert requirement == f"./{kept.name}[postgres]\n", "the jobs' wheel is the App's"
        return requirement

    first = deployed("1")
    assert deployed("2") != first
    assert deployed("1") == first
    make(tmp_path / "app", dist, settings)
    assert (tmp_path / "app" / "requirements.txt").read_text() == first, "made again without a build"


def test_a_stamped_wheel_is_one_that_installs(tmp_path: Path) -> None:
    made = stamped(wheel(tmp_path))
    target = tmp_path / "site"
    uv = shutil.which("uv")
    assert uv
    command = [uv, "pip", "install", "--no-deps", "--offline", "--target", str(target), str(made)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = distributions(path=[str(target)])
    assert f"lastgood-{found.version}-py3-none-any.whl" == made.name
    assert (target / "lastgood" / "__init__.py").read_text() == "1"
    with ZipFile(made) as source:
        record = source.read(f"lastgood-{found.version}.dist-info/RECORD").decode().splitlines()
        assert {line.split(",")[0] for line in record} == set(source.namelist())


@pytest.mark.parametrize(
    "wrong",
    [
        {"catalog": "my catalog"}, {"catalog": ""}, {"schema": "a.b"}, {"schema": "${var.x}"}, {"operators": " "}, {"endpoints": {"Größe": None}},
        {"endpoints": {"a/b": None}}, {"endpoints": {"x" * 64: None}}, {"endpoints": {"a": "two.parts"}}, {"endpoints": {"": None}},
    ],
)  # fmt: skip
def test_names_that_the_platform_does_not_take_are_refused_before_anything_is_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Answers(**wrong)


def test_names_with_dashes_and_letters_of_any_alphabet_are_taken() -> None:
    answers = Answers(
        "my-catalog", "größe_1", {"support-chat": "my-catalog.s.support-chat_payload", "b": "`a-b`.c.d"}, "ML Ops"
    )
    texts = files(answers)
    assert yaml.safe_load(texts["databricks.yml"])["variables"]["schema"]["default"] == "größe_1"
    assert is_catalog("my-catalog.größe_1")


@pytest.mark.parametrize("typed", ["=x", "a==b", "a=b=c", "a,a", "a=x.y.z,b,a"])
def test_a_list_of_endpoints_that_is_none_is_refused(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "lastgood"\n')
    done = CliRunner().invoke(cli, ["init", "--databricks"], input=f"main\nlastgood\n{typed}\n")
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "databricks.yml").exists()


def test_a_mode_that_is_none_is_a_mistake_and_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "lastgood"\n')
    done = CliRunner().invoke(cli, ["init", "--databricks"], input="main\nlastgood\na\nops\nalways\n")
    assert isinstance(done.exception, ConfigError)
    assert "observe, approve, auto" in str(done.exception)
