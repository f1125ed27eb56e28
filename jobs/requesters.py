"""Who asked -> what windows keep of it: hashes with a salt that changes every month and is then deleted.

While a month's salt is there, a window tells requesters apart (`callers`) and could be tied to a name that is known. When it is gone
(retention of `salts`), it can not. docs/adr/0029 says why.
"""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from lastgood import tables
from lastgood.tables.runs import Context, merge

if TYPE_CHECKING:
    from pyspark.sql import Column

MOST_MONTHS = 1_200


def months(spans: Iterable[tuple[datetime, datetime]]) -> list[str]:
    """The months of the calendar, in UTC, that spans of time touch."""
    names: set[str] = set()
    for first, last in spans:
        year, month = first.year, first.month
        for _ in range(MOST_MONTHS):
            if (year, month) > (last.year, last.month):
                break
            names.add(f"{year:04d}-{month:02d}")
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    return sorted(names)


def salts(ctx: Context, spans: Iterable[tuple[datetime, datetime]]) -> dict[str, str]:
    """month -> its salt; one that is new is made, once: of two runs at the same time the second reads the first's."""
    wanted = months(spans)

    def stored() -> dict[str, str]:
        rows = ctx.store.read(ctx.spark, tables.SALTS).collect()
        return {row["month"]: row["salt"] for row in rows if row["month"] in wanted}

    held = stored()
    new = [(month, secrets.token_hex(16), ctx.clock()) for month in wanted if month not in held]
    if not new:
        return held
    if ctx.dry_run:
        return held | {month: salt for month, salt, _ in new}
    frame = ctx.spark.createDataFrame(new, "month string, salt string, made_at timestamp")
    merge(ctx, frame, tables.SALTS, "t.month = s.month", "WHEN NOT MATCHED THEN INSERT *")
    return stored()


def within(spans: Iterable[tuple[int, int]]) -> list[tuple[datetime, datetime]]:
    """Spans in seconds since 1970 as times."""
    return [(datetime.fromtimestamp(a, UTC), datetime.fromtimestamp(z, UTC)) for a, z in spans]


def known_as(salted: dict[str, str], at: str = "requested_at") -> "Column":
    """What a request's requester is known as: the same within a month; null where nobody is named."""
    from pyspark.sql import functions as f

    pairs = [f.lit(part) for pair in salted.items() for part in pair]
    if not pairs:
        return f.sha2("requester", 256)
    salt = f.element_at(f.create_map(*pairs), f.date_format(f.to_utc_timestamp(at, f.current_timezone()), "yyyy-MM"))
    return f.sha2(f.concat(salt, "requester"), 256)
