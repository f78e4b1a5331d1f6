"""Parse journal bytes into records, and build commands of the agent's RPC mode.

A journal holds one JSON array per line; `keeper.py` defines the kinds of records.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

import orjson

from reef_site.common.text import to_storable

Command = dict[str, Any]

# Characters that a database cannot store: NUL, and halves of surrogate pairs.
_SUSPECT = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")

DELTA_KINDS = {"t": "text", "k": "thinking", "c": "tool_call"}
# An abort during a tool call arrives as an error with one of these texts.
ABORTS = frozenset({"this operation was aborted", "request was aborted", "operation aborted"})
# Dialogs of an extension that wait for a reply; the other methods only inform.
DIALOGS = frozenset({"select", "confirm", "input", "editor"})

# A prompt's disposition: handled by a command, in the agent's queue, or begun. From 0.99.0 on.
HANDLED = "handled"
DISPOSITIONS = frozenset({HANDLED, "queued", "started"})


class Outgoing(NamedTuple):
    """A command for a keeper; its id makes sure that it is sent once."""

    id: str
    line: Command


def split(data: bytes) -> tuple[list[list[Any]], int]:
    """Return the complete records at the head of `data`, and how many bytes they take.

    An invalid record is returned as garbage, so that nothing blocks the follower.
    """
    end = data.rfind(b"\n") + 1
    return [_record(line) for line in data[:end].split(b"\n") if line], end


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


def prompt(message_id: str, text: str, *, steer: bool) -> Outgoing:
    """Build a message command.

    The agent's own `steer` and `follow_up` are never used: an idle agent loses those.
    """
    behaviour = "steer" if steer else "followUp"
    line = {"id": message_id, "type": "prompt", "message": text, "streamingBehavior": behaviour}
    return Outgoing(message_id, line)


def simple(kind: str, command_id: str) -> Outgoing:
    """Build a command without arguments: `get_state`, `abort`, `clear_queue`."""
    return Outgoing(command_id, {"id": command_id, "type": kind})


def dismiss(request_id: str) -> Outgoing:
    """Build the reply that dismisses a dialog."""
    line = {"type": "extension_ui_response", "id": request_id, "cancelled": True}
    return Outgoing(f"~ui-{request_id}", line)


def disposition_of(response: Command) -> str:
    """Return what the agent did with a prompt, see DISPOSITIONS; empty if it does not tell."""
    data = response.get("data")
    found = data.get("disposition") if isinstance(data, dict) else None
    return found if isinstance(found, str) and found in DISPOSITIONS else ""


def text_of(content: Any) -> str:
    """Join the text blocks of a message's content."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [each.get("text") for each in content if isinstance(each, dict)]
    return "".join(part for part in parts if isinstance(part, str))


def is_abort(failure: Any) -> bool:
    """Return whether a failure is only the agent's own abort, by its text."""
    return isinstance(failure, str) and failure.strip(" .").lower() in ABORTS


def count_images(content: Any) -> int:
    """Return the number of images in a message's content."""
    if not isinstance(content, list):
        return 0
    return sum(1 for each in content if isinstance(each, dict) and each.get("type") == "image")
