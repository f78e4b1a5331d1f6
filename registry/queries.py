"""Helpers for hand-written SQL on both databases, for very frequent queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson
from django.db import connection

from reef_site.common import clock
from reef_site.common.text import to_storable

# A time in the form of the database driver: text on SQLite.
DriverTime = Any


def to_driver_time(at: datetime) -> DriverTime:
    """Convert a time for this database's driver."""
    return connection.ops.adapt_datetimefield_value(at)


def from_driver_time(value: DriverTime) -> datetime:
    """Convert a time from this database's driver."""
    if isinstance(value, str):
        return clock.parse_iso(value)
    found: datetime = value
    return found


def in_list(ids: Iterable[str]) -> tuple[str, Any]:
    """Return SQL to put after `IN`, and its parameter, for a list of texts."""
    if connection.vendor == "postgresql":
        return "(SELECT unnest(%s::text[]))", [to_storable(each) for each in ids]
    return "(SELECT value FROM json_each(%s))", orjson.dumps(list(ids)).decode()


def fetch_rows(
    columns: str, rest: str, values: Sequence[Any], head: str = ""
) -> list[Sequence[Any]]:
    """Return the rows of `<head> SELECT <columns> <rest>`, in no order on SQLite.

    SQLite's driver releases the interpreter lock for each row, and waits for it each time while
    another thread is busy: so there all rows come as one JSON text.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"{head} SELECT {columns} {rest}", values)
            return list(cursor.fetchall())
    with connection.cursor() as cursor:
        sql = f"{head} SELECT json_group_array(json_array({columns})) {rest}"
        cursor.execute(sql, values)
        rows: list[Sequence[Any]] = orjson.loads(cursor.fetchone()[0])
        return rows
