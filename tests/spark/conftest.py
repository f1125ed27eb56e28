"""A job context over an empty store."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from jobs_support import START, WINDOW_S

from lastgood.settings import load
from lastgood.tables import Store
from lastgood.tables.runs import Context


@pytest.fixture
def make(spark: Any, store: Store) -> Callable[..., Context]:
    """A context over an empty store; several by name."""

    def context(name: str = "one", now: datetime = START + timedelta(hours=1), **settings: Any) -> Context:
        mine = Store(f"{store.location}/{name}")
        mine.ensure(spark)
        return Context(spark, mine, load(storage=mine.location, window_s=WINDOW_S, **settings), lambda: now)

    return context
