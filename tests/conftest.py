"""What tests share: a clean environment, one Spark session, a store; real servers are needed, not replaced."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from soak import SOAKING, scaled

from lastgood.settings import SparkSettings
from lastgood.tables import Store

if TYPE_CHECKING:
    from s3_support import S3

for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "LASTGOOD_"))]:
    if name != "LASTGOOD_REQUIRE_SERVERS":
        del os.environ[name]
os.environ["DO_NOT_TRACK"] = "1"
# What a Spark of the tests costs is its start and its first plans: half of it loading 29,000 classes, a tenth compiling them well.
# Read by Spark itself, so processes that a test starts have it too.
SPARK_FOR_TESTS = {
    "SPARK_CONF_DIR": str(Path(__file__).with_name("spark_conf")),
    "SPARK_SUBMIT_OPTS": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -XX:MetaspaceSize=400m "
    "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote",
}
os.environ.update(SPARK_FOR_TESTS)
# No deadline and no check of its speed: what an example takes depends on what else runs on the machine.
hypothesis_settings.register_profile(
    "suite",
    deadline=None,
    derandomize=not SOAKING,
    max_examples=scaled(100),
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("suite")
collect_ignore = [] if os.environ.get("OTELCOL") else ["contracts/test_collector.py"]


def needs(what: str, there: bool) -> None:
    """Skip with a reason where a real server cannot run; fail instead when LASTGOOD_REQUIRE_SERVERS=1."""
    if there:
        return
    if os.environ.get("LASTGOOD_REQUIRE_SERVERS") == "1":
        pytest.fail(f"{what} is missing and LASTGOOD_REQUIRE_SERVERS=1")
    pytest.skip(f"needs {what}")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that sets a variable through the process (not monkeypatch) does not leak it into the next."""
    for name in [name for name in os.environ if name.startswith(("DATABRICKS_", "LASTGOOD_"))]:
        if name != "LASTGOOD_REQUIRE_SERVERS":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def java() -> None:
    """For tests that start Spark in a process of its own."""
    from lastgood.jobs.spark import has_java

    needs("Java (JAVA_HOME or lastgood[spark])", has_java())


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One Spark for all tests of this process; a test that needs a session of its own takes `spark.newSession()`."""
    from lastgood.jobs.spark import has_java, session

    needs("Java (JAVA_HOME or lastgood[spark])", has_java())
    shared = session(SparkSettings(mode="local", driver_memory="2g"))
    shared.conf.set("spark.sql.shuffle.partitions", "2")
    yield shared
    shared.stop()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty folder for the Delta tables."""
    return Store(str(tmp_path / "data"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A throwaway PostgreSQL cluster; a SQLAlchemy URL without a database."""
    from servers import postgres, postgres_binaries

    binaries = postgres_binaries()
    needs("PostgreSQL (Debian: postgresql)", binaries is not None)
    assert binaries is not None
    with postgres(binaries) as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """An empty database."""
    import uuid

    from sqlalchemy import create_engine, text

    name = f"t{uuid.uuid4().hex[:12]}"
    engine = create_engine(f"{postgres_server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{postgres_server}/{name}"


@pytest.fixture(scope="session")
def s3_server() -> Iterator["S3"]:
    """A real S3 server, in a process of its own."""
    from s3_support import s3_server

    with s3_server() as running:
        yield running


@pytest.fixture
def s3(s3_server: "S3") -> Iterator["S3"]:
    """The S3 server without faults."""
    s3_server.fail()
    s3_server.asked()
    yield s3_server
    s3_server.fail()
