"""Raw SQL of lieutenants: what the follower does for each event, faster than QuerySets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from functools import partial
from operator import attrgetter
from typing import Any

from django.db import connection
from django.db.models import DateField, Field, ForeignKey, JSONField, Model

from lieutenants.models import Lieutenant, Message
from lieutenants.states import MessageState
from reef_site.common.batches import BATCH_SIZE, batched
from reef_site.common.queries import to_driver_time

_NOT_BEGUN = f"""
    SELECT id, text FROM {Message._meta.db_table}
    WHERE lieutenant_id = %s AND state IN (%s, %s) AND taken_up_at IS NULL
    ORDER BY created_at, id
"""


def messages_not_begun(lieutenant_id: str) -> list[tuple[str, str]]:
    """Return id and text of the messages that the agent has and did not begin, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(_NOT_BEGUN, [lieutenant_id, MessageState.ACCEPTED, MessageState.DELIVERED])
        return list(cursor.fetchall())


def status_of(lieutenant_id: str) -> str | None:
    """Return the lieutenant's current status; None if it is gone."""
    sql = f"SELECT status FROM {Lieutenant._meta.db_table} WHERE id = %s"
    with connection.cursor() as cursor:
        cursor.execute(sql, [lieutenant_id])
        found = cursor.fetchone()
    return found[0] if found else None


def overwrite_deleted_data() -> None:
    """Make this connection overwrite what it deletes: SQLite leaves it in free pages of the file.

    On PostgreSQL do nothing.
    """
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA secure_delete = ON")


# -- many rows -----------------------------------------------------------------------------------


def insert(model: type[Model], rows: Sequence[Any]) -> None:
    """INSERT new rows and set their ids, in a third of the time of `bulk_create`."""
    if not connection.features.can_return_rows_from_bulk_insert:
        model._default_manager.bulk_create(rows, batch_size=BATCH_SIZE)
        return
    fields = [each for each in model._meta.concrete_fields if not each.primary_key]
    readers = [_column_reader(each) for each in fields]
    quote = connection.ops.quote_name
    into = f"INSERT INTO {quote(model._meta.db_table)} ("
    into += ", ".join(quote(str(each.column)) for each in fields) + ") VALUES "
    marks = f"({', '.join(['%s'] * len(fields))})"
    returning = f" RETURNING {quote(str(model._meta.pk.column))}"
    with connection.cursor() as cursor:
        for batch in batched(rows):
            values = [read(row) for row in batch for read in readers]
            cursor.execute(into + ", ".join([marks] * len(batch)) + returning, values)
            for row, (pk,) in zip(batch, cursor.fetchall(), strict=True):
                row.pk, row._state.adding = pk, False


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
    columns = [(field, _column(model, field)) for field in fields]
    values = [[*(_value(row, field) for field, _ in columns), row.pk] for row in rows]
    if not values:
        return 0
    quote = connection.ops.quote_name
    settings = ", ".join(f"{quote(column)} = %s" for _, column in columns)
    where = f"{quote(str(model._meta.pk.column))} = %s"
    if expected:
        where += f" AND {quote(_column(model, expected[0]))} = %s"
        values = [[*row, value] for row, value in zip(values, expected[1], strict=True)]
    table = quote(model._meta.db_table)
    with connection.cursor() as cursor:
        # Names come from the models, values are parameters.
        cursor.executemany(f"UPDATE {table} SET {settings} WHERE {where}", values)
        return int(cursor.rowcount)


def _column(model: type[Model], field: str) -> str:
    return str(model._meta.get_field(field).column)  # type: ignore[union-attr]


def _value(row: Model, field: str) -> Any:
    value = getattr(row, field)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, datetime):
        return to_driver_time(value)
    return str(value) if isinstance(value, date) else value
