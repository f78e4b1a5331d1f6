"""One turn of the agent: from reef's message to the agent's last word."""

from __future__ import annotations

from .output import count_of, dicts, dig, emit, notice, reply, text_of
from .tools import Call, content_text

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

STOPPED, ABORTED, ERROR = "stop", "aborted", "error"
# Names of stop reasons that reef knows under other ones.
STOP_REASONS = {"end_turn": STOPPED, "cancelled": ABORTED, "max_tokens": "length"}
REFUSED = "The model refused to go on."
DELTAS = {"agent_message_chunk": "text_delta", "agent_thought_chunk": "thinking_delta"}
MAX_CALLS = 1000
PLAN_MARKS = {"completed": "☑", "in_progress": "▶"}
# Results of a prompt: the agent's names of token counts, and reef's.
USAGE = {
    "inputTokens": "input",
    "outputTokens": "output",
    "cachedReadTokens": "cacheRead",
    "cachedWriteTokens": "cacheWrite",
}


class Turn:
    """Prints what the agent reports between a message and the end of the answer to it."""

    def __init__(self, command: dict[str, Any], model: str) -> None:
        self._command, self._model = command, model
        self._block, self._kind, self._message = 0, "", ""
        self._calls: dict[str, Call] = {}
        self._plan = ""
        self.is_cancelled = False
        self.aborts: list[dict[str, Any]] = []  # answered when the turn has ended

    def begin(self) -> None:
        """Print that the agent takes up the message, before it gets it."""
        images = len(dicts(self._command.get("images")))
        content = str(self._command.get("message") or "")
        message = {"role": "user", "content": content, "images": images}
        emit(
            {"type": "agent_start"},
            {"type": "message_end", "message": message},
            reply(self._command),
        )

    def update(self, update: dict[str, Any]) -> None:
        """Print a `session/update`."""
        kind = text_of(update, "sessionUpdate")
        if kind in DELTAS:
            self._add_text(DELTAS[kind], update)
        elif kind in ("tool_call", "tool_call_update"):
            self.call_of(update).report(update, self._end_message)
        elif kind == "plan":
            self._show_plan(update)

    def call_of(self, report: dict[str, Any]) -> Call:
        """Return the tool call that a report is about."""
        ident = text_of(report, "toolCallId")[:200] or "call"
        if ident not in self._calls:
            if len(self._calls) >= MAX_CALLS:
                self._calls = {key: each for key, each in self._calls.items() if not each.is_ended}
            self._calls[ident] = Call(ident)
        return self._calls[ident]

    def ask_for(self, report: dict[str, Any]) -> None:
        """Show the tool call that needs a permission above the question.

        A call that was not reported before may never be: some agents ask about other things.
        """
        call = self._calls.get(text_of(report, "toolCallId")[:200])
        if call and not call.is_ended:
            call.report({key: report[key] for key in report if key != "status"}, self._end_message)
            call.start(self._end_message)

    def finish(self, stop: str, failure: str = "", usage: Any = None, cost: float = 0.0) -> None:
        """Print the end: a stop reason of the agent or of reef, and why it failed."""
        for call in self._calls.values():
            call.close()
        stop = STOP_REASONS.get(stop, stop) or STOPPED
        if stop == "refusal":
            stop, failure = ERROR, REFUSED
        end: dict[str, Any] = {"stopReason": stop}
        if failure:
            end["errorMessage"] = failure
        if isinstance(usage, dict) or cost:
            counts = {ours: count_of(usage, theirs) for theirs, ours in USAGE.items()}
            end["usage"] = {**counts, "cost": {"total": cost}}
        emit(
            {"type": "message_end", "message": {"role": "assistant", "model": self._model, **end}},
            {"type": "agent_end", "messages": []},
            {"type": "agent_settled"},
            *(reply(each) for each in self.aborts),
        )

    def _add_text(self, delta: str, update: dict[str, Any]) -> None:
        text, message = content_text(update.get("content")), text_of(update, "messageId")
        if not text:
            return
        if message and self._message and message != self._message:
            self._end_message()
        if self._kind and delta != self._kind:
            self._block += 1
        self._kind, self._message = delta, message
        event = {"type": delta, "contentIndex": self._block, "delta": text}
        emit({"type": "message_update", "assistantMessageEvent": event})

    def _end_message(self) -> None:
        """End the message of the model before a tool call, or before the next message."""
        if self._kind:
            end = {"role": "assistant", "model": self._model, "stopReason": "toolUse"}
            emit({"type": "message_end", "message": end})
        self._block, self._kind, self._message = 0, "", ""

    def _show_plan(self, update: dict[str, Any]) -> None:
        lines = [
            f"{PLAN_MARKS.get(text_of(each, 'status'), '☐')} {text_of(each, 'content')}"
            for each in dicts(dig(update, "entries"))
        ]
        text = "\n".join(["Plan:", *lines])
        if lines and text != self._plan:
            self._plan = text
            notice(text)
