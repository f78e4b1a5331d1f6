"""Decode pi's replies to commands."""

from __future__ import annotations

from collections.abc import Callable

from lieutenants.agents import events
from lieutenants.agents.events import Event, ReplyContent
from lieutenants.agents.payloads import Payload, dicts, text
from lieutenants.agents.pi import context_usage

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
    return events.ContextUsage(context_usage.parse(data))


def _state(data: Payload) -> ReplyContent:
    model = data.get("model")
    return events.AgentState(
        is_working=bool(data.get("isStreaming")),
        has_queue=bool(data.get("pendingMessageCount")),
        model=_model(model) if isinstance(model, dict) else None,
        session_file=text(data, "sessionFile"),
    )


def _model(model: Payload) -> events.Model:
    return events.Model(
        name=f"{model.get('provider')}/{model.get('id')}",
        label=text(model, "name"),
        is_known="unknown" not in (model.get("id"), model.get("provider")),
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
