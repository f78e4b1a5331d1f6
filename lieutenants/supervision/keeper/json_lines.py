"""JSON in lines: of the agent, of the journal, of requests."""

from __future__ import annotations

import json

from .events import DELTAS
from .limits import KB, SHORT_LINE_BYTES

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any


def _finite(text: str) -> float | None:
    """Parse a JSON number; None if it is too big, since the journal holds no Infinity."""
    value = float(text)
    return value if value - value == 0 else None


DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
ASCII_ENCODER = json.JSONEncoder(separators=(",", ":"))


def pack(value: Any) -> bytes:
    """Return a compact JSON line; lone surrogates (not UTF-8) are escaped."""
    try:
        return ENCODER.encode(value).encode() + b"\n"
    except UnicodeEncodeError:
        return ASCII_ENCODER.encode(value).encode() + b"\n"


def parse_object(data: bytes) -> dict[str, Any] | None:
    """Parse the JSON object in a line; None if there is none."""
    try:
        value = DECODER.decode(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def dig(value: Any, *keys: str) -> Any:
    """Return the value under nested keys, or None."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def inner_event(text: str) -> dict[str, Any] | None:
    """Read a message_update's assistantMessageEvent, no further than needed.

    Older agents repeat the whole message under "partial" and "message", which are skipped. Returns
    None if the text ends early or has another shape.
    """
    fields: dict[str, Any] = {}
    inside, at = False, 1
    try:
        while True:
            key, at = DECODER.raw_decode(text, at)
            if text[at] != ":":
                return None
            at += 1
            if inside and key in ("partial", "message"):
                return fields if "delta" in fields or fields.get("type") not in DELTAS else None
            if key == "assistantMessageEvent" and text[at] == "{":
                inside, at = True, at + 1
                continue
            value, at = DECODER.raw_decode(text, at)
            if inside:
                fields[key] = value
            if text[at] != ",":
                return fields if inside and text[at] == "}" else None
            at += 1
    except (ValueError, IndexError, RecursionError):
        return None


def read_update(data: bytes) -> dict[str, Any] | None:
    """Return the inner event of a message_update line, even of an incomplete line."""
    if len(data) <= SHORT_LINE_BYTES:
        inner = dig(parse_object(data), "assistantMessageEvent")
        if isinstance(inner, dict):
            return inner
    for size in (4 * KB, len(data)):
        inner = inner_event(data[:size].decode("utf-8", "replace"))
        if inner is not None or len(data) <= size:
            return inner
    return None
