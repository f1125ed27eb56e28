"""`python tests/s3_jobs.py CONFIG S3_URL LOCATION`: the jobs, by a plain Spark whose schema `spark_catalog.lastgood` lies on S3: those that lead to
a verdict, again and again, until SIGTERM."""

import os
import signal
import sys
import threading
from pathlib import Path

from s3_support import OWN

from lastgood.errors import TransientError
from lastgood.jobs import spark as own
from lastgood.service import loop
from lastgood.settings import SparkSettings, load

SDK = "2.29.52"
OFTEN = ("collect", "conform", "windows", "quality", "judge")
MODULES = ("s3", "s3-transfer-manager", "sts", "apache-client", "netty-nio-client", "dynamodb", "kms")
"""What Hadoop's S3A needs of the AWS SDK: its bundle of everything is 600 MB."""
PACKAGES = (
    own.DELTA_PACKAGE,
    "org.apache.hadoop:hadoop-aws:3.4.2",
    *(f"software.amazon.awssdk:{name}:{SDK}" for name in MODULES),
)


def session(url: str, location: str) -> None:
    """Start Spark as the cluster would have it, and make the schema."""
    from pyspark.sql import SparkSession

    os.environ["JAVA_HOME"] = str(own.java_home())
    os.environ["TZ"] = "UTC"
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    options = own._options(SparkSettings(driver_memory="1g")) | {
        "spark.jars.packages": ",".join(PACKAGES), "spark.jars.excludes": "software.amazon.awssdk:bundle",
        "spark.hadoop.fs.s3a.endpoint": url, "spark.hadoop.fs.s3a.access.key": OWN["AWS_ACCESS_KEY_ID"],
        "spark.hadoop.fs.s3a.secret.key": OWN["AWS_SECRET_ACCESS_KEY"], "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": "false", "spark.hadoop.fs.s3a.endpoint.region": "us-east-1",
        "spark.hadoop.fs.s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "spark.delta.logStore.s3a.impl": "io.delta.storage.S3SingleDriverLogStore", "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
    }  # fmt: skip
    builder = SparkSession.builder.appName("lastgood").master("local[2]")
    for key, value in options.items():
        builder = builder.config(key, value)
    builder.getOrCreate().sql(f"CREATE SCHEMA IF NOT EXISTS lastgood LOCATION '{location}'")


def main(config: str, url: str, location: str) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    session(url, location)
    ctx = loop.context(load(Path(config)))

    def run(name: str) -> None:
        try:
            report = loop.run_job(ctx, name)
        except TransientError as error:
            report = {"job": name, "again": str(error)}
        except Exception as error:
            report = {"job": name, "error": f"{type(error).__name__}: {error}"[:2000]}
        print(loop.as_line(report), flush=True)

    print('{"ready": true}', flush=True)
    while not stop.is_set():
        for name in OFTEN:
            if not stop.is_set():
                run(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
