"""Rows as JSON by the field list of an response, fast: without a serializer at run time.

The `source` of a field names the model's attribute, which is also the column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from reef_site.common.api.fields import JsonValue, Timestamp
from reef_site.common.api.serializers import ResponseBody

Json = dict[str, Any]


def sources_of(response: type[ResponseBody]) -> dict[str, str]:
    """Map the names of the fields to model attributes, in order."""
    fields = response().fields
    return {name: str(field.source) for name, field in fields.items()}


def object_reader(response: type[ResponseBody]) -> Callable[[object], Json]:
    """Return a function that reads the response's fields from a model object."""
    sources = sources_of(response)
    names, read = tuple(sources), attrgetter(*sources.values())
    return lambda row: dict(zip(names, read(row), strict=True))


def row_reader(response: type[ResponseBody], *computed: str) -> Callable[[object], Json]:
    """Return a function that reads the response's fields from a model object.

    Empty texts of nullable fields become null. So are the `computed` fields, which the caller sets.
    """
    sources = [
        (name, None if name in computed else attrgetter(str(field.source)), field.allow_null)
        for name, field in response().fields.items()
    ]

    def read(row: object) -> Json:
        values = {name: source and source(row) for name, source, _ in sources}
        blank = (name for name, _, nullable in sources if nullable and values[name] == "")
        return values | dict.fromkeys(blank)

    return read


class PositionalReader:
    """Reads the response's fields from database rows that begin with `columns`.

    `others` names the column to read in place of a field that is no column.
    """

    def __init__(self, response: type[ResponseBody], alias: str, others: dict[str, str]) -> None:
        fields = dict(response().fields.items())
        self.names = tuple(fields)
        sources = {**sources_of(response), **others}
        self.columns = [f"{alias}.{source}" for source in sources.values()]
        self._json = [name for name, field in fields.items() if isinstance(field, JsonValue)]
        self._dates = [name for name, field in fields.items() if isinstance(field, Timestamp)]

    def read(
        self, row: Sequence[Any], parse: Callable[[str], Any], to_date: Callable[[Any], str]
    ) -> Json:
        """Return the fields; `parse` reads stored JSON, `to_date` the driver's timestamps."""
        facts = dict(zip(self.names, row, strict=False))
        for name in self._json:
            if facts[name] is not None:
                facts[name] = parse(facts[name])
        for name in self._dates:
            if facts[name] is not None:
                facts[name] = to_date(facts[name])
        return facts
