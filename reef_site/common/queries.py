"""Raw SQL that belongs to no app, and helpers for the raw SQL of all apps.

The SQL of an app is in its own `queries`: a function for each statement. Statements are made of
the names of our own tables and columns; all values are parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson
from django.db import connection

from reef_site.common.text import to_storable

# A time in the form of the database driver: text on SQLite.
DriverTime = Any


def to_driver_time(at: datetime) -> DriverTime:
    """Convert a time for this database's driver."""
    return connection.ops.adapt_datetimefield_value(at)


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


def clock_timestamp() -> datetime:
    """Return the time by the clock of PostgreSQL, in any time zone."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment


def ping() -> None:
    """Ask the database for nothing. Raise DatabaseError if it does not answer."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
