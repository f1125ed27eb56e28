"""Acknowledged means on disk, on a real file system: processes whose machine loses power at any moment, again and again.

Every fsync of a file or folder is copied into a tree beside it, as far as it is durable then. After a kill that tree is all that is left: bytes
and names that nobody synced are gone. Only Python code syncs here (delta-rs never does), so `os` is where it is seen.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from soak import scaled, seed

from lastgood.tables import delta

DURABLE = """
import json, os, stat
root, kept = os.environ["LIVE"], os.environ["KEPT"]
real_fsync, real_fdatasync = os.fsync, os.fdatasync
held_open = [os.open(f"{at}/{name}", os.O_RDONLY) for at, _, names in os.walk(root) for name in names]  # else their numbers are given again
known = {os.fstat(fd).st_ino for fd in held_open}

def durable(fd):
    path = os.readlink(f"/proc/self/fd/{fd}")
    if not (path + "/").startswith(root + "/"):
        return
    held = os.fstat(fd)
    if stat.S_ISREG(held.st_mode):
        data = open(f"/proc/self/fd/{fd}", "rb").read()
        if held.st_ino not in known:
            known.add(held.st_ino)
            held_open.append(os.dup(fd))
    else:
        names = {entry.name: [entry.is_dir(), entry.inode()] for entry in os.scandir(path)}
        data = json.dumps(names).encode()
    draft = f"{kept}/{os.getpid()}"
    with open(draft, "wb") as file:
        file.write(data)
    os.rename(draft, f"{kept}/{held.st_ino}")

def fsync(fd):
    real_fsync(fd)
    durable(fd)

def fdatasync(fd):
    real_fdatasync(fd)
    durable(fd)

os.fsync, os.fdatasync = fsync, fdatasync
"""


def lose_power(live: Path, kept: Path) -> None:
    """What is left of the tree: from its root, the names of folders that were synced, with the bytes of files that were."""
    synced = {int(file.name): file.read_bytes() for file in kept.iterdir() if file.name.isdigit()}

    def restored(number: int, where: Path) -> None:
        for name, (folder, inner) in json.loads(synced.get(number, b"{}")).items():
            if folder:
                (where / name).mkdir()
                restored(inner, where / name)
            else:
                (where / name).write_bytes(synced.get(inner, b""))

    root = live.stat().st_ino
    after = live.with_name("after")
    after.mkdir()
    restored(root, after)
    shutil.rmtree(live)
    after.rename(live)
    shutil.rmtree(kept)
    kept.mkdir()
    for path in (live, *live.rglob("*")):  # what is left is on disk
        names = {each.name: [each.is_dir(), each.stat().st_ino] for each in path.iterdir()} if path.is_dir() else None
        (kept / str(path.stat().st_ino)).write_bytes(path.read_bytes() if names is None else json.dumps(names).encode())


WORK = """
import sys, threading
from datetime import UTC, datetime
from pathlib import Path
from lastgood.collectors.otlp import spool
from lastgood.collectors.otlp.columns import TraceDecoder
from lastgood.collectors.otlp.drain import Drain
from lastgood.collectors.otlp.spool import Record, Spool, identity
import test_spool
base, first = Path(sys.argv[1]), int(sys.argv[2])
writer = Spool(base / "data" / "spool", 2_000, 1 << 40)
identity(base / "data" / "spool")
drain = Drain(base / "data" / "spool", str(base / "tables" / "inbox"), str(base / "tables" / "scores"), TraceDecoder(), compact_every=3)
for i in range(first, first + 100_000):
    writer.append([test_spool.record(f"r{i}")])
    print(i, flush=True)
    if i % 7 == 0:
        writer.seal()
        drain.step()
"""


@pytest.mark.scaled
def test_a_machine_that_loses_power_keeps_what_was_acknowledged_once(tmp_path: Path) -> None:
    r, acknowledged = random.Random(seed(7)), set[int]()
    live, kept = tmp_path / "live", tmp_path / "kept"
    live.mkdir()
    kept.mkdir()
    (tmp_path / "sync.py").write_text(DURABLE + WORK)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"LIVE": str(live), "KEPT": str(kept), "PYTHONPATH": path}
    for life in range(scaled(5)):
        command = [sys.executable, str(tmp_path / "sync.py"), str(live), str(life * 100_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            for _, line in zip(range(r.randint(5, 120)), process.stdout, strict=False):
                acknowledged.add(int(line))
            time.sleep(r.random() / 20)
            process.kill()
            acknowledged |= {int(line) for line in process.stdout.read().split("\n")[:-1]}
        lose_power(live, kept)
    drained = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[2:] = ['0']\n" + WORK.partition("for i in")[0] + "writer.seal()\nwhile drain.step(): pass",
         str(live), "0"], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert drained.returncode == 0, drained.stderr[-2000:]
    stored = [
        json.loads(str(row["request_id"])[1:])
        for row in delta.read(live / "tables" / "inbox", ["request_id"]).to_pylist()
    ]
    assert acknowledged <= set(stored), sorted(acknowledged - set(stored))[:5]
    assert len(stored) == len(set(stored)), sorted(i for i in set(stored) if stored.count(i) > 1)
    assert len(acknowledged) > 50
