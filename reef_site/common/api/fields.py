"""Fields of requests and responses: how each is validated, and its OpenAPI schema.

A message is the second half of `<field>: <problem>`. In a query, where all values are text, the
same fields read numbers and flags from that text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

import orjson
from rest_framework import serializers
from rest_framework.fields import empty

from reef_site.common import clock
from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable, parse_number, to_storable

MAX_NUMBER = 1 << 53
MAX_JSON_BYTES = 256 << 10
MAX_SHOWN = 200
JSON_TYPES = ("object", "array", "string", "number", "boolean")
# The code of an error whose text is a whole sentence of its own.
SENTENCE = "sentence"

Json = dict[str, Any]
# An escaped NUL in JSON: its backslash is not itself escaped.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class ApiField(serializers.Field[Any, Any, Any, Any]):
    """Base of all fields. Missing and null values are passed to `to_internal_value` as None."""

    def run_validation(self, data: Any = empty) -> Any:
        if (data is empty and self.required) or (data is None and not self.allow_null):
            return self.to_internal_value(None)
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> Any:
        """Return the valid value. Raises ValidationError."""
        return data

    def to_representation(self, value: Any) -> Any:
        return value

    def schema(self) -> Json:
        """Return the field's OpenAPI schema, without description and null."""
        return {}

    def refuse(self, problem: str, code: str = "invalid") -> NoReturn:
        raise serializers.ValidationError(problem, code)

    @property
    def is_in_query(self) -> bool:
        return getattr(self.parent, "is_query", False)


class Text(ApiField):
    """Text of at most `length` characters, trimmed. With `blank=False` it must not be empty."""

    def __init__(
        self,
        *,
        length: int | None = None,
        strip: bool = True,
        blank: bool = True,
        accepts: Callable[[str], bool] = is_storable,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.length, self.strip, self.blank, self.accepts = length, strip, blank, accepts

    def to_internal_value(self, data: Any) -> str:
        if not self.blank and (data is None or (isinstance(data, str) and not data.strip())):
            self.refuse("is required", "required")
        if not isinstance(data, str):
            self.refuse("must be a string")
        text = data.strip() if self.strip else data
        if self.length is not None and len(text) > self.length:
            self.refuse(f"at most {self.length} characters")
        if not self.accepts(text):
            self.refuse("has characters that are no text")
        return text

    def schema(self) -> Json:
        least = {} if self.blank else {"minLength": 1}
        return {"type": "string", **least, **({"maxLength": self.length} if self.length else {})}


class NullableText(Text):
    """Text for which null is an empty text."""

    def to_internal_value(self, data: Any) -> str:
        return "" if data is None else super().to_internal_value(data)

    def schema(self) -> Json:
        return {**super().schema(), "type": ["string", "null"]}


class AnyText(Text):
    """Text that is only compared with what is stored: never refused, and not trimmed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(strip=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        return to_storable(str(data))


class WholeNumber(ApiField):
    """A whole number from `least` to `most`."""

    def __init__(self, *, least: int = 0, most: int = MAX_NUMBER, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.least, self.most = least, most

    def to_internal_value(self, data: Any) -> int:
        value = parse_number(data) if self.is_in_query and isinstance(data, str) else data
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not self.least <= value <= self.most
        ):
            self.refuse(f"must be a whole number from {self.least} to {self.most}")
        return value

    def schema(self) -> Json:
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


class Number(ApiField):
    """A number of a response."""

    def schema(self) -> Json:
        return {"type": "number"}


class Flag(ApiField):
    """True or false; in a query also 1 or 0."""

    def to_internal_value(self, data: Any) -> bool:
        if self.is_in_query and data in ("true", "false", "1", "0"):
            return data in ("true", "1")
        if not isinstance(data, bool):
            self.refuse("must be true or false")
        return data

    def schema(self) -> Json:
        return {"type": "boolean"}


class Choice(ApiField):
    """One of some texts."""

    def __init__(self, choices: Iterable[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.choices = tuple(map(str, choices))

    def to_internal_value(self, data: Any) -> str:
        for choice in self.choices:
            if data == choice:
                return choice
        return self.refuse(f"must be one of {', '.join(self.choices)}")

    def schema(self) -> Json:
        null = [None] if self.allow_null else []
        return {"type": "string", "enum": [*self.choices, *null]}


class NamedChoice(Choice):
    """A choice whose sentence repeats the wrong value: `invalid role: undefined`."""

    def run_validation(self, data: Any = empty) -> Any:
        if data is empty and self.required:
            self.refuse_value("undefined")
        return super().run_validation(data)

    def to_internal_value(self, data: Any) -> str:
        if data not in self.choices:
            self.refuse_value(
                data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
            )
        return str(data)

    def refuse_value(self, shown: str) -> NoReturn:
        text = shown.encode("utf-8", "replace").decode()[:MAX_SHOWN]
        self.refuse(f"invalid {self.field_name}: {text}", SENTENCE)


class Timestamp(ApiField):
    """An ISO 8601 timestamp."""

    def to_internal_value(self, data: Any) -> datetime:
        if not isinstance(data, str):
            self.refuse("must be a time")
        return clock.parse_timestamp(data, self.field_name or "")

    def schema(self) -> Json:
        return {"type": "string", "format": "date-time"}


class JsonValue(ApiField):
    """Any JSON value, or one of the JSON type `kind` (`object`, `array`)."""

    def __init__(self, kind: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind

    def to_internal_value(self, data: Any) -> Any:
        if self.kind == "array" and not isinstance(data, list):
            self.refuse("must be a list")
        if self.kind == "object" and not isinstance(data, dict):
            self.refuse("must be an object")
        return data

    def schema(self) -> Json:
        more: Json = {"items": {}} if self.kind == "array" else {}
        return {"type": self.kind or list(JSON_TYPES), **more}


class StoredJson(JsonValue):
    """A JSON value that every database can store and every client can parse."""

    def to_internal_value(self, data: Any) -> Any:
        value = super().to_internal_value(data)
        try:
            raw = orjson.dumps(value)
        except TypeError as error:
            self.refuse(f"cannot be kept ({error})")
        if len(raw) > MAX_JSON_BYTES:
            self.refuse(f"has {len(raw)} bytes, at most {MAX_JSON_BYTES} are kept")
        if _NUL.search(raw):
            self.refuse("has characters that are no text")
        return orjson.loads(raw)


class ListOf(ApiField):
    """A list of values of one field."""

    def __init__(
        self, child: ApiField, *, most: int, least: int = 0, of: str = "values", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.child, self.least, self.most, self.of = child, least, most, of
        child.bind("", self)  # type: ignore[arg-type]

    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list) or not self.least <= len(data) <= self.most:
            self.refuse(f"must be a list of {self.least} to {self.most} {self.of}")
        return [self.child.run_validation(each) for each in data]

    def schema(self) -> Json:
        limits = {"minItems": self.least, "maxItems": self.most}
        return {"type": "array", "items": self.child.schema(), **limits}


class Parsed(ApiField):
    """A value that a function of the domain parses; it raises BadInput."""

    def __init__(self, parse: Callable[[Any], Any], schema: Json, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parse, self.parsed_schema = parse, schema

    def to_internal_value(self, data: Any) -> Any:
        return self.parse(data)

    def schema(self) -> Json:
        return self.parsed_schema


class Cursor(WholeNumber):
    """`next` of an earlier page; 0 is the first page. `older_name` marks an alias of `cursor`."""

    def __init__(self, *, older_name: bool = False, **kwargs: Any) -> None:
        if older_name:
            kwargs |= {"source": "cursor", "help_text": "Older name of `cursor`."}
        super().__init__(**kwargs)

    def to_internal_value(self, data: Any) -> Any:
        return super().to_internal_value(data) or None


def problem_of(detail: Any, path: str = "") -> str:
    """Return the first problem of a ValidationError's detail as a sentence."""
    if isinstance(detail, Mapping):
        name, inner = next(iter(detail.items()))
        return problem_of(inner, f"{path}.{name}" if path else str(name))
    if isinstance(detail, list):
        number, inner = next((n, each) for n, each in enumerate(detail) if each)
        return problem_of(inner, f"{path}[{number}]" if isinstance(inner, Mapping) else path)
    code = getattr(detail, "code", "")
    if code == SENTENCE or not path:
        return str(detail)
    return f"{path} is required" if code == "required" else f"{path}: {detail}"


def bad_input(error: serializers.ValidationError) -> BadInput:
    """Return the error as BadInput, for callers outside of the API."""
    field = next(iter(error.detail)) if isinstance(error.detail, Mapping) else ""
    return BadInput(problem_of(error.detail), field)
