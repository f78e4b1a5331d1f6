"""Writes rows of models by statements whose text is made only once.

For writers that write a few rows all the time: `bulk_create` and `save` compile their statements
anew each time, which takes several times as long as the database needs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

import orjson
from django.db import DEFAULT_DB_ALIAS, connections, models, transaction

# Rows of one INSERT; more are inserted by several.
MAX_ROWS = 100
# Methods that return the value of the row, unless a field is `auto_now` or `auto_now_add`.
_PLAIN_PRE_SAVES = (
    models.Field.pre_save,
    models.DateField.pre_save,
    models.DateTimeField.pre_save,
    models.TimeField.pre_save,
)
_JSON_TYPES = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
# Types of values that these fields store as they are; `ForeignKey` is looked through.
_STORED_AS_THEY_ARE: dict[type[models.Field[Any, Any]], type] = {
    models.CharField: str,
    models.TextField: str,
    models.BooleanField: bool,
    models.IntegerField: int,
    models.BigIntegerField: int,
    models.PositiveIntegerField: int,
    models.PositiveSmallIntegerField: int,
    models.AutoField: int,
    models.BigAutoField: int,
}


class _Column(NamedTuple):
    """A column, and a function from a row and the connection to its value for the driver."""

    name: str
    read: Callable[[models.Model, Any], Any]


def insert_rows(rows: Iterable[models.Model]) -> None:
    """Insert new rows of one model, as `bulk_create` does; rows without a key get theirs.

    No signals are sent. Either all rows have a key or none has. Raises DatabaseError; what was
    inserted before is then undone.
    """
    new = list(rows)
    if len(new) > MAX_ROWS:
        with transaction.atomic(savepoint=False):
            for start in range(0, len(new), MAX_ROWS):
                _insert(new[start : start + MAX_ROWS])
    elif new:
        _insert(new)


def update_row(row: models.Model, names: Sequence[str] = ()) -> bool:
    """Write these fields of a row, or all; return whether it is there. No signals are sent."""
    # Not `connection`, each attribute of which is looked up for the current thread.
    link = connections[DEFAULT_DB_ALIAS]
    columns = _columns(type(row), tuple(names) or _names(type(row), with_key=False), is_new=False)
    values = [column.read(row, link) for column in columns]
    sql = _update_text(type(row), columns, link.vendor)
    return bool(_execute(link, sql, [*values, row.pk]).rowcount)


def _insert(rows: Sequence[models.Model]) -> None:
    model, has_key = type(rows[0]), rows[0].pk is not None
    if any(type(row) is not model or (row.pk is not None) != has_key for row in rows):
        raise TypeError("rows to insert: must be of one model, and all have a key or none")
    link = connections[DEFAULT_DB_ALIAS]
    columns, values = _columns(model, _names(model, with_key=has_key), is_new=True), []
    for row in rows:
        row._prepare_related_fields_for_save(operation_name="insert_rows")  # type: ignore[attr-defined]
        values += [column.read(row, link) for column in columns]
    sql = _insert_text(model, columns, len(rows), link.vendor)
    done = _execute(link, sql, values)
    if not has_key:
        for row, key in zip(rows, _new_keys(link, done, len(rows)), strict=True):
            row.pk = key
    for row in rows:
        row._state.adding, row._state.db = False, DEFAULT_DB_ALIAS


def _new_keys(link: Any, done: Any, count: int) -> Iterable[int]:
    if link.vendor == "postgresql":
        return [key for (key,) in done.fetchall()]
    # SQLite has one writer at a time: the keys of one statement follow each other.
    return range(done.lastrowid - count + 1, done.lastrowid + 1)


def _execute(link: Any, sql: str, values: Sequence[Any]) -> Any:
    """Execute a statement and return its cursor; inside a transaction of SQLite without Django's.

    Outside of a transaction only Django's cursor waits for the write lock.
    """
    with transaction.mark_for_rollback_on_error(DEFAULT_DB_ALIAS):
        if link.vendor == "sqlite" and link.in_atomic_block:
            with link.wrap_database_errors:
                return link.connection.execute(sql, values)
        cursor = link.cursor()
        cursor.execute(sql.replace("?", "%s"), values)
        return cursor


# -- columns -------------------------------------------------------------------------------------


@functools.cache
def _names(model: type[models.Model], *, with_key: bool) -> tuple[str, ...]:
    fields = model._meta.concrete_fields
    return tuple(field.name for field in fields if with_key or not field.primary_key)


@functools.cache
def _columns(
    model: type[models.Model], names: tuple[str, ...], *, is_new: bool
) -> tuple[_Column, ...]:
    fields: list[Any] = [model._meta.get_field(name) for name in names]
    if model._meta.parents or any(each.generated or each.has_db_default() for each in fields):
        raise TypeError(f"{model.__name__} has columns that this cannot write")
    return tuple(_Column(each.column, _reader(each, is_new=is_new)) for each in fields)


def _reader(field: Any, *, is_new: bool) -> Callable[[models.Model, Any], Any]:
    """Return a function from a row to the value of this field, as `save` would store it."""
    prepare, get = field.get_db_prep_save, attrgetter(field.attname)
    target = field
    while isinstance(target, models.ForeignKey):
        target = target.target_field
    plain = _STORED_AS_THEY_ARE.get(type(target))
    is_time = type(field) is models.DateTimeField
    if type(field) is models.JSONField and _is_plain_encoder(field.encoder):
        return lambda row, link: _json(get(row), prepare, link)
    if getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False):
        return lambda row, link: prepare(field.pre_save(row, is_new), link)
    if type(field).pre_save not in _PLAIN_PRE_SAVES:
        raise TypeError(f"{field} makes its value while it is saved")

    def read(row: models.Model, link: Any) -> Any:
        value = get(row)
        if value is None or type(value) is plain:
            return value
        if is_time and isinstance(value, datetime) and value.tzinfo:
            return _time(value, link.vendor)
        return prepare(value, link)

    return read


def _is_plain_encoder(encoder: type[json.JSONEncoder] | None) -> bool:
    """Return whether an encoder writes the types of JSON only, in whatever form."""
    return encoder is None or encoder.default is json.JSONEncoder.default


def _json(value: Any, prepare: Callable[[Any, Any], Any], link: Any) -> Any:
    """Return JSON for the driver; on SQLite compact text."""
    if value is None or link.vendor != "sqlite":
        return prepare(value, link)
    try:
        return orjson.dumps(value, option=_JSON_TYPES).decode()
    except TypeError:
        # Numbers of more than 64 bits, keys that are no texts, and what is no JSON.
        return prepare(value, link)


@functools.lru_cache(maxsize=256)
def _time(value: datetime, _vendor: str) -> Any:
    """Return a time for the driver. Cached: rows that are written together often share theirs."""
    return connections[DEFAULT_DB_ALIAS].ops.adapt_datetimefield_value(value)


# -- texts ---------------------------------------------------------------------------------------


@functools.cache
def _insert_text(
    model: type[models.Model], columns: tuple[_Column, ...], count: int, vendor: str
) -> str:
    quote = connections[DEFAULT_DB_ALIAS].ops.quote_name
    row = f"({', '.join(['?'] * len(columns))})"
    names = ", ".join(quote(column.name) for column in columns)
    into = f"INSERT INTO {quote(model._meta.db_table)} ({names}) VALUES {', '.join([row] * count)}"
    key = str(model._meta.pk.column)
    if vendor == "postgresql" and key not in [column.name for column in columns]:
        return f"{into} RETURNING {quote(key)}"
    return into


@functools.cache
def _update_text(model: type[models.Model], columns: tuple[_Column, ...], _vendor: str) -> str:
    quote = connections[DEFAULT_DB_ALIAS].ops.quote_name
    changes = ", ".join(f"{quote(column.name)} = ?" for column in columns)
    table, key = quote(model._meta.db_table), quote(str(model._meta.pk.column))
    return f"UPDATE {table} SET {changes} WHERE {key} = ?"
