"""Where the tables are: how one is named, made, read and grown; what is new in one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lastgood.errors import ConfigError
from lastgood.record import telemetry
from lastgood.record.telemetry import Field
from lastgood.settings import is_catalog
from lastgood.tables import delta
from lastgood.tables.catalog import Catalog, CatalogTable
from lastgood.tables.catalogue import ALL, Table
from lastgood.tables.homes import FolderTable, ObjectTable, TableHome
from lastgood.tables.names import is_path, sql_name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


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
    return reader.format("delta").load(where) if is_path(where) else reader.table(sql_name(where))


def keeps_changes(spark: "SparkSession", where: str) -> bool:
    """Whether the table has a change data feed; a view or a shared table that does not show its properties has none."""
    from pyspark.errors import PySparkException

    if is_path(where):
        return delta.keeps_changes(where)
    try:
        feed = spark.sql(f"SHOW TBLPROPERTIES {sql_name(where)}").where("key = 'delta.enableChangeDataFeed'").collect()
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
    return int(spark.sql(f"DESCRIBE HISTORY {sql_name(where)} LIMIT 1").collect()[0]["version"])


def identity(spark: "SparkSession", where: str) -> str:
    """What makes a table another than one of the same name before."""
    if is_path(where):
        return delta.identity(where) or ""
    return str(spark.sql(f"DESCRIBE DETAIL {sql_name(where)}").collect()[0]["id"])


def read(spark: "SparkSession", where: str) -> "DataFrame":
    """The rows of a Delta table."""
    return spark.read.format("delta").load(where) if is_path(where) else spark.read.table(sql_name(where))


def exists(spark: "SparkSession", where: str) -> bool:
    """Whether there is such a Delta table."""
    return delta.version(where) is not None if is_path(where) else bool(spark.catalog.tableExists(sql_name(where)))


def as_of(spark: "SparkSession", where: str, version: int) -> "DataFrame":
    """A Delta table's rows in one of its versions."""
    reader = spark.read.option("versionAsOf", version)
    return reader.format("delta").load(where) if is_path(where) else reader.table(sql_name(where))


PROPERTIES = {
    "delta.enableDeletionVectors": "false",
    "delta.enableRowTracking": "false",
    "delta.checkpointPolicy": "classic",
}
"""Of tables in a catalog: what keeps every reader in. docs/adr/0040 says why."""
SERVED = ("inbox", "scores", "deployments", "endpoint_minutes")
"""Tables that the service appends to without Spark: in a catalog they lie in `landing`."""


@dataclass(frozen=True)
class Store:
    """Where the tables are: a folder, an object-store address, or a Unity Catalog `catalog.schema`.

    `catalog` reaches a catalog's tables without Spark; `options` are what the object store needs besides credentials; `landing` is an
    external location for the tables that the service writes. `workspace.stores.tables_of` puts one together from settings.
    """

    location: str
    catalog: Catalog | None = field(default=None, compare=False, repr=False)
    options: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    landing: str | None = field(default=None, compare=False)
    _homes: dict[tuple[str, tuple[Field, ...]], TableHome] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @property
    def in_catalog(self) -> bool:
        return is_catalog(self.location)

    @property
    def in_folder(self) -> bool:
        return not self.in_catalog and "://" not in self.location

    def where(self, table: Table) -> str:
        """The table's folder or address, or its catalog name."""
        return f"{self.location}.{table.name}" if self.in_catalog else self.path(table)

    def path(self, table: Table) -> str:
        """The table's folder or address. Errors: ConfigError in a catalog, where tables have names instead."""
        return f"{self.folder}/{table.name}"

    @property
    def folder(self) -> str:
        """Errors: ConfigError in a catalog."""
        if self.in_catalog:
            raise ConfigError(f"storage {self.location} is a catalog; this needs a folder")
        return self.location.rstrip("/")

    def home(self, table: Table) -> TableHome:
        """The table's calls without Spark."""
        return self.named(self.where(table), table.fields)

    def named(self, where: str, fields: tuple[Field, ...] = ()) -> TableHome:
        """The calls of any table given by folder, address or catalog name. `fields`: those that it should have; one that it does not have yet reads as null.
        Errors: ConfigError where no workspace can be asked for a name."""
        return self._homes.setdefault((where, fields), self._home(where, fields))

    def _home(self, where: str, fields: tuple[Field, ...]) -> TableHome:
        if (where, fields) in self._homes:
            return self._homes[where, fields]
        if "://" in where:
            located = delta.Located(where, self.options)
            return ObjectTable(lambda _: located, fields=fields)
        if is_path(where):
            return FolderTable(where, fields)
        if self.catalog is None:
            raise ConfigError(f"{where} is a catalog name; a workspace must be named to reach it (workspace.host)")
        return CatalogTable(where, self.catalog, self.options, fields=fields)

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
        if "://" in self.location and (newest := self.home(table).version()) is not None:
            return newest
        return version(spark, self.where(table))

    def identity(self, spark: "SparkSession", table: Table) -> str:
        """See `identity`."""
        if "://" in self.location:
            return self.home(table).identity() or ""
        return identity(spark, self.where(table))

    def ensure(self, spark: "SparkSession", *tables: Table) -> None:
        """Create missing tables; add columns that an existing one lacks (never drops or retypes one).

        Errors: ConfigError when an existing column has another type.
        """
        for table in tables or ALL:
            if not self.in_catalog and delta.version(self.located(table)) is None:
                delta.create(self.located(table), telemetry.arrow_schema(table.fields), table.partition_by)
                continue
            name = self.sql(table)
            spark.sql(self._made(table))
            have = dict(self.read(spark, table).dtypes)
            for column in table.fields:
                if column.name in have and have[column.name] != column.type:
                    raise ConfigError(
                        f"{name}: column {column.name} is {have[column.name]}, expected {column.type}; move the table away"
                    )
            missing = [column for column in table.fields if column.name not in have]
            if missing:
                spark.sql(f"ALTER TABLE {name} ADD COLUMNS ({telemetry.spark_ddl(tuple(missing))})")

    def located(self, table: Table) -> delta.Where:
        """The table's folder, or its address with what its storage needs. Errors: as `path`."""
        return delta.Located(self.path(table), self.options) if "://" in self.location else self.path(table)

    def _made(self, table: Table) -> str:
        """The SQL that makes the table where it is missing."""
        properties = PROPERTIES if self.in_catalog else {}
        properties = properties | ({"delta.enableChangeDataFeed": "true"} if table.change_feed else {})
        listed = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
        parts = f"PARTITIONED BY ({', '.join(table.partition_by)})" if table.partition_by else ""
        place = f"LOCATION '{self.landing.rstrip('/')}/{table.name}'" if self.landing and table.name in SERVED else ""
        columns, with_properties = telemetry.spark_ddl(table.fields), f"TBLPROPERTIES ({listed})" if listed else ""
        return f"CREATE TABLE IF NOT EXISTS {self.sql(table)} ({columns}) USING delta {parts} {place} {with_properties}"
