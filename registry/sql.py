"""SQL by hand that both databases understand, for what is asked thousands of times a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import orjson
from django.db import connection

from reef_site.common import clock

# A moment as the database driver takes it and `look` gives it: text on SQLite.
Stamp = Any


def stamp(moment: datetime) -> Stamp:
    """A moment for this database's driver."""
    return connection.ops.adapt_datetimefield_value(moment)


def moment(value: Stamp) -> datetime:
    """The moment that a stamp stands for."""
    if isinstance(value, str):
        return clock.parse_iso(value)
    found: datetime = value
    return found


def members(ids: Iterable[str]) -> tuple[str, Any]:
    """SQL that stands for a list of texts after `IN`, and its parameter."""
    if connection.vendor == "postgresql":
        return "(SELECT unnest(%s::text[]))", [each.replace("\0", "\ufffd") for each in ids]
    return "(SELECT value FROM json_each(%s))", orjson.dumps(list(ids)).decode()


def look(columns: str, rest: str, values: Sequence[Any], head: str = "") -> list[Sequence[Any]]:
    """The rows of `<head> SELECT <columns> <rest>`, on SQLite in no order.

    SQLite's driver lets go of the interpreter for each row, and with another busy thread waits for
    it each time: so there all rows come as one JSON text.
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
