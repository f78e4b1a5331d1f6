"""Text from outside: what a database can store, what fits, what can be shown.

Standard library only: the installer on VMs uses it, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeGuard

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_MAX_PLACE = 100
# More digits are refused before they are converted; 18 fit into a database's integer.
_MAX_DIGITS = 18
_ELLIPSIS = "…"


# -- what can be stored ------------------------------------------------------------------------


def is_storable(value: object) -> TypeGuard[str]:
    """Return whether `value` is text that every database stores: without NUL or surrogates."""
    return isinstance(value, str) and _UNSTORABLE.search(value) is None


def to_storable(text: str) -> str:
    """Return the text with U+FFFD for NUL and lone surrogates; halves of one pair are joined.

    No stored text is equal to one that had to be changed, so it can be looked up without harm.
    """
    if is_storable(text):
        return text
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return joined.replace("\0", "\ufffd")


def replace_surrogates(value: Any) -> Any:
    """Return the JSON value with `?` for each surrogate in its texts and names."""
    return map_texts(value, lambda text: _SURROGATE.sub("?", text))


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return the JSON value with each text and name in it changed by `change`."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {map_texts(key, change): map_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(inner, change) for inner in value]
    return value


def find_surrogate(value: Any, place: str = "") -> str:
    """Return the place of the first text with a surrogate in a JSON value; empty if there is none.

    A place is such as `beats[0].id`. JSON escapes can hold surrogates, UTF-8 cannot.
    """
    if isinstance(value, str):
        return (place or "body") if _SURROGATE.search(value) else ""
    if isinstance(value, dict):
        for key, inner in value.items():
            if _SURROGATE.search(key):
                return f"{place}." + "a name" if place else "a name in the body"
            if found := find_surrogate(inner, f"{place}.{key}" if place else key):
                return found[:_MAX_PLACE]
    if isinstance(value, list):
        for number, inner in enumerate(value):
            if found := find_surrogate(inner, f"{place or 'body'}[{number}]"):
                return found[:_MAX_PLACE]
    return ""


# -- what fits ---------------------------------------------------------------------------------


def clip(text: str, length: int) -> str:
    """Return the text, cut to `length` characters with an ellipsis as the last one."""
    return text if len(text) <= length else text[: length - 1] + _ELLIPSIS


def clip_words(text: str, length: int) -> str:
    """Return the text, cut to `length` characters after a whole word."""
    if len(text) <= length:
        return text
    head = text[: length - 1]
    whole = head[: max(head.rfind(" "), head.rfind("\n"))].rstrip()
    # A single endless word has no better place to be cut.
    return f"{whole if len(whole) > length // 2 else head[:-1].rstrip()} {_ELLIPSIS}"


def clip_start(text: str, length: int) -> str:
    """Return the end of the text, at most `length` characters, from the beginning of a word on."""
    if len(text) <= length:
        return text
    tail = text[len(text) - length + 2 :]
    space = re.search(r"\s", tail)
    return f"{_ELLIPSIS} " + (tail[space.end() :] if space and space.end() < length // 2 else tail)


def one_line(text: str) -> str:
    """Return the text on one line, with one blank for each run of white space."""
    return " ".join(text.split())


def first_words(text: str, length: int) -> str:
    """Return the head of the text on one line, at most `length` characters of whole words."""
    return clip_words(one_line(text[: 4 * length]), length)


def first_line(text: str, length: int) -> str:
    """Return at most `length` characters of the first line."""
    return text.split("\n", 1)[0][:length]


# -- numbers -----------------------------------------------------------------------------------


def parse_number(text: str) -> int | None:
    """Return the whole number of at most 18 ASCII digits that the text is, else None."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if is_number else None


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units: 0.4 s, 12 s, 3 min 12 s, 2 h, 1 d 4 h."""
    tenths = max(0, int(seconds * 10))
    if tenths < 100:
        return f"{tenths // 10} s" if tenths % 10 == 0 else f"{tenths / 10:.1f} s"
    whole = tenths // 10
    place = next(number for number, (size, _) in enumerate(_UNITS) if whole >= size)
    parts = []
    for size, unit in _UNITS[place : place + 2]:
        count, whole = divmod(whole, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts)


# -- what can be shown -------------------------------------------------------------------------


def format_dollars(amount: Decimal | float) -> str:
    """Format US dollars; small amounts keep four digits."""
    value = float(amount)
    if value == 0:
        return "$0"
    return f"${value:.4f}" if value < 0.1 else f"${value:,.2f}"


def escape_unprintable(text: str, length: int) -> str:
    """Return the text with control and direction characters escaped, cut to `length` characters."""
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text[:length]
    )
    return clip(shown, length)
