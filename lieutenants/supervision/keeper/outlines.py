"""Outlines of JSON lines that are too long to be kept."""

from __future__ import annotations

from .json_lines import DECODER, dig
from .limits import OUTLINE_CHARS, OUTLINE_DEPTH

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any


def outline(head: bytes, tail: bytes) -> dict[str, Any] | None:
    """Return the members of a JSON object found in its first and last bytes;

    None for other values.
    """
    text = head.decode("utf-8", "replace")
    found, end = partial_value(text, 0, OUTLINE_DEPTH)
    if not isinstance(found, dict):
        return None
    if end is None:
        top, nested = last_members(tail.decode("utf-8", "replace"))
        cut = next(reversed(found.values()), None)  # the member in which the head ends
        if isinstance(cut, dict):
            cut.update({name: nested[name] for name in nested.keys() - cut.keys()})
        found.update({name: top[name] for name in top.keys() - found.keys()})
    trimmed = trim(found)
    return trimmed if isinstance(trimmed, dict) else None


def partial_value(text: str, at: int, depth: int) -> tuple[Any, int | None]:
    """Parse the JSON value at `at` of a text that may be cut off.

    Return the value and its end; None as the end if it is cut. Everything complete before the cut
    is kept, and the beginning of a cut string.
    """
    try:
        return DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        pass
    kind = text[at : at + 1]
    if not depth or not kind:
        return None, None
    if kind == '"':
        return partial_text(text[at:]), None
    if kind == "{":
        return partial_object(text, at, depth), None
    return (partial_list(text, at, depth), None) if kind == "[" else (None, None)


def partial_object(text: str, at: int, depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while True:
        try:
            key, at = DECODER.raw_decode(text, skip_space(text, at + 1))
        except (ValueError, RecursionError):
            return found
        at = skip_space(text, at)
        if not isinstance(key, str) or text[at : at + 1] != ":":
            return found
        value, end = partial_value(text, skip_space(text, at + 1), depth - 1)
        if value is not None or end is not None:
            found[key] = value
        if end is None:
            return found
        at = skip_space(text, end)
        if text[at : at + 1] != ",":
            return found


def partial_list(text: str, at: int, depth: int) -> list[Any]:
    found: list[Any] = []
    while True:
        value, end = partial_value(text, skip_space(text, at + 1), depth - 1)
        if value is not None or end is not None:
            found.append(value)
        if end is None:
            return found
        at = skip_space(text, end)
        if text[at : at + 1] != ",":
            return found


def partial_text(text: str) -> str | None:
    """Return the beginning of a JSON string that is cut off, perhaps in an escape."""
    for cut in range(13):
        try:
            value = DECODER.raw_decode(text[: len(text) - cut] + '"')[0]
        except ValueError:
            continue
        return value if isinstance(value, str) else None
    return None


def skip_space(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t"):
        at += 1
    return at


def last_members(tail: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last members of an object from its end, and those of the last object inside it."""
    top: dict[str, Any] = {}
    nested: dict[str, Any] = {}
    at = len(tail)
    for _ in range(200):
        at = tail.rfind(",", 0, at)
        if at < 0:
            break
        top = decoded('{"":0' + tail[at:]) or top
        nested = dig(decoded('{"":{"":0' + tail[at:]), "") or nested
    top.pop("", None)
    nested.pop("", None)
    return top, nested


def decoded(text: str) -> dict[str, Any] | None:
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def trim(value: Any) -> Any:
    """Return the value with long texts shortened and images without their data."""
    if isinstance(value, str):
        return value[:OUTLINE_CHARS]
    if isinstance(value, list):
        return [trim(each) for each in value]
    if isinstance(value, dict):
        image = value.get("type") == "image"
        return {key: trim(each) for key, each in value.items() if not (image and key == "data")}
    return value
