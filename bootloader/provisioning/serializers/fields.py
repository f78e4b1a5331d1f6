"""Fields and limits that several requests share."""

from __future__ import annotations

from typing import Any

from bootloader import providers
from bootloader.provisioning import requests
from bootloader.serializers import FalsyIsAbsent
from reef_site.common.api.fields import JsonValue, ListOf, Text
from reef_site.common.text import is_storable
from vmtree import aliases

Json = dict[str, Any]
MAX_ROWS = 1000
DEFAULT_ROWS = 100
MAX_LENGTH = 255
MAX_NAMES = 200
ABSENT: Json = {"required": False, "allow_null": True}


class OneLine(Text):
    """Text without control characters, trimmed."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(length=MAX_LENGTH, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if data is None:
            self.refuse("is required", "required")
        if not is_storable(data) or any(ord(sign) < 32 for sign in data):
            self.refuse("must be text")
        text = data.strip()
        if len(text) > MAX_LENGTH:
            self.refuse(f"at most {MAX_LENGTH} characters")
        if not self.blank and not text:
            self.refuse("is required", "required")
        return text


class OptionalLine(FalsyIsAbsent, OneLine):
    """One line that may be absent or empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, blank=False, **kwargs)


class OneLineList(ListOf):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(OneLine(blank=False), most=MAX_NAMES, **kwargs)

    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list) or len(data) > self.most:
            self.refuse("must be a list of text")
        return super().to_internal_value(data)


class Labels(JsonValue):
    """An object of texts."""

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict) or len(data) > MAX_NAMES:
            self.refuse("must be an object of texts")
        read = OneLine(blank=False).to_internal_value
        return {read(name): read(value) for name, value in data.items()}

    def schema(self) -> Json:
        value = OneLine(blank=False).schema()
        return {"type": "object", "maxProperties": MAX_NAMES, "additionalProperties": value}


class ParentVM(OneLine):
    def to_internal_value(self, data: Any) -> str:
        return aliases.resolve(super().to_internal_value(data))


class KnownProvider(OneLine):
    def to_internal_value(self, data: Any) -> str:
        slug = super().to_internal_value(data)
        if slug and (problem := providers.slug_problem(slug)):
            self.refuse(problem)
        return slug


class KnownProfile(OneLine):
    def to_internal_value(self, data: Any) -> str:
        return requests.parse_profile(super().to_internal_value(data))
