"""Decode what the runner reports; `runner.py` lists its events.

Damaged or unknown reports are no events, or events without the damaged part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lieutenants.agents import events
from lieutenants.agents.events import Event, Screening

Payload = dict[str, Any]


def decode(payload: Payload, screening: Screening) -> Event | None:
    """Return the event that the runner reported, with secrets covered; None if there is none."""
    name = payload.get("type")
    decoder = _DECODERS.get(name) if isinstance(name, str) else None
    if decoder is None:
        return None
    cover = screening.cover_message if name == "message_end" else screening.cover
    return decoder(cover(payload))


def _text(payload: Any, name: str) -> str:
    value = payload.get(name) if isinstance(payload, dict) else None
    return value if isinstance(value, str) else ""


def _count(payload: Payload, name: str) -> int:
    value = payload.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def _output(result: Any) -> str:
    """Join the texts of a result's content."""
    content = result.get("content") if isinstance(result, dict) else None
    return "".join(_text(each, "text") for each in content) if isinstance(content, list) else ""


def _message(payload: Payload) -> Event | None:
    """Decode the message, or the end of the answer; the journal has its text as deltas."""
    message = payload.get("message")
    role = _text(message, "role")
    if role == "user":
        left_out = _count(payload, "cut")
        return events.UserMessage(_text(message, "content"), bytes_left_out=left_out)
    if role != "assistant":
        return None
    stop = _text(message, "stopReason")
    return events.AssistantMessage(stop_reason=stop, failure=_text(message, "errorMessage"))


def _tool_started(payload: Payload) -> Event:
    call, tool = _text(payload, "toolCallId"), _text(payload, "toolName")
    return events.ToolStarted(call, tool, payload.get("args"))


def _tool_updated(payload: Payload) -> Event:
    return events.ToolUpdated(_text(payload, "toolCallId"), _output(payload.get("partialResult")))


def _tool_ended(payload: Payload) -> Event:
    return events.ToolEnded(
        call_id=_text(payload, "toolCallId"),
        tool=_text(payload, "toolName"),
        text=_output(payload.get("result")),
        is_error=bool(payload.get("isError")),
        killed_for_memory=bool(payload.get("killedForMemory")),
        bytes_left_out=_count(payload, "cut"),
    )


def _reply(payload: Payload) -> Event:
    data = payload.get("data")
    return events.Reply(
        request_id=_text(payload, "id"),
        success=bool(payload.get("success")),
        error=_text(payload, "error"),
        content=_content(_text(payload, "command"), data if isinstance(data, dict) else {}),
        evidence={key: value for key, value in payload.items() if key != "data"},
    )


def _content(command: str, data: Payload) -> events.ReplyContent | None:
    if command == "get_state":
        return events.AgentState(
            is_working=bool(data.get("isStreaming")),
            has_queue=bool(data.get("pendingMessageCount")),
        )
    if command == "clear_queue":
        texts = data.get("followUp")
        return events.QueueReturned(tuple(map(str, texts)) if isinstance(texts, list) else ())
    return events.MessageReceipt() if command == "prompt" else None


_DECODERS: dict[str, Callable[[Payload], Event | None]] = {
    "agent_start": lambda _: events.RunStarted(),
    "agent_end": lambda _: events.RunEnded(),
    "agent_settled": lambda _: events.Settled(),
    "message_end": _message,
    "tool_execution_start": _tool_started,
    "tool_execution_update": _tool_updated,
    "tool_execution_end": _tool_ended,
    "response": _reply,
}
