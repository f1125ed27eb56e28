"""Where the tables are: how one is named, made, read and grown; what is new in one."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lastgood.errors import ConfigError
from lastgood.record import telemetry
from lastgood.tables import delta
from lastgood.tables.catalogue import ALL, Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_UC_NAME = re.compile(r"[A-Za-z0-9_\-]+\.[A-Za-z0-9_\-]+")


def is_path(where: str) -> bool:
    """Whether a table is given by its folder, not by its catalog name."""
    return "/" in where or not where.count(".")


def sql_name(where: str) -> str:
    """How SQL names a table given by folder or catalog name."""
    return f"delta.`{where}`" if is_path(where) else where


def literal(text: str) -> str:
    """A text as a SQL literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def changes(spark: "SparkSession", where: str, after: int, until: int) -> "DataFrame":
    """Rows of a table changed in versions (after, until], with _change_type, _commit_version, _commit_timestamp.

    Errors: ConfigError when the table keeps no change data feed.
    """
    if not keeps_changes(spark, where):
        fix = f"ALTER TABLE {sql_name(where)} SET TBLPROPERTIES (delta.enableChangeDataFeed = true)"
        raise ConfigError(f"{where} keeps no change data feed, so what is new cannot be read; run: {fix}")
    reader = (
        spark.read.option("readChangeFeed", "true").option("startingVersion", after + 1).option("endingVersion", until)
    )
    return reader.format("delta").load(where) if is_path(where) else reader.table(where)


def keeps_changes(spark: "SparkSession", where: str) -> bool:
    """Whether the table has a change data feed; a view or a shared table that does not show its properties has none."""
    from pyspark.errors import PySparkException

    if is_path(where):
        return delta.keeps_changes(where)
    try:
        feed = spark.sql(f"SHOW TBLPROPERTIES {where}").where("key = 'delta.enableChangeDataFeed'").collect()
    except PySparkException:
        return False
    return bool(feed) and feed[0]["value"] == "true"


def version(spark: "SparkSession", where: str) -> int:
    """The newest version of a Delta table. Folders are asked without Spark: a command there costs a second."""
    if is_path(where):
        newest = delta.version(where)
        if newest is None:
            raise ConfigError(f"{where}: there is no Delta table")
        return newest
    return int(spark.sql(f"DESCRIBE HISTORY {where} LIMIT 1").collect()[0]["version"])


def identity(spark: "SparkSession", where: str) -> str:
    """What makes a table another than one of the same name before."""
    if is_path(where):
        return delta.identity(where) or ""
    return str(spark.sql(f"DESCRIBE DETAIL {where}").collect()[0]["id"])


def read(spark: "SparkSession", where: str) -> "DataFrame":
    """The rows of a Delta table."""
    return spark.read.format("delta").load(where) if is_path(where) else spark.read.table(where)


def exists(spark: "SparkSession", where: str) -> bool:
    """Whether there is such a Delta table."""
    return delta.version(where) is not None if is_path(where) else bool(spark.catalog.tableExists(where))


def as_of(spark: "SparkSession", where: str, version: int) -> "DataFrame":
    """A Delta table's rows in one of its versions."""
    reader = spark.read.option("versionAsOf", version)
    return reader.format("delta").load(where) if is_path(where) else reader.table(where)


@dataclass(frozen=True)
class Store:
    """Where the tables are: a folder (local path or /Volumes) or a Unity Catalog `catalog.schema`."""

    location: str

    @property
    def in_catalog(self) -> bool:
        return "/" not in self.location and bool(_UC_NAME.fullmatch(self.location))

    def where(self, table: Table) -> str:
        """The table's folder, or its catalog name."""
        return f"{self.location}.{table.name}" if self.in_catalog else self.path(table)

    def path(self, table: Table) -> str:
        """The table's folder. Errors: ConfigError in a catalog, where tables have names instead."""
        return f"{self.folder}/{table.name}"

    @property
    def folder(self) -> str:
        """Errors: ConfigError in a catalog."""
        if self.in_catalog:
            raise ConfigError(f"storage {self.location} is a catalog; this needs a folder")
        return self.location.rstrip("/")

    def sql(self, table: Table) -> str:
        """How SQL names the table."""
        return sql_name(self.where(table))

    def read(self, spark: "SparkSession", table: Table) -> "DataFrame":
        return spark.read.table(self.sql(table))

    def changes(self, spark: "SparkSession", table: Table, after: int, until: int) -> "DataFrame":
        """See `changes`."""
        return changes(spark, self.where(table), after, until)

    def version(self, spark: "SparkSession", table: Table) -> int:
        """See `version`."""
        return version(spark, self.where(table))

    def identity(self, spark: "SparkSession", table: Table) -> str:
        """See `identity`."""
        return identity(spark, self.where(table))

    def ensure(self, spark: "SparkSession", *tables: Table) -> None:
        """Create missing tables; add columns that an existing one lacks (never drops or retypes one).

        Errors: ConfigError when an existing column has another type.
        """
        for table in tables or ALL:
            if not self.in_catalog and delta.version(self.path(table)) is None:
                delta.create(self.path(table), telemetry.arrow_schema(table.fields), table.partition_by)
                continue
            feed = "TBLPROPERTIES (delta.enableChangeDataFeed = true)" if table.change_feed else ""
            parts = f"PARTITIONED BY ({', '.join(table.partition_by)})" if table.partition_by else ""
            name = self.sql(table)
            spark.sql(
                f"CREATE TABLE IF NOT EXISTS {name} ({telemetry.spark_ddl(table.fields)}) USING delta {parts} {feed}"
            )
            have = dict(self.read(spark, table).dtypes)
            for field in table.fields:
                if field.name in have and have[field.name] != field.type:
                    raise ConfigError(
                        f"{name}: column {field.name} is {have[field.name]}, expected {field.type}; move the table away"
                    )
            missing = [field for field in table.fields if field.name not in have]
            if missing:
                spark.sql(f"ALTER TABLE {name} ADD COLUMNS ({telemetry.spark_ddl(tuple(missing))})")
