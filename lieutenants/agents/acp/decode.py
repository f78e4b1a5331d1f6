"""Decode what the bridge reports, in the shapes that keepers know.

Damaged or unknown reports are no events, or events without the damaged part.
"""

from __future__ import annotations

from collections.abc import Callable

from lieutenants.agents import events
from lieutenants.agents.events import Event, Screening
from lieutenants.agents.payloads import Payload, dicts, parse_count, text


def decode(payload: Payload, screening: Screening) -> Event | None:
    """Return the event that the bridge reported, with secrets covered; None if there is none."""
    name = payload.get("type")
    decoder = _DECODERS.get(name) if isinstance(name, str) else None
    if decoder is None:
        return None
    cover = screening.cover_message if name == "message_end" else screening.cover
    return decoder(cover(payload))


def _member(payload: Payload, name: str) -> Payload:
    value = payload.get(name)
    return value if isinstance(value, dict) else {}


def _message(payload: Payload) -> Event | None:
    """Decode a message; the journal has the text of the agent as deltas."""
    message = _member(payload, "message")
    role = text(message, "role")
    if role == "user":
        return events.UserMessage(
            text(message, "content"),
            images=parse_count(message.get("images")),
            bytes_left_out=parse_count(payload.get("cut")),
        )
    if role != "assistant":
        return None
    provider, slash, model = text(message, "model").partition("/")
    return events.AssistantMessage(
        stop_reason=text(message, "stopReason"),
        failure=text(message, "errorMessage"),
        usage=_usage(message.get("usage")),
        provider=provider if slash else "",
        model=model if slash else provider,
    )


def _usage(usage: object) -> events.TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    return events.TokenUsage(
        input=parse_count(usage.get("input")),
        output=parse_count(usage.get("output")),
        cache_read=parse_count(usage.get("cacheRead")),
        cache_write=parse_count(usage.get("cacheWrite")),
        cost=_member(usage, "cost").get("total", 0),
    )


def _output(result: Payload) -> str:
    return "".join(text(each, "text") for each in dicts(result.get("content")))


def _tool_started(payload: Payload) -> Event:
    call, tool = text(payload, "toolCallId"), text(payload, "toolName")
    return events.ToolStarted(call, tool, payload.get("args"))


def _tool_updated(payload: Payload) -> Event:
    return events.ToolUpdated(
        text(payload, "toolCallId"), _output(_member(payload, "partialResult"))
    )


def _tool_ended(payload: Payload) -> Event:
    result = _member(payload, "result")
    images = sum(each.get("type") == "image" for each in dicts(result.get("content")))
    return events.ToolEnded(
        call_id=text(payload, "toolCallId"),
        tool=text(payload, "toolName"),
        text=_output(result),
        images=parse_count(payload.get("images")) or images,
        is_error=bool(payload.get("isError")),
        killed_for_memory=bool(payload.get("killedForMemory")),
        bytes_left_out=parse_count(payload.get("cut")),
    )


def _ui_request(payload: Payload) -> Event | None:
    if payload.get("method") == "notify":
        return events.Notice(text(payload, "message"))
    request = payload.get("id")
    options = dicts(payload.get("options"))
    return events.Dialog(
        request_id=request if isinstance(request, str) else None,
        kind="permission",
        title=text(payload, "title"),
        message=text(payload, "message"),
        options=tuple(events.Option(text(each, "value"), text(each, "label")) for each in options),
        is_cut="cut" in payload,
    )


def _reply(payload: Payload) -> Event:
    return events.Reply(
        request_id=text(payload, "id"),
        success=bool(payload.get("success")),
        error=text(payload, "error"),
        content=_content(text(payload, "command"), _member(payload, "data")),
        evidence={key: value for key, value in payload.items() if key != "data"},
    )


def _content(command: str, data: Payload) -> events.ReplyContent | None:
    if command == "get_state":
        model = _member(data, "model")
        return events.AgentState(
            is_working=bool(data.get("isStreaming")),
            has_queue=bool(data.get("pendingMessageCount")),
            model=_model(model) if text(model, "id") else None,
        )
    if command == "get_available_models":
        return events.ModelList(tuple(map(_model, dicts(data.get("models")))))
    if command == "get_session_stats":
        return events.ContextUsage(_figures(_member(data, "contextUsage")))
    return events.MessageReceipt() if command == "prompt" else None


def _model(model: Payload) -> events.Model:
    return events.Model(name=text(model, "id"), label=text(model, "name"))


def _figures(found: Payload) -> dict[str, float] | None:
    tokens, window = parse_count(found.get("tokens")), parse_count(found.get("contextWindow"))
    if not window:
        return None
    return {"tokens": tokens, "window": window, "percent": round(100 * tokens / window, 1)}


_DECODERS: dict[str, Callable[[Payload], Event | None]] = {
    "agent_start": lambda _: events.RunStarted(),
    "agent_end": lambda _: events.RunEnded(),
    "agent_settled": lambda _: events.Settled(),
    "message_end": _message,
    "tool_execution_start": _tool_started,
    "tool_execution_update": _tool_updated,
    "tool_execution_end": _tool_ended,
    "extension_ui_request": _ui_request,
    "response": _reply,
}
