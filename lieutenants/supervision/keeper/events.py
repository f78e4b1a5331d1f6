"""Kinds of events, and the beginnings of lines by which they are recognized."""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

UPDATE_LINE = b'{"type":"message_update"'
SUMMARY_LINES = {"agent_end": b'{"type":"agent_end"', "turn_end": b'{"type":"turn_end"'}
START_LINE = b'{"type":"message_start"'
IMAGES = (b'"type":"image"', b'"type": "image"')
# Each of these changes the known state of the agent: they are never left out.
ESSENTIAL = frozenset(
    (
        *("agent_start", "agent_end", "agent_settled", "turn_start", "turn_end"),
        *("message_start", "message_update", "message_end", "queue_update", "response"),
        *("tool_execution_start", "tool_execution_update", "tool_execution_end"),
        *("auto_retry_start", "auto_retry_end", "compaction_start", "compaction_end"),
    )
)
# Each of these becomes rows, in unlimited number.
THROTTLED = frozenset(
    (
        *("agent_start", "message_end", "extension_ui_request"),
        *("tool_execution_start", "tool_execution_end"),
        *("auto_retry_start", "auto_retry_end", "compaction_start", "compaction_end"),
    )
)
DIALOGS = frozenset({"select", "confirm", "input", "editor"})  # dialogs that wait for a reply
ROW_KINDS = frozenset({"extension_error", "notify", "garbage", "line"})
DELTAS = {"text_delta": "t", "thinking_delta": "k", "toolcall_delta": "c"}


def flood_kind(event: dict[str, Any]) -> str | None:
    """Return the kind under which an event is counted; None if it is never left out."""
    kind = str(event.get("type"))
    if kind == "extension_ui_request":
        method = str(event.get("method"))
        return None if method in DIALOGS else method[:60]
    return None if kind in ESSENTIAL else kind[:60]
