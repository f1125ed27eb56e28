"""The deployment files name what exists: commands, ports, settings, paths. (No engine is here to run them.)"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import typer
import yaml
from conftest import needs

from lastgood.cli.app import app
from lastgood.settings import Receiver, Settings, Web

DEPLOY = Path(__file__).parents[2] / "deploy"
PORTS = {Web().port, Receiver().grpc_port, Receiver().http_port}
COMMANDS: Any = typer.main.get_command(app)


def kubernetes() -> dict[str, Any]:
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def accepts(words: list[str]) -> None:
    """The command line takes these words."""
    name, *rest = words
    COMMANDS.commands[name].make_context(name, rest, resilient_parsing=False)


def test_kubernetes_names_what_exists() -> None:
    found = kubernetes()
    settings = Settings(**yaml.safe_load(found["ConfigMap"]["data"]["lastgood.yaml"]))
    assert settings.receiver.senders, "what listens beyond loopback asks who sends"
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    accepts(container["args"])
    assert {one["containerPort"] for one in container["ports"]} == PORTS
    assert {one["port"] for one in found["Service"]["spec"]["ports"]} == PORTS
    mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    claimed = {one["metadata"]["name"] for one in found["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert set(mounted.values()) == {one["name"] for one in pod["volumes"]} | claimed
    assert mounted["/data"] in claimed, "spool and tables outlive the pod"
    assert str(settings.receiver.spool).startswith("/data/") and settings.storage.startswith("/data/")
    labels = found["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    for selector in (found["Service"]["spec"]["selector"], found["StatefulSet"]["spec"]["selector"]["matchLabels"]):
        assert selector.items() <= labels.items()


def test_the_container_starts_the_service_as_nobody() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    said = {line.split()[0]: line.partition(" ")[2] for line in lines if line and line.split()[0].isupper()}
    accepts(yaml.safe_load(said["CMD"]))
    assert said["ENTRYPOINT"] == '["lastgood"]'
    assert {int(one) for one in said["EXPOSE"].split()} == PORTS
    pod = kubernetes()["StatefulSet"]["spec"]["template"]["spec"]
    assert int(said["USER"]) == pod["securityContext"]["runAsUser"] != 0


def test_the_unit_is_one() -> None:
    unit = DEPLOY / "lastgood.service"
    command = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    assert command
    accepts(shlex.split(command[1])[1:])
    needs("systemd-analyze (Debian: systemd)", shutil.which("systemd-analyze") is not None)
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    wrong = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert wrong == []
