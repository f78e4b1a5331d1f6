"""Values of a page's query or form. A value that is not valid counts as absent."""

from __future__ import annotations

from django.http import QueryDict

from reef_site.common.text import parse_number


def text_value(values: QueryDict, name: str, length: int = 200) -> str:
    """Return the text without surrounding blanks and NUL, cut to `length` characters."""
    return values.get(name, "").replace("\0", "").strip()[:length]


def number_value(values: QueryDict, name: str, *, default: int = 0, most: int = 1 << 62) -> int:
    """Return the whole number, at most `most`."""
    number = parse_number(values.get(name, ""))
    return default if number is None else min(number, most)
