"""Half surrogate pairs: JSON escapes can hold them, UTF-8 and databases cannot."""

from __future__ import annotations

import re
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_PLACE = 100


def has_surrogate(text: str) -> bool:
    """Whether this text cannot be written as UTF-8."""
    return _SURROGATE.search(text) is not None


def place_of_surrogate(value: Any, place: str = "") -> str:
    """Return where in a JSON value such a text stands, such as `beats[0].id`; empty if nowhere."""
    if isinstance(value, str):
        return (place or "body") if has_surrogate(value) else ""
    if isinstance(value, dict):
        for key, inner in value.items():
            if has_surrogate(key):
                return f"{place}." + "a name" if place else "a name in the body"
            if found := place_of_surrogate(inner, f"{place}.{key}" if place else key):
                return found[:MAX_PLACE]
    if isinstance(value, list):
        for number, inner in enumerate(value):
            if found := place_of_surrogate(inner, f"{place or 'body'}[{number}]"):
                return found[:MAX_PLACE]
    return ""


def repaired(value: Any) -> Any:
    """Return the same value with `?` in place of each half pair."""
    if isinstance(value, str):
        return _SURROGATE.sub("?", value)
    if isinstance(value, dict):
        return {repaired(key): repaired(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [repaired(inner) for inner in value]
    return value
