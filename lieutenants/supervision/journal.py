"""Parse a journal: one JSON array per line; the keeper's `recorder` writes them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from reef_site.common.text import to_storable

# Characters that a database cannot store: NUL, and halves of surrogate pairs.
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")

# Records with a piece of streamed text, and the kinds of their blocks.
DELTA_KINDS = {"t": "text", "k": "thinking", "c": "tool_call"}


def split(data: bytes, most: int = -1) -> tuple[list[list[Any]], int]:
    """Return the complete records at the head of `data`, and how many bytes they take.

    With `most`, return only so many. An invalid record is returned as garbage, so that nothing
    blocks the follower.
    """
    end = data.rfind(b"\n") + 1
    *lines, rest = data[:end].split(b"\n", most)
    return [_record(line) for line in lines if line], end - len(rest)


def _record(line: bytes) -> list[Any]:
    try:
        suspect = _SUSPECT.search(line)
        record = clean(json.loads(line)) if suspect else orjson.loads(line)
    except (ValueError, RecursionError):
        return ["g", 0, to_storable(line[:500].decode("utf-8", "replace")), len(line)]
    if isinstance(record, list) and record and isinstance(record[0], str):
        return record
    return ["g", 0, str(record)[:500], len(line)]


def clean(value: Any) -> Any:
    """Return the same JSON value with characters that cannot be stored replaced by U+FFFD.

    Raises ValueError for a number that JSON does not have (NaN, infinity).
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no number of JSON")
    if isinstance(value, str):
        return to_storable(value)
    if isinstance(value, list):
        return [clean(each) for each in value]
    if isinstance(value, dict):
        return {clean(key): clean(each) for key, each in value.items()}
    return value
