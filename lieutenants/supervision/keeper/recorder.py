"""From the agent's lines to records of the journal, without what nobody needs."""

from __future__ import annotations

import time

from .events import DELTAS, SUMMARY_LINES, THROTTLED, UPDATE_LINE, flood_kind
from .journal import now_ms
from .json_lines import dig, parse_object, read_update
from .limits import HEAD_CHARS, JOURNAL_BURST, JOURNAL_STEADY, UPDATE_CHARS
from .outlines import outline
from .pacing import Coalescer, Floods, Throttle, ToolUpdates

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .journal import Journal
    from .lines import Line


def was_killed(event: dict[str, Any]) -> bool:
    """Return whether a tool's result shows an end by SIGKILL, which shells report as 137."""
    content = dig(event, "result", "content")
    parts = content if isinstance(content, list) else []
    texts = [str(dig(part, "text") or "")[-HEAD_CHARS:] for part in parts]
    return any("137" in text or "SIGKILL" in text or "Killed" in text for text in texts)


def stop_fields(message: Any) -> dict[str, Any]:
    """Return how an assistant message ended: {"stopReason"?, "errorMessage"?}."""
    names = ("stopReason", "errorMessage")
    return {name: message[name] for name in names if dig(message, name) is not None}


def slim_message_start(event: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message_start", "message": {"role": dig(event, "message", "role")}}


def slim_turn_end(event: dict[str, Any]) -> dict[str, Any]:
    return {"type": "turn_end", "stopReason": dig(event, "message", "stopReason")}


def slim_agent_end(event: dict[str, Any]) -> dict[str, Any]:
    messages = event.get("messages")
    slim: dict[str, Any] = {"type": "agent_end"}
    if "willRetry" in event:
        slim["willRetry"] = event["willRetry"]
    for message in reversed(messages if isinstance(messages, list) else []):
        if dig(message, "role") == "assistant":
            slim.update(stop_fields(message))
            break
    return slim


def slim_tool_end(event: dict[str, Any]) -> dict[str, Any]:
    details = dig(event, "result", "details")
    if isinstance(details, dict):
        details.pop("truncation", None)
    drop_images(dig(event, "result", "content"))
    return event


def slim_message_end(event: dict[str, Any]) -> dict[str, Any]:
    drop_images(dig(event, "message", "content"))
    return event


def drop_images(content: Any) -> None:
    """Remove the data of images, which are only counted."""
    for block in content if isinstance(content, list) else []:
        if dig(block, "type") == "image":
            block.pop("data", None)


def slim_tool_update(event: dict[str, Any]) -> dict[str, Any]:
    """Keep the newest UPDATE_CHARS of the text; start and end have arguments and details."""
    content = dig(event, "partialResult", "content")
    texts = [dig(block, "text") for block in content] if isinstance(content, list) else []
    text = "".join(part for part in texts if isinstance(part, str))[-UPDATE_CHARS:]
    slim = {name: event.get(name) for name in ("type", "toolCallId", "toolName")}
    return {**slim, "partialResult": {"content": [{"type": "text", "text": text}]}}


SLIM: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "message_start": slim_message_start,
    "message_end": slim_message_end,
    "turn_end": slim_turn_end,
    "agent_end": slim_agent_end,
    "tool_execution_end": slim_tool_end,
}


class Recorder:
    """Turns the agent's lines into journal records, in order."""

    def __init__(
        self,
        journal: Journal,
        on_response: Callable[[str], None],
        killed_for_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        self._journal = journal
        self._killed_for_memory = killed_for_memory
        self._on_response = on_response
        self._coalescer = Coalescer(journal.add)
        self._floods = Floods(self._record)
        self._updates = ToolUpdates(self._write_event, self._floods.admit)
        self._last_stop: dict[str, Any] = {}  # of the last assistant message
        self._events = Throttle()  # those that become rows
        self._bytes, self._offered = Throttle(JOURNAL_BURST, JOURNAL_STEADY), journal.offered
        self.timers: list[Coalescer | ToolUpdates | Floods] = [
            self._coalescer,
            self._updates,
            self._floods,
        ]

    def take(self, line: Line, now: float) -> None:
        """Record one line."""
        if line.data.startswith(UPDATE_LINE):
            inner = read_update(line.data)
            if inner is not None:
                self._record_update(inner, now)
                return
        event = None if line.cut else parse_object(line.data)
        if event is not None:
            kind = flood_kind(event)
            if kind is None or self._floods.admit(kind, line.size, now):
                self._record_event(event, now)
        elif line.cut:
            self._record_cut(line, now)
        elif self._floods.admit("garbage", line.size, now):
            self._record(["g", now_ms(), line.head(), line.size])

    def wait(self, now: float) -> float:
        """Return for how many seconds reading should pause: journal and rows grow slowly."""
        self._bytes.count(now, self._journal.offered - self._offered)
        self._offered = self._journal.offered
        return max(self._events.wait(now), self._bytes.wait(now))

    def sent(self, ident: str) -> None:
        self._record(["s", now_ms(), ident])

    def finish(self) -> None:
        self._coalescer.flush()
        self._updates.tick(float("inf"))
        self._floods.flush(time.monotonic())

    def _record(self, record: list[Any]) -> None:
        self._coalescer.flush()
        self._journal.add(record)

    def _write_event(self, event: dict[str, Any]) -> None:
        self._record(["e", now_ms(), event])

    def _record_update(self, inner: Any, now: float) -> None:
        if not isinstance(inner, dict):
            return
        kind, index, text = inner.get("type"), inner.get("contentIndex"), inner.get("delta")
        index = index if type(index) is int else 0
        if kind in DELTAS and isinstance(text, str):
            self._coalescer.add(DELTAS[kind], index, text, now)
        elif kind == "toolcall_start" and self._floods.admit(kind, 0, now):
            names = {name: inner[name] for name in ("id", "toolName") if name in inner}
            self._write_event({"type": kind, "contentIndex": index, **names})

    def _record_cut(self, line: Line, now: float) -> None:
        """Record a line that was not kept as a whole: its outline, or only its length.

        The event gets `cut`, the size of the line, and `images`, their number.
        """
        event = outline(line.data, line.tail) or {}
        kind = str(event.get("type"))
        if kind in SUMMARY_LINES:
            retry = {"willRetry": True} if event.get("willRetry") is True else {}
            self._write_event({"type": kind, **retry, **self._last_stop})
        elif kind == "message_start":
            self._record_event(event, now)
        elif kind != "message_update" and flood_kind(event) is None:
            if kind == "message_end" and dig(event, "message", "role") == "assistant":
                # The text is known from its deltas.
                event["message"].pop("content", None)
            images = {"images": line.images} if line.images else {}
            self._record_event({**event, "cut": line.size, **images}, now)
        elif self._floods.admit("line", line.size, now):
            if kind == "message_update":
                self._record_update(event.get("assistantMessageEvent"), now)
            self._record(["l", now_ms(), line.head(), line.size])

    def _record_event(self, event: dict[str, Any], now: float) -> None:
        kind = event.get("type")
        if isinstance(kind, str) and kind in THROTTLED:
            self._events.count(now)
        if kind == "message_update":
            self._record_update(event.get("assistantMessageEvent"), now)
            return
        if kind == "tool_execution_update":
            self._updates.add(slim_tool_update(event), now)
            return
        if kind == "tool_execution_end":
            self._updates.forget(str(event.get("toolCallId")))
            if event.get("isError") and was_killed(event) and self._killed_for_memory():
                event = {**event, "killedForMemory": True}
        if kind == "message_end" and dig(event, "message", "role") == "assistant":
            self._last_stop = stop_fields(event["message"])
        self._write_event(SLIM[kind](event) if isinstance(kind, str) and kind in SLIM else event)
        if kind == "response" and isinstance(event.get("id"), str):
            self._on_response(event["id"])
