"""What the controller's tests share: a house of the given mode and workspace."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from alerts_support import Build, House, MemoryWorkspace, endpoint, settings

from lastgood.settings import Mode


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    with ExitStack() as stack:

        def make(mode: Mode = Mode.AUTO, workspace: Any = None, **policy: Any) -> House:
            built = House(tmp_path, workspace or MemoryWorkspace(endpoint("2", "3")), settings(mode, **policy))
            stack.callback(built.close)
            return built

        yield make
