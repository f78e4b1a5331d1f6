"""Bases of the serializers that declare queries, bodies and responses."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.fields import SkipField, empty
from rest_framework.request import Request

from reef_site.common.api.fields import Cursor, Flag, ListOf, Text, WholeNumber

Json = dict[str, Any]


class Serializer(serializers.Serializer[Any]):
    """Base of the three kinds below. `example` is shown in the API's documentation.

    The name of a field that is a keyword of Python has an underscore behind it, as in `from_`.
    """

    example: Json | None = None
    # Names that a request may have although nothing reads them.
    ignored: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # The schema would take that of the base class.
        cls.__doc__ = cls.__doc__ or ""
        cls._declared_fields = {
            name.rstrip("_"): field for name, field in cls._declared_fields.items()
        }

    def to_internal_value(self, data: Mapping[str, Any]) -> Json:
        """Return the valid values by `source`, in the order of the fields.

        Raises ValidationError for the first problem. Of fields with the same source, the first one
        that is given counts.
        """
        values: Json = {}
        for name, field in self.fields.items():
            try:
                value = field.run_validation(data.get(name, empty))
            except SkipField:
                continue
            except serializers.ValidationError as error:
                detail: Any = {name: error.detail}
                raise serializers.ValidationError(detail) from None
            if values.get(str(field.source)) is None:
                values[str(field.source)] = value
        return values

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names that a request may have."""
        return (*cls._declared_fields, *cls.ignored)

    @classmethod
    def parse_data(cls, data: object) -> Json:
        """Return the valid values of a JSON object; any other value counts as an empty one.

        Raises ValidationError.
        """
        serializer = cls(data=data if isinstance(data, dict) else {})
        serializer.is_valid(raise_exception=True)
        values: Json = serializer.validated_data
        return values


class OrderedFields(Serializer):
    """Checks the fields of `checked_first` before the others, which keep their order.

    The errors for unknown names list the fields as they are declared.
    """

    checked_first: tuple[str, ...] = ()

    def get_fields(self) -> Json:
        fields: Json = super().get_fields()
        return {**{name: fields[name] for name in self.checked_first}, **fields}


class Query(Serializer):
    """Parameters of a query. All are optional; an empty value counts as an absent one.

    A parameter without a default is None if absent. Those of lists may be repeated.
    """

    is_query = True

    def get_fields(self) -> dict[str, Any]:
        fields = super().get_fields()
        for field in fields.values():
            if field.required:
                field.required, field.default = False, None
        return fields

    @classmethod
    def parse(cls, request: Request) -> Json:
        """Return the request's parameters. Raises ValidationError."""
        given, fields = request.query_params, cls._declared_fields
        values = {
            name: list(filter(None, given.getlist(name)))
            if isinstance(fields.get(name), ListOf)
            else given[name]
            for name in given
        }
        return cls.parse_data({name: value for name, value in values.items() if value})


class Body(Serializer):
    """Fields of a JSON body."""

    @classmethod
    def parse(cls, request: Request) -> Json:
        """Return the request's fields; absent ones without a default are missing.

        Raises ValidationError.
        """
        return cls.parse_data(request.data)


class DryRunQuery(Query):
    """`request_values.is_dry_run` reads it."""

    dryRun = Flag(help_text="As in the body; one of both is enough.")


class ResponseBody(Serializer):
    """Fields of a response. Views return plain data: nothing is serialized at run time."""


class ErrorResponse(ResponseBody):
    """The response to every request that failed."""

    error = Text(help_text="`<field>: <problem>` for invalid input, else a sentence.")


@functools.cache
def list_of(
    name: str, item: type[ResponseBody], *, next_page: type[Text] | type[Cursor] | None = None
) -> type[ResponseBody]:
    """Return the response `{<name>: [item…], "count": n}`.

    With `next_page`, the kind of cursor, also `next`: null on the last page.
    """
    fields: Json = {name: item(many=True), "count": WholeNumber()}
    if next_page:
        fields["next"] = next_page(
            allow_null=True, required=False, help_text="The next page's `cursor`."
        )
    kind = "Page" if next_page else "List"
    title = item.__name__.removesuffix("ResponseBody") + name.capitalize() + kind
    return type(title, (ResponseBody,), {**fields, "__doc__": "", "__module__": item.__module__})
