"""`python -m lastgood.cli.app_folder FOLDER`: what a Databricks App is started from, made of the newest wheel in dist/ and the bundle's settings."""

import shutil
import sys
from pathlib import Path

from lastgood.errors import ConfigError

SETTINGS = Path("conf/bundle/lastgood.yaml")


def make(folder: Path, dist: Path = Path("dist"), settings: Path = SETTINGS) -> list[Path]:
    """Write the folder anew; its files. Errors: ConfigError (no wheel, no settings)."""
    wheels = sorted(dist.glob("lastgood-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        raise ConfigError(f"{dist}: no wheel of lastgood; run `uv build --wheel`")
    if not settings.is_file():
        raise ConfigError(f"{settings}: no such file; run `lastgood init --databricks`")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(wheels[-1], folder)
    shutil.copy(settings, folder / "lastgood.yaml")
    (folder / "requirements.txt").write_text(f"./{wheels[-1].name}[postgres]\n")
    return sorted(folder.iterdir())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
