"""Fields that several parts of the bootloader's API share."""

from __future__ import annotations

from typing import Any

from rest_framework.fields import empty

from reef_site.common.api.fields import ApiField, ListOf, Text


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
