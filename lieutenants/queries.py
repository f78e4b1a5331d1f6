"""Raw SQL of lieutenants: what the follower does for each event, faster than QuerySets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from functools import partial
from operator import attrgetter
from typing import Any, cast

import orjson
from django.db import connection
from django.db.models import DateField, Field, ForeignKey, JSONField, Model

from lieutenants.models import Chunk, Lieutenant, Message
from lieutenants.states import MessageState
from reef_site.common.queries import to_driver_time

_NOT_BEGUN = f"""
    SELECT id, text FROM {Message._meta.db_table}
    WHERE lieutenant_id = %s AND state IN (%s, %s) AND taken_up_at IS NULL
    ORDER BY created_at, id
"""


# `from_db` wants values in the order of the model's fields.
_MOVE_COLUMNS = [
    each.attname
    for each in Lieutenant._meta.concrete_fields
    if each.attname in {"id", "name", "status", "data_folder"}
]
_CURRENT_ROW = f"SELECT {', '.join(_MOVE_COLUMNS)} FROM {Lieutenant._meta.db_table} WHERE id = %s"
# As `MessageQuerySet.pending`.
_PENDING_STATES = (MessageState.ACCEPTED, MessageState.QUEUED, MessageState.DELIVERED)
_PENDING = f"""
    SELECT DISTINCT state FROM {Message._meta.db_table}
    WHERE lieutenant_id = %s
        AND ((state = %s AND taken_up_at IS NULL) OR state IN (%s, %s))
"""


def messages_not_begun(lieutenant_id: str) -> list[tuple[str, str]]:
    """Return id and text of the messages that the agent has and did not begin, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_NOT_BEGUN, [lieutenant_id, MessageState.ACCEPTED, MessageState.DELIVERED])
        return list(cursor.fetchall())


def current_row(lieutenant_id: str) -> Lieutenant | None:
    """Return the lieutenant with the columns that a move needs; None if it is gone.

    Its other columns are deferred.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CURRENT_ROW, [lieutenant_id])
        found = cursor.fetchone()
    return Lieutenant.from_db(connection.alias, _MOVE_COLUMNS, found) if found else None


def pending_states(lieutenant_id: str) -> frozenset[MessageState]:
    """Return the states of the messages that were sent and that the agent has not begun."""
    with connection.cursor() as cursor:
        cursor.execute(_PENDING, [lieutenant_id, *_PENDING_STATES])
        return frozenset(MessageState(state) for (state,) in cursor.fetchall())


def overwrite_deleted_data() -> None:
    """Make this connection overwrite what it deletes: SQLite leaves it in free pages of the file.

    On PostgreSQL do nothing.
    """
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA secure_delete = ON")


# -- many rows -----------------------------------------------------------------------------------


def insert_chunks(rows: Iterable[tuple[str, int, int, str]]) -> None:
    """INSERT new chunks: rows of lieutenant, entry, revision and text.

    Most rows that the follower writes are chunks, and none needs its id or an object.
    """
    sql = f"INSERT INTO {Chunk._meta.db_table} (lieutenant_id, entry_id, rev, text)"
    with connection.cursor() as cursor:
        cursor.executemany(f"{sql} VALUES (%s, %s, %s, %s)", list(rows))


def _column_reader(field: Field[Any, Any]) -> Callable[[Any], Any]:
    """Return a function from a row to this field's value for the database."""
    name = field.attname
    if isinstance(field, ForeignKey):
        return partial(_reference, name=name, relation=field.name)
    if isinstance(field, JSONField | DateField):  # a DateTimeField is a DateField
        return partial(_value, field=name)
    return attrgetter(name)


def _reference(row: Model, name: str, relation: str) -> Any:
    """Return the id of a related row, which may have been inserted after `row` was made."""
    if getattr(row, name) is None:
        setattr(row, name, getattr(getattr(row, relation), "pk", None))
    return getattr(row, name)


def update(
    model: type[Model],
    fields: Sequence[str],
    rows: Iterable[Any],
    expected: tuple[str, Sequence[Any]] | None = None,
) -> int:
    """UPDATE columns of many rows, each with its own values; return the number of rows updated.

    With `expected` (a field and one value per row), only rows with these values are updated.
    """
    columns = [_field(model, each) for each in fields]
    readers: list[Callable[[Any], Any]] = [*map(_column_reader, columns), attrgetter("pk")]
    values = [[read(row) for read in readers] for row in rows]
    if not values:
        return 0
    quote = connection.ops.quote_name
    settings = ", ".join(f"{quote(str(each.column))} = %s" for each in columns)
    where = f"{quote(str(model._meta.pk.column))} = %s"
    if expected:
        where += f" AND {quote(str(_field(model, expected[0]).column))} = %s"
        values = [[*row, value] for row, value in zip(values, expected[1], strict=True)]
    table = quote(model._meta.db_table)
    with connection.cursor() as cursor:
        # Names come from the models, values are parameters.
        cursor.executemany(f"UPDATE {table} SET {settings} WHERE {where}", values)
        return int(cursor.rowcount)


def _field(model: type[Model], name: str) -> Field[Any, Any]:
    return cast("Field[Any, Any]", model._meta.get_field(name))


def _value(row: Model, field: str) -> Any:
    value = getattr(row, field)
    if isinstance(value, dict | list):
        return _to_json(value)
    if isinstance(value, datetime):
        return to_driver_time(value)
    return str(value) if isinstance(value, date) else value


def _to_json(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        # Numbers of more than 64 bits, and keys that are no texts.
        return json.dumps(value, ensure_ascii=False)
