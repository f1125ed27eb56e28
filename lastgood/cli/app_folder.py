"""`python -m lastgood.cli.app_folder FOLDER`: what a Databricks App is started from, made of the newest wheel in dist/ and the bundle's settings.

The wheel gets a version that its content makes (0.1.0+HASH), for jobs and App alike. The platform keeps environments: with a version of before it
would go on with the code of before. An App says "Requirements have not changed. Skipping installation.", and pip leaves a wheel whose version it has.
"""

import base64
import hashlib
import shutil
import sys
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from lastgood.errors import ConfigError

SETTINGS = Path("conf/bundle/lastgood.yaml")
HASH_CHARS = 12


def make(folder: Path, dist: Path = Path("dist"), settings: Path = SETTINGS) -> list[Path]:
    """Stamp the newest wheel, which is the only one that stays in `dist`, and write the folder anew; its files.

    Errors: ConfigError (no wheel, no settings).
    """
    wheels = sorted(dist.glob("lastgood-*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        raise ConfigError(f"{dist}: no wheel of lastgood; run `uv build --wheel`")
    if not settings.is_file():
        raise ConfigError(f"{settings}: no such file; run `lastgood init --databricks`")
    for older in wheels[:-1]:  # jobs take `dist/*.whl`
        older.unlink()
    wheel = stamped(wheels[-1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(wheel, folder)
    shutil.copy(settings, folder / "lastgood.yaml")
    (folder / "requirements.txt").write_text(f"./{wheel.name}[postgres]\n")
    return sorted(folder.iterdir())


def stamped(wheel: Path) -> Path:
    """The wheel in a file of its own name, with the hash of its content as a local version; one that has it stays as it is.

    Format: Python packaging, Binary distribution format (RECORD) and Version specifiers (local versions).
    """
    with ZipFile(wheel) as source:
        content = {name: source.read(name) for name in source.namelist() if not name.endswith("/")}
    info = next(name for name in content if name.endswith(".dist-info/METADATA")).rpartition("/")[0]
    package, _, version = info.removesuffix(".dist-info").rpartition("-")
    if "+" in version:
        return wheel
    del content[f"{info}/RECORD"]
    whole = hashlib.sha256()
    for name in sorted(content):
        whole.update(f"{name} {_digest(content[name])}\n".encode())
    new = f"{version}+{whole.hexdigest()[:HASH_CHARS]}"
    metadata = content[f"{info}/METADATA"].replace(
        f"\nVersion: {version}\n".encode(), f"\nVersion: {new}\n".encode(), 1
    )
    content[f"{info}/METADATA"] = metadata
    moved = {name.replace(info, f"{package}-{new}.dist-info", 1): data for name, data in content.items()}
    record = f"{package}-{new}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in moved.items()]
    made = wheel.with_name(wheel.name.replace(f"-{version}-", f"-{new}-", 1))
    with ZipFile(made, "w", ZIP_DEFLATED) as target:
        for name, data in [*moved.items(), (record, "\n".join([*lines, f"{record},,", ""]).encode())]:
            target.writestr(name, data)
    wheel.unlink()
    return made


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
