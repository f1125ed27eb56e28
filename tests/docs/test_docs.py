"""The documentation: the site builds strictly, the reference is what the code says, and every command on every page is run."""

import json
import random
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cli_support import lastgood

from lastgood.dashboards.boards import BOARDS
from lastgood.settings import Policy
from lastgood.workspace import local
from tools import reference

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "adr" not in path.parts)
BLOCK = re.compile(r"^ *```bash\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
ELSEWHERE = {
    "lastgood demo": "tests/scenarios/test_demo.py", "lastgood init --databricks": "tests/pure/test_bundle.py",
}  # fmt: skip
"""Commands that take minutes, or work in a clone, and have a test of their own."""
ON_A_WORKSPACE = ("databricks-app",)
"""Pages whose commands need a workspace: tests/pure/test_bundle.py and tests/scenarios play them against the local one."""
ON_SPARK = ("lastgood job", "lastgood check", "lastgood forget")


def commands(page: Path) -> list[str]:
    return [line.strip() for block in BLOCK.findall(page.read_text()) for line in block.splitlines() if line.strip()]


def test_the_site_builds_and_no_link_of_it_leads_nowhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "How the judge decides" in (tmp_path / "site" / "explanation" / "judge" / "index.html").read_text()


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    assert (ROOT / "docs" / "reference" / f"{name}.md").read_text() == reference.build(name), "run: make built"


def requests(path: Path) -> None:
    r, start = random.Random(1), datetime(2026, 3, 1, 12, tzinfo=UTC)
    rows = [
        {
            "endpoint": "chat", "model_version": r.choice("12"), "requested_at": (start + timedelta(seconds=i)).isoformat(),
            "latency_ms": r.lognormvariate(5, 0.5), "error_code": "HTTP_500" if r.random() < 0.01 else None, "requester": f"u{r.randrange(99)}",
        }
        for i in range(3_000)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


@pytest.mark.parametrize(
    "page", [one for one in PAGES if commands(one) and one.stem not in ON_A_WORKSPACE], ids=lambda one: one.stem
)
def test_every_command_of_the_page_works(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if any(line.startswith(ON_SPARK) for line in commands(page)):
        request.getfixturevalue("spark")
    monkeypatch.chdir(tmp_path)
    requests(tmp_path / "requests.jsonl")
    catalog = local.LocalCatalog({"main.lastgood": str(tmp_path / "tables")})
    with local.serve(local.LocalConfig(catalog=catalog)) as space:
        if "--databricks" in page.read_text():  # what its reader has: a clone, and the App's identity
            (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
            environment = {
                "DATABRICKS_HOST": space.url, "DATABRICKS_TOKEN": space.token, "LASTGOOD_STORAGE": "main.lastgood",
                "LASTGOOD_STATE_URL": f"sqlite:///{tmp_path}/state.db", "LASTGOOD_LINK_KEY": "k" * 32,
            }  # fmt: skip
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
        if "lastgood init" not in page.read_text():
            (tmp_path / "conf").mkdir()
            document = {
                "workspace": {"host": space.url, "token_env": "LASTGOOD_LOCAL_TOKEN"}, "endpoints": {local.CHAT: {}},
                "storage": str(tmp_path / "data"),
            }  # fmt: skip
            (tmp_path / "conf" / "lastgood.yaml").write_text(yaml.safe_dump(document))
        monkeypatch.setenv("LASTGOOD_LOCAL_TOKEN", space.token)
        for line in commands(page):
            words = shlex.split(line.removeprefix("uv run "))
            if elsewhere := next((file for prefix, file in ELSEWHERE.items() if line.startswith(prefix)), None):
                assert words[1] in (ROOT / elsewhere).read_text()
                continue
            assert words[0] == "lastgood", line
            # The tests' Spark was started in another folder than the reader's shell.
            given = [str(tmp_path / word) if (tmp_path / word).is_file() else word for word in words[1:]]
            code, out, err = lastgood(capsys, *given)
            assert code == 0, f"{line}\n{out}\n{err[-3000:]}"


def test_each_promise_names_a_test_that_is_there() -> None:
    folders = {"S": "tests/scenarios", "P": "tests/pure", "C": "tests/contracts"}
    page = (ROOT / "docs" / "explanation" / "rollback.md").read_text()
    promises = re.findall(r"`((?:[SPC]|tests/real)/test_\w+\.py)(?:::(\w+))?`", page)
    assert len(promises) > 25
    for path, name in promises:
        short, _, file = path.partition("/")
        source = ROOT / folders[short] / file if short in folders else ROOT / path
        assert f"def {name}" in source.read_text(), path


def test_the_readme_is_one_screen_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 50
    for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
        assert (ROOT / target).exists(), target


def test_the_architecture_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in re.findall(r"`((?:lastgood|alerts|jobs|collectors|dashboards|tests|docs)/[\w/.]+)`", text):
        assert list(ROOT.glob(f"{path}*")), path


def test_every_plot_of_a_ratio_is_defined_by_its_formula() -> None:
    page = (ROOT / "docs/reference/figures.md").read_text()
    plots = {
        plot.title
        for board in BOARDS
        if board.title != "Lastgood / Lastgood itself"
        for plot in board.plots(Policy())
        if any("/" in query for query, _ in plot.queries)
    }
    assert plots
    assert {title for title in plots if title.split(",")[0] not in page} == set()
    tests = {
        name.strip()
        for line in page.splitlines()
        if line.startswith("| ")
        for name in line.rsplit("|", 2)[1].split(",")
    } - {"test", ""}
    there_are = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert tests - there_are == set()


@pytest.mark.parametrize("page", ["promises", "threat-model"])
def test_every_test_that_a_promise_names_is_there(page: str) -> None:
    text = (ROOT / "docs" / "explanation" / f"{page}.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text))
    assert len(named) > 15
    for path, test in named:
        source = (ROOT / path).read_text()
        assert not test or f"def {test}(" in source, f"{path}::{test}"
