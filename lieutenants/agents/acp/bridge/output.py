"""Events for the keeper on stdout, in the shapes that it knows."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

MAX_GARBAGE = 2000
ENCODER = json.JSONEncoder(separators=(",", ":"))


def emit(*events: dict[str, Any]) -> None:
    """Print events in one piece."""
    _print(b"".join(ENCODER.encode(event).encode() + b"\n" for event in events))


def garbage(line: bytes) -> None:
    """Print a line of the agent that is not its protocol, so that the keeper sees that, too."""
    head = line[:MAX_GARBAGE].decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    _print(f"agent: {head}\n".encode("utf-8", "replace"))


def notice(text: str) -> None:
    """Tell readers of the transcript something."""
    emit({"type": "extension_ui_request", "method": "notify", "message": text})


def reply(command: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the response to a command of reef."""
    answered = {"type": "response", "id": command.get("id"), "command": command.get("type")}
    return {**answered, "success": "error" not in more, **more}


def text_block(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def dig(value: Any, *names: str) -> Any:
    """Return a member of nested objects; None if it is missing."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def text_of(value: Any, *names: str) -> str:
    """Return a member of nested objects as text; empty if it is missing or no text."""
    found = dig(value, *names)
    return found if isinstance(found, str) else ""


def dicts(values: Any) -> list[dict[str, Any]]:
    """Return the objects of a list; empty for anything else."""
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def count_of(value: Any, *names: str) -> int:
    """Return a member of nested objects as a count; 0 for anything invalid."""
    found = dig(value, *names)
    is_number = isinstance(found, (int, float)) and not isinstance(found, bool)
    return int(found) if is_number and 0 <= found < 1 << 53 else 0


def _print(data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]
