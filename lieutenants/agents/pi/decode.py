"""Decode what pi reports in RPC mode, both in journals of old and of new versions.

Damaged or unknown reports are no events, or events without the damaged part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from lieutenants.agents import events
from lieutenants.agents.events import Event, Screening
from lieutenants.agents.payloads import Payload, dicts, parse_count, text
from lieutenants.agents.pi import replies

# An abort during a tool call arrives as an error with one of these texts.
ABORTS = frozenset({"this operation was aborted", "request was aborted", "operation aborted"})
# Dialogs of an extension that wait for a reply; the other methods only inform.
DIALOGS = frozenset({"select", "confirm", "input", "editor"})
_MAX_TIMEOUT = 366 * 86_400_000

_REASONS: dict[str, Literal["full", "nearly full"]] = {
    "overflow": "full",
    "threshold": "nearly full",
}


def decode(payload: Payload, screening: Screening) -> Event | None:
    """Return the event that pi reported, with secrets covered; None if it does not matter."""
    name = payload.get("type")
    decoder = _DECODERS.get(name) if isinstance(name, str) else None
    if decoder is None:
        return None
    cover = screening.cover_message if name == "message_end" else screening.cover
    return decoder(cover(payload))


def text_of(content: Any) -> str:
    """Join the text blocks of a message's content."""
    if isinstance(content, str):
        return content
    parts = [each.get("text") for each in dicts(content)]
    return "".join(part for part in parts if isinstance(part, str))


def count_images(content: Any) -> int:
    """Return the number of images in a message's content."""
    return sum(1 for each in dicts(content) if each.get("type") == "image")


def is_abort(failure: Any) -> bool:
    """Return whether a failure is only the agent's own abort, by its text."""
    return isinstance(failure, str) and failure.strip(" .").lower() in ABORTS


# -- runs ------------------------------------------------------------------------------------


def _run_started(_payload: Payload) -> Event:
    return events.RunStarted()


def _run_ended(payload: Payload) -> Event:
    return events.RunEnded(
        stop_reason=text(payload, "stopReason"),
        failure=text(payload, "errorMessage"),
        will_retry=bool(payload.get("willRetry")),
    )


def _settled(payload: Payload) -> Event:
    return events.Settled(aborted=payload.get("aborted") is True)


def _turn_ended(_payload: Payload) -> Event:
    return events.TurnEnded()


# -- messages --------------------------------------------------------------------------------


def _message(payload: Payload) -> Event | None:
    message = payload.get("message")
    if not isinstance(message, dict):
        return None
    # The keeper adds these to a report that was too long for the journal.
    message |= {name: payload[name] for name in ("cut", "images") if name in payload}
    role = message.get("role")
    if role == "user":
        return _user_message(message)
    if role == "assistant":
        return _assistant_message(message)
    if role == "toolResult":
        return _tool_ended(message, message.get("content"), is_copy=True)
    return None


def _user_message(message: Payload) -> Event:
    content = message.get("content")
    return events.UserMessage(
        text=text_of(content),
        images=parse_count(message.get("images")) or count_images(content),
        bytes_left_out=parse_count(message.get("cut")),
    )


def _assistant_message(message: Payload) -> Event:
    content = message.get("content")
    found = [_block(*each) for each in enumerate(content if isinstance(content, list) else [])]
    return events.AssistantMessage(
        blocks=tuple(each for each in found if each is not None),
        stop_reason=text(message, "stopReason"),
        failure=text(message, "errorMessage"),
        is_abort=is_abort(message.get("errorMessage")),
        usage=_usage(message.get("usage")),
        provider=text(message, "provider"),
        model=text(message, "model"),
    )


def _block(number: int, block: Any) -> events.TextBlock | events.ToolCallBlock | None:
    if not isinstance(block, dict):
        return None
    kind = block.get("type")
    if kind == "text":
        return events.TextBlock(number, "text", text(block, "text"))
    if kind == "thinking":
        return events.TextBlock(number, "thinking", text(block, "thinking"))
    if kind == "toolCall":
        return events.ToolCallBlock(
            number, text(block, "name"), text(block, "id"), block.get("arguments")
        )
    return None


def _usage(usage: Any) -> events.TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    cost = usage.get("cost")
    return events.TokenUsage(
        input=parse_count(usage.get("input")),
        output=parse_count(usage.get("output")),
        cache_read=parse_count(usage.get("cacheRead")),
        cache_write=parse_count(usage.get("cacheWrite")),
        cost=cost.get("total") if isinstance(cost, dict) else 0,
    )


# -- tools -----------------------------------------------------------------------------------


def _tool_started(payload: Payload) -> Event:
    return events.ToolStarted(
        call_id=text(payload, "toolCallId"),
        tool=text(payload, "toolName"),
        arguments=payload.get("args"),
    )


def _tool_updated(payload: Payload) -> Event | None:
    partial = payload.get("partialResult")
    if not isinstance(partial, dict):
        return None
    return events.ToolUpdated(text(payload, "toolCallId"), text_of(partial.get("content")))


def _tool_execution_ended(payload: Payload) -> Event:
    result = payload.get("result")
    content = result.get("content") if isinstance(result, dict) else result
    return _tool_ended(payload, content)


def _tool_ended(payload: Payload, content: Any, *, is_copy: bool = False) -> Event:
    images, size = count_images(content), parse_count(payload.get("cut"))
    if size:
        images = parse_count(payload.get("images")) or images
    return events.ToolEnded(
        call_id=text(payload, "toolCallId"),
        tool=text(payload, "toolName"),
        text=text_of(content),
        images=images,
        is_error=bool(payload.get("isError")),
        killed_for_memory=bool(payload.get("killedForMemory")),
        bytes_left_out=size,
        duration_ms=parse_count(payload["durationMs"]) if "durationMs" in payload else None,
        is_copy=is_copy,
    )


# -- trouble with the model, context ---------------------------------------------------------


def _retry_started(payload: Payload) -> Event:
    return events.RetryStarted(
        failure=text(payload, "errorMessage"),
        attempt=str(payload.get("attempt")),
        max_attempts=str(payload.get("maxAttempts")),
        delay_ms=parse_count(payload.get("delayMs")),
        details=payload,
    )


def _retry_ended(payload: Payload) -> Event:
    return events.RetryEnded(
        success=bool(payload.get("success")),
        failure=text(payload, "finalError"),
        details=payload,
    )


def _compaction_started(payload: Payload) -> Event:
    return events.CompactionStarted(
        reason=_REASONS.get(str(payload.get("reason")), "requested"), details=payload
    )


def _compaction_ended(payload: Payload) -> Event:
    result = payload.get("result")
    done = result if isinstance(result, dict) else {}
    return events.CompactionEnded(
        success=isinstance(result, dict),
        failure=text(payload, "errorMessage"),
        aborted=bool(payload.get("aborted")),
        will_retry=bool(payload.get("willRetry")),
        tokens_before=parse_count(done.get("tokensBefore")),
        usage=_usage(done.get("usage")),
        details=payload,
    )


# -- extensions ------------------------------------------------------------------------------


def _extension_error(payload: Payload) -> Event:
    return events.ExtensionError(str(payload.get("extensionPath")), str(payload.get("error")))


def _ui_request(payload: Payload) -> Event | None:
    method, request = str(payload.get("method")), payload.get("id")
    if method == "notify":
        return events.Notice(text(payload, "message"))
    if method not in DIALOGS:
        return None
    return events.Dialog(
        request_id=request if isinstance(request, str) else None,
        kind=method,
        title=text(payload, "title"),
        message=text(payload, "message"),
        options=_options(payload.get("options")),
        placeholder=text(payload, "placeholder"),
        prefill=text(payload, "prefill"),
        timeout_seconds=min(parse_count(payload.get("timeout")), _MAX_TIMEOUT) / 1000 or None,
        is_cut="cut" in payload,
    )


def _options(options: Any) -> tuple[events.Option, ...]:
    """Return the texts among the options, each once."""
    texts = [each for each in options if isinstance(each, str)] if isinstance(options, list) else []
    return tuple(events.Option(each, each) for each in dict.fromkeys(texts))


_DECODERS: dict[str, Callable[[Payload], Event | None]] = {
    "agent_start": _run_started,
    "agent_end": _run_ended,
    "agent_settled": _settled,
    "turn_end": _turn_ended,
    "message_end": _message,
    "tool_execution_start": _tool_started,
    "tool_execution_update": _tool_updated,
    "tool_execution_end": _tool_execution_ended,
    "auto_retry_start": _retry_started,
    "auto_retry_end": _retry_ended,
    "compaction_start": _compaction_started,
    "compaction_end": _compaction_ended,
    "extension_error": _extension_error,
    "extension_ui_request": _ui_request,
    "response": replies.decode,
}
