"""Rows of models by way of JSON, so that one statement returns rows of several tables.

    ROWS = JsonColumns(Message, without=("text",))
    sql = json_sql.list_of(f"SELECT {ROWS.select('m')} AS json FROM lieutenants_message m …")
    messages = [ROWS.read(values) for values in orjson.loads(found)]

For the fast path: there Python computes what SQL cannot, with the functions of the API's views.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Generic, NoReturn, TypeVar

from django.db import DEFAULT_DB_ALIAS, connection, models
from django.db.models.base import ModelState

from reef_site.common import json_sql

M = TypeVar("M", bound=models.Model)


class ColumnsNotRead(RuntimeError):
    """Columns were asked for that the statement of these rows has not read."""


def _refuse(fields: Collection[str] = (), **_: object) -> NoReturn:
    raise ColumnsNotRead(f"not read: {', '.join(fields) or 'the whole row'}")


def parse_time(text: str) -> datetime:
    """Return a time that the database has written into JSON."""
    # SQLite stores UTC without an offset.
    return datetime.fromisoformat(text if text[-6] in "+-" else f"{text}+00:00")


def _parse_stored(text: str) -> Any:
    # Not orjson: like Django, this keeps large integers.
    return {} if text == "{}" else json.loads(text)


_CONVERTERS: dict[type[models.Field[Any, Any]], Callable[[Any], Any]] = {
    models.DateTimeField: parse_time,
    models.BooleanField: bool,
    models.JSONField: _parse_stored,
}


class JsonColumns(Generic[M]):
    """Columns of a model: all, or `only` these, or those not in `without`.

    The others raise ColumnsNotRead. Django would read each of them for each row, with a query.
    """

    def __init__(
        self, model: type[M], *, only: Collection[str] = (), without: Collection[str] = ()
    ) -> None:
        self._model = model
        self._fields = [
            each
            for each in model._meta.concrete_fields
            if (not only or each.name in only) and each.name not in without
        ]
        self._names = [each.attname for each in self._fields]
        self._is_whole = len(self._fields) == len(model._meta.concrete_fields)
        self._converters = [
            (each.attname, convert)
            for each in self._fields
            if (convert := _CONVERTERS.get(type(each)))
        ]

    def select(self, alias: str, *more: str) -> str:
        """Return an expression for the columns of the table `alias`, and for further values."""
        return json_sql.values(*(self._expression(alias, each) for each in self._fields), *more)

    def _expression(self, alias: str, field: models.Field[Any, Any]) -> str:
        as_text = isinstance(field, models.JSONField) and connection.vendor == "postgresql"
        return f"{alias}.{field.column}{'::text' if as_text else ''}"

    def read(self, values: Sequence[Any]) -> M:
        """Return the object of a row, only to be read; values behind its columns are ignored."""
        own = dict(zip(self._names, values, strict=False))
        for name, convert in self._converters:
            if own[name] is not None:
                own[name] = convert(own[name])
        # `from_db` would take several times as long, for signals and fields without a value.
        row = self._model.__new__(self._model)
        if not self._is_whole:
            # Django calls this for an attribute without a value.
            own["refresh_from_db"] = _refuse
        row.__dict__ = own
        row._state = state = ModelState()
        state.adding, state.db = False, DEFAULT_DB_ALIAS
        return row

    @property
    def count(self) -> int:
        """Return the number of columns: the index of the first further value."""
        return len(self._names)
