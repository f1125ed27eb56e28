"""A table's folder, address or catalog name -> how SQL names it (pure).

Databricks' SQL reference, Names: a part that is more than letters, digits and underscores stands in backticks, and a backtick within is
doubled. Endpoints' names have dashes, and the platform names payload tables after them.
"""

import re

_PART = re.compile(r"`((?:[^`]|``)*)`|([^.`]+)")


def is_path(where: str) -> bool:
    """Whether a table is given by its folder or address, not by its catalog name."""
    return "/" in where or not where.count(".")


def parts(name: str) -> tuple[str, ...]:
    """The parts of a catalog name, which may stand in backticks already."""
    return tuple(held.replace("``", "`") if held else plain for held, plain in _PART.findall(name))


def quoted(name: str) -> str:
    """A catalog name as SQL takes it, whatever its parts hold."""
    return ".".join(map(quoted_part, parts(name)))


def quoted_part(part: str) -> str:
    """One name, of a catalog, schema, table or column, as SQL takes it."""
    return "`" + part.replace("`", "``") + "`"


def sql_name(where: str) -> str:
    """How SQL names a table given by folder or catalog name."""
    return f"delta.`{where}`" if is_path(where) else quoted(where)


def literal(text: str) -> str:
    """A text as a SQL literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
