"""Decode pi's replies to commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lieutenants.agents import events
from lieutenants.agents.events import Event, ReplyContent
from lieutenants.agents.payloads import Payload, dicts, text

# A prompt's disposition, from 0.99.0 on.
DISPOSITIONS = frozenset({events.HANDLED, "queued", "started"})


def decode(payload: Payload) -> Event:
    """Return the reply to a command."""
    kind, data = payload.get("command"), payload.get("data")
    read = _CONTENTS.get(kind) if isinstance(kind, str) else None
    return events.Reply(
        request_id=text(payload, "id"),
        success=bool(payload.get("success")),
        error=str(payload.get("error")),
        content=read(data if isinstance(data, dict) else {}) if read else None,
        evidence={key: value for key, value in payload.items() if key != "data"},
    )


def _receipt(data: Payload) -> ReplyContent:
    disposition = text(data, "disposition")
    return events.MessageReceipt(disposition if disposition in DISPOSITIONS else "")


def _context_usage(data: Payload) -> ReplyContent:
    return events.ContextUsage(_figures(data))


def _figures(data: Payload) -> dict[str, float] | None:
    """Return `tokens`, `window` and `percent`; None if the agent does not know them.

    That is so right after a compaction, and in versions without this figure.
    """
    found = data.get("contextUsage")
    if not isinstance(found, dict):
        return None
    tokens, window = _tokens(found.get("tokens")), _tokens(found.get("contextWindow"))
    if tokens is None or not window:
        return None
    return {"tokens": tokens, "window": window, "percent": round(100 * tokens / window, 1)}


def _tokens(value: Any) -> int | None:
    """Return a count of tokens; None for anything invalid."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 1 << 53 else None


def _state(data: Payload) -> ReplyContent:
    model = data.get("model")
    return events.AgentState(
        is_working=bool(data.get("isStreaming")),
        has_queue=bool(data.get("pendingMessageCount")),
        model=_model(model) if isinstance(model, dict) else None,
        session_file=text(data, "sessionFile"),
    )


def _model(model: Payload) -> events.Model:
    inputs = model.get("input")
    return events.Model(
        name=f"{model.get('provider')}/{model.get('id')}",
        label=text(model, "name"),
        is_known="unknown" not in (model.get("id"), model.get("provider")),
        takes_images="image" in inputs if isinstance(inputs, list) else None,
    )


def _queue(data: Payload) -> ReplyContent:
    queues = [queue for queue in data.values() if isinstance(queue, list)]
    return events.QueueReturned(tuple(str(text) for queue in queues for text in queue))


def _models(data: Payload) -> ReplyContent:
    return events.ModelList(tuple(map(_model, dicts(data.get("models")))))


def _session_messages(data: Payload) -> ReplyContent:
    listed = dicts(data.get("messages"))
    return events.SessionMessages(
        tuple((str(each.get("entryId")), str(each.get("text"))) for each in listed)
    )


def _forked(data: Payload) -> ReplyContent:
    return events.SessionForked(cancelled=bool(data.get("cancelled")))


_CONTENTS: dict[str, Callable[[Payload], ReplyContent]] = {
    "prompt": _receipt,
    "get_state": _state,
    "get_session_stats": _context_usage,
    "clear_queue": _queue,
    "get_available_models": _models,
    "get_fork_messages": _session_messages,
    "fork": _forked,
}
