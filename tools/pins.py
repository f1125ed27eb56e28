"""Write every transitive version uv has resolved into pyproject.toml as constraints (no registry host, no hashes)."""

import re
import subprocess
from pathlib import Path

root = Path(__file__).parent.parent
pyproject = root / "pyproject.toml"
EMPTY = "constraint-dependencies = []"
bare, replaced = re.subn(r"constraint-dependencies = \[[^\]]*\]", EMPTY, pyproject.read_text(), count=1)
if not replaced:
    raise SystemExit("pyproject.toml has no constraint-dependencies to replace")
pyproject.write_text(bare)
subprocess.run(["uv", "lock", "--upgrade"], cwd=root, check=True)
export = [
    "uv",
    "export",
    "--no-hashes",
    "--no-emit-project",
    "--no-header",
    "--no-annotate",
    "--all-extras",
    "--all-groups",
]
lines = subprocess.run(export, cwd=root, check=True, capture_output=True, text=True).stdout.splitlines()
pins = sorted({line.strip().replace('"', "'") for line in lines if "==" in line})
block = "constraint-dependencies = [\n" + "".join(f'    "{pin}",\n' for pin in pins) + "]"
pyproject.write_text(bare.replace(EMPTY, block))
print(f"{len(pins)} pins")
