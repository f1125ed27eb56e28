"""A rollback reaches Git: the file that declares the endpoint gets a patch that `git apply` takes and that changes numbers alone."""

import json
import subprocess
from pathlib import Path

import pytest
from alerts_support import START, House, MemoryWorkspace, endpoint, entity, settings
from typer.testing import CliRunner

from lastgood.alerts.rollback.git import declared, make_patch, undone_by
from lastgood.alerts.rollback.plan import Plan, Snapshot, make_plan
from lastgood.cli.app import app
from lastgood.errors import RefusedError
from lastgood.service.protection import Facts, problems
from lastgood.settings import EndpointSettings, Mode

BUNDLE = """\
# the serving endpoints of the team
resources:
  model_serving_endpoints:
    other:
      name: other
      config:
        traffic_config: {routes: [{served_model_name: chat-3, traffic_percentage: 100}]}
    chat:
      name: "chat"   # keep
      config:
        served_entities:
          - {name: chat-2, entity_name: prod.ml.chat, entity_version: "2"}
          - {name: chat-3, entity_name: prod.ml.chat, entity_version: "3"}
        traffic_config:
          routes:
            - served_model_name: chat-2
              traffic_percentage: 0   # was 100 before the release
            - {traffic_percentage: 100, served_entity_name: chat-3}
"""
TERRAFORM = """\
resource "databricks_model_serving" "other" {
  name = "other"
  config { traffic_config { routes { served_model_name = "chat-3" traffic_percentage = 100 } } }
}
resource "databricks_model_serving" "this" {
  name = "chat"
  tags { key = "owner" value = "${var.owner}" }
  config {
    traffic_config {
      routes {
        served_model_name  = "chat-2"
        traffic_percentage = 0
      }
      routes {
        served_model_name  = "chat-3"
        traffic_percentage = 100 # all
      }
    }
  }
}
"""
FILES = {"serving.yml": BUNDLE, "main.tf": TERRAFORM}


def plan() -> Plan:
    return make_plan(endpoint("2", "3"), "3", "2", refused=(), snapshot=None, reasons=("errors",), now=START)


@pytest.mark.parametrize("file", FILES)
def test_git_applies_the_patch_and_only_two_numbers_change(tmp_path: Path, file: str) -> None:
    text = FILES[file]
    patch = make_patch(text, file, plan(), "version 3 fails", "https://lastgood/incidents/1")
    (tmp_path / file).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, check=True, input=patch.diff.encode())
    after = (tmp_path / file).read_text()
    assert {share.entity: share.percent for share in declared(after, file, "chat")} == {"chat-2": 100, "chat-3": 0}
    assert {share.entity: share.percent for share in declared(after, file, "other")} == {"chat-3": 100}, (
        "not the other endpoint"
    )
    changed = [a for a, b in zip(text.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 2 and all("traffic_percentage" in line for line in changed)
    assert "the next deploy" in patch.body and "https://lastgood/incidents/1" in patch.body
    assert patch.title == "Roll chat back to version 2"


def test_what_the_file_said_otherwise_is_in_the_request() -> None:
    drifted = BUNDLE.replace("traffic_percentage: 0 ", "traffic_percentage: 10 ").replace(
        "percentage: 100, served", "percentage: 90, served"
    )
    assert "chat-3: the file said 90%, the endpoint had 100%" in make_patch(drifted, "b.yml", plan(), "x").body


@pytest.mark.parametrize(
    ("text", "file", "why"),
    [
        ("resources: {}", "b.yml", "declares no routes"),
        ("a: [", "b.yml", "is no YAML"),
        ("variable x {}", "a.tf", "declares no routes"),
        (
            BUNDLE.replace("percentage: 100, served", "percentage: 0, served").replace(
                "percentage: 0 ", "percentage: 100 "
            ),
            "b.yml",
            "already",
        ),
    ],
)
def test_what_cannot_be_patched_is_refused_in_words(text: str, file: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        make_patch(text, file, plan(), "x")


def test_a_version_that_is_put_back_and_not_in_the_file_needs_a_person() -> None:
    put_back = make_plan(
        endpoint("3"),
        "3",
        "1",
        refused=(),
        snapshot=Snapshot("chat", 5, "1", dict(entity("1").settings)),
        reasons=("errors",),
        now=START,
    )
    with pytest.raises(RefusedError, match="has no route to chat-1: add the served entity"):
        make_patch(BUNDLE, "b.yml", put_back, "x")


def test_a_name_with_a_variable_is_understood_where_one_endpoint_is_declared() -> None:
    alone = BUNDLE[: BUNDLE.index("    other:")] + BUNDLE[BUNDLE.index("    chat:") :]
    assert len(declared(alone.replace('"chat"', "chat-${bundle.target}"), "b.yml", "chat")) == 2


def test_a_deploy_that_would_undo_a_rollback_is_told(tmp_path: Path) -> None:
    path = tmp_path / "serving.yml"
    path.write_text(BUNDLE)
    config = settings(Mode.AUTO)
    chat = EndpointSettings.model_validate(config.endpoint("chat").model_dump() | {"source_file": path})
    house = House(
        tmp_path, MemoryWorkspace(endpoint("2", "3")), config.model_copy(update={"endpoints": {"chat": chat}})
    )
    house.controller.observe_endpoints()
    assert house.controller.undone == {}
    house.verdict()
    house.tick_until(lambda rollback: rollback.state.ended)
    details = house.notifier.events[0]["payload"]["custom_details"]
    assert "its next deploy undoes" in details["declared in"]
    house.controller.observe_endpoints()
    assert "gives 100% to version 3, which was rolled back" in house.controller.undone["chat"]
    told = problems(Facts(START, START, undone=house.controller.undone))
    assert "the next deploy brings it back" in told["source"]
    with house.store.read() as tx:
        (incident,) = tx.incidents()
    file = tmp_path / "lastgood.yaml"
    file.write_text(f"storage: {tmp_path}\nstate_url: {house.url}\nendpoints: {{chat: {{source_file: {path}}}}}\n")
    shown = CliRunner().invoke(app, ["incident", "patch", incident.id, "--json", "--config", str(file)])
    path.write_text(subprocess_patch(tmp_path, path, json.loads(shown.output)["diff"]))
    house.controller.observe_endpoints()
    assert house.controller.undone == {}, "merged"
    house.close()


def subprocess_patch(folder: Path, path: Path, diff: str) -> str:
    """The file after `patch -p1` of a diff that names it."""
    target = folder / "merged.yml"
    target.write_text(path.read_text())
    subprocess.run(["patch", "-s", str(target)], input=diff.encode(), check=True)
    return target.read_text()


def test_undone_by_names_only_versions_that_were_rolled_back() -> None:
    assert undone_by(BUNDLE, "b.yml", "chat", {"chat-2": "2"}) == ""
    assert "version 3" in undone_by(BUNDLE, "b.yml", "chat", {"chat-3": "3"})


OVERRIDDEN = (
    BUNDLE
    + "targets:\n  prod:\n    resources:\n      model_serving_endpoints:\n        chat: {config: {traffic_config: {routes: []}}}\n"
)
VARIABLE = BUNDLE.replace(
    "traffic_percentage: 100, served_entity_name", 'traffic_percentage: "${var.share}", served_entity_name'
)
ANCHORED = BUNDLE.replace("traffic_percentage: 0 ", "traffic_percentage: &none 0 ")
MERGED = BUNDLE.replace(
    "- {traffic_percentage: 100, served_entity_name: chat-3}", "- {<<: *r, served_entity_name: chat-3}"
).replace("- {name: chat-2,", "- &r {name: chat-2,")
HCL_VARIABLE = TERRAFORM.replace("traffic_percentage = 100 # all", "traffic_percentage = var.share")


@pytest.mark.parametrize(
    ("text", "file"),
    [(OVERRIDDEN, "b.yml"), (VARIABLE, "b.yml"), (ANCHORED, "b.yml"), (MERGED, "b.yml"), (HCL_VARIABLE, "a.tf")],
    ids=["target", "variable", "anchor", "merge", "hcl variable"],
)
def test_half_a_patch_is_never_written(text: str, file: str) -> None:
    with pytest.raises(RefusedError, match="a person must write the patch"):
        make_patch(text, file, plan(), "x")


def test_comments_and_other_blocks_are_not_the_endpoint() -> None:
    noisy = TERRAFORM.replace(
        "        traffic_percentage = 100 # all",
        "        # traffic_percentage = 50 }\n        traffic_percentage = 100 # all",
    ).replace('  name = "other"', '  name = "other"\n  served_entities { name = "chat" }')
    noisy = "/* " + TERRAFORM.replace("/*", "").replace("*/", "") + " */\n" + noisy
    shares = {share.entity: noisy[share.start : share.end] for share in declared(noisy, "a.tf", "chat")}
    assert shares == {"chat-2": "0", "chat-3": "100"}
    patched = make_patch(noisy, "a.tf", plan(), "x").diff
    assert patched.count("\n+") - 1 == 2 and "-        # traffic" not in patched


@pytest.mark.parametrize("file", FILES)
def test_windows_line_ends_and_quoted_numbers_are_patched_where_they_stand(tmp_path: Path, file: str) -> None:
    from lastgood.alerts.rollback.git import source

    text = FILES[file].replace("traffic_percentage: 100, served", 'traffic_percentage: "100", served')
    folder = tmp_path / "repo" / "sub"
    folder.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "repo", check=True)
    path = folder / file
    path.write_bytes(text.replace("\n", "\r\n").encode())
    patch = make_patch(*source(path, "chat"), plan(), "x")
    subprocess.run(["git", "apply", "-"], cwd=tmp_path / "repo", check=True, input=patch.diff.encode())
    after = path.read_bytes().decode()
    assert {share.entity: share.percent for share in declared(after, file, "chat")} == {"chat-2": 100, "chat-3": 0}
    assert after.count("\r\n") == text.count("\n")
