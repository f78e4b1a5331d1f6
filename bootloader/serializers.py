"""Fields, rows and responses that several parts of the bootloader's API share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rest_framework.fields import empty

from reef_site.common.api.fields import ApiField, ListOf, Text
from reef_site.common.api.serializers import ResponseBody, Serializer

Json = dict[str, Any]


class OrderedFields(Serializer):
    """Checks the fields of `checked_first` before the others, which keep their order.

    The errors for unknown names list the fields as they are declared.
    """

    checked_first: tuple[str, ...] = ()

    def get_fields(self) -> Json:
        fields: Json = super().get_fields()
        return {**{name: fields[name] for name in self.checked_first}, **fields}


class FalsyIsAbsent(ApiField):
    """A field for which 0, false and all that is empty count as absent."""

    def run_validation(self, data: Any = empty) -> Any:
        return super().run_validation(data or empty)


class OptionalText(FalsyIsAbsent, Text):
    """Text that may be absent or empty."""


class TextList(ListOf):
    """A list of texts."""

    def to_internal_value(self, data: Any) -> list[Any]:
        is_list = isinstance(data, list) and len(data) <= self.most
        if not is_list or not all(isinstance(each, str) for each in data):
            self.refuse("must be a list of text")
        return super().to_internal_value(data)


def row_reader(response: type[ResponseBody], *computed: str) -> Callable[[object], Json]:
    """Return a function that reads the response's fields from a model object.

    Empty texts of nullable fields become null. So are the `computed` fields, which the caller sets.
    """
    sources = [
        (name, None if name in computed else str(field.source), field.allow_null)
        for name, field in response().fields.items()
    ]

    def read(row: object) -> Json:
        values = {name: source and getattr(row, source) for name, source, _ in sources}
        blank = (name for name, _, nullable in sources if nullable and values[name] == "")
        return values | dict.fromkeys(blank)

    return read
