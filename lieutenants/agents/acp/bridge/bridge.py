"""The bridge between reef's commands and one agent."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import time
from collections import deque

from . import files
from .commands import parse
from .output import dicts, emit, notice, reply, text_of
from .peer import INTERNAL_ERROR, METHOD_NOT_FOUND, READ_BYTES, Peer
from .permissions import Permissions
from .session import Session
from .terminals import Terminals
from .turn import ABORTED, ERROR, Turn

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

    from .options import Options
    from .peer import RpcError

# An agent that has not ended its turn so long after a cancel is started again.
CANCEL_SECONDS = 6.0
OUTSIDE = "The agent wrote outside of an answer; such text is left out."
TEXTS = ("agent_message_chunk", "tool_call")


class Bridge:
    """One loop over our stdin, our signals and the agent's pipes."""

    def __init__(self, options: Options) -> None:
        """Start the agent. Raises OSError."""
        self._options = options
        self._selector = selectors.DefaultSelector()
        self._permissions = Permissions(options.permissions)
        self._terminals = Terminals(self._selector)
        self._inbox = b""
        self._held: deque[dict[str, Any]] = deque()  # until the agent is ready
        self._queue: deque[dict[str, Any]] = deque()
        self._turn: Turn | None = None
        self._cancel_due: float | None = None
        self._is_ready = self._is_loading = False
        self._said_outside = False
        self._status: int | None = None
        self._peer, self._session = self._start()
        wakeup, self._signals = os.pipe()
        for end in (wakeup, self._signals):
            os.set_blocking(end, False)
        self._selector.register(wakeup, selectors.EVENT_READ, lambda: self._read_signals(wakeup))
        self._selector.register(0, selectors.EVENT_READ, self._read_commands)

    def _start(self) -> tuple[Peer, Session]:
        peer = Peer(self._options.command, self._selector, self)
        session = Session(peer, self._options, ready=self._on_ready, fail=self._fail)
        self._is_ready, self._is_loading = False, True
        session.open()
        return peer, session

    def serve(self) -> int:
        """Work until our stdin or the agent ends, or SIGTERM arrives; return the exit status."""
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        while self._status is None:
            for key, _ in self._selector.select(self._timeout()):
                # A handler before it may have closed the agent's pipes.
                if self._status is None and self._selector.get_map().get(key.fd) is key:
                    key.data()
            if self._cancel_due is not None and time.monotonic() >= self._cancel_due:
                self._restart_agent()
        return self._status

    def close(self) -> None:
        """End the agent, and the commands that it has begun."""
        self._terminals.close()
        self._peer.close()

    def _timeout(self) -> float | None:
        return None if self._cancel_due is None else max(0.0, self._cancel_due - time.monotonic())

    def _fail(self, why: str) -> None:
        sys.stderr.write(f"{why}\n")
        self._status = 1

    # -- reef -----------------------------------------------------------------------------

    def _read_signals(self, wakeup: int) -> None:
        if signal.SIGTERM in os.read(wakeup, READ_BYTES):
            self._status = 0
        self._terminals.reap()

    def _read_commands(self) -> None:
        data = os.read(0, READ_BYTES)
        if not data:
            self._status = 0
            return
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        for line in lines:
            self._obey(parse(line))

    def _obey(self, command: dict[str, Any]) -> None:
        kind = command.get("type")
        if kind == "extension_ui_response":
            self._permissions.answer(command)
        elif kind == "abort":
            self._abort(command)
        elif not self._is_ready:
            self._held.append(command)
        elif kind == "prompt":
            self._queue.append(command)
            self._next_turn()
        else:
            emit(self._answer(command))

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a question about the session."""
        kind, session = command.get("type"), self._session
        if kind == "get_state":
            state: dict[str, Any] = {
                "isStreaming": self._turn is not None,
                "pendingMessageCount": len(self._queue),
            }
            if session.model:
                names = [each["name"] for each in session.models if each["id"] == session.model]
                state["model"] = {"id": session.model, "name": names[0] if names else ""}
            return reply(command, data=state)
        if kind == "get_available_models":
            return reply(command, data={"models": session.models})
        if kind == "get_session_stats":
            return reply(command, data={"contextUsage": session.context})
        return reply(command, error=f"unknown command: {kind}")

    def _on_ready(self) -> None:
        self._is_ready, self._is_loading = True, False
        held, self._held = self._held, deque()
        for command in held:
            self._obey(command)
        self._next_turn()

    # -- turns ----------------------------------------------------------------------------

    def _next_turn(self) -> None:
        while self._queue and self._is_ready and self._turn is None:
            self._prompt(self._queue.popleft())

    def _prompt(self, command: dict[str, Any]) -> None:
        session, images = self._session, dicts(command.get("images"))
        if images and not session.takes_images:
            emit(reply(command, error="this agent takes no images"))
            return
        blocks: list[dict[str, Any]] = [{"type": "text", "text": str(command.get("message") or "")}]
        for each in images:
            image = {"data": each.get("data"), "mimeType": each.get("mimeType")}
            blocks.append({"type": "image", **image})
        if session.is_new:
            # The protocol has no other place for instructions.
            blocks[:0] = self._instructions()
        turn = self._turn = Turn(command, session.model)
        turn.begin()
        try:
            session.mark_used()
        except OSError as trouble:
            notice(f"The id of the session cannot be stored: {trouble.strerror}")
        params = {"sessionId": session.ident, "prompt": blocks}

        def done(result: Any, error: RpcError | None) -> None:
            self._end_turn(turn, result, error)

        self._peer.request("session/prompt", params, done)

    def _instructions(self) -> list[dict[str, str]]:
        try:
            with open(self._options.instructions, encoding="utf-8") as file:
                text = file.read().strip()
        except OSError as trouble:
            notice(f"The system prompt cannot be read: {trouble.strerror}")
            return []
        return (
            [{"type": "text", "text": f"<instructions>\n{text}\n</instructions>"}] if text else []
        )

    def _end_turn(self, turn: Turn, result: Any, error: RpcError | None) -> None:
        if turn is not self._turn:
            return
        self._turn, self._cancel_due = None, None
        cost = self._session.take_cost()
        if error and not turn.is_cancelled:
            turn.finish(ERROR, error.text, cost=cost)
        elif error:
            turn.finish(ABORTED, cost=cost)
        else:
            usage = result.get("usage") if isinstance(result, dict) else None
            turn.finish(text_of(result, "stopReason"), usage=usage, cost=cost)
        self._next_turn()

    def _abort(self, command: dict[str, Any]) -> None:
        for each in self._queue:
            emit(reply(each, error="withdrawn by an abort"))
        self._queue.clear()
        turn = self._turn
        if turn is None:
            emit(reply(command))
            return
        turn.aborts.append(command)
        if turn.is_cancelled:
            return
        turn.is_cancelled = True
        self._cancel_due = time.monotonic() + CANCEL_SECONDS
        self._peer.notify("session/cancel", {"sessionId": self._session.ident})
        self._permissions.cancel_all()

    def _restart_agent(self) -> None:
        """Start an agent again that does not obey a cancel; its session goes on."""
        turn, self._turn, self._cancel_due = self._turn, None, None
        self._permissions.cancel_all()
        self._terminals.close()
        self._peer.close()
        notice(
            f"The agent did not end its answer within {CANCEL_SECONDS:g} seconds of the abort, so "
            "it was started again."
        )
        if turn:
            turn.finish(ABORTED)
        try:
            self._peer, self._session = self._start()
        except OSError as trouble:
            self._fail(f"{self._options.command[0]} cannot be run: {trouble.strerror}")

    # -- the agent ------------------------------------------------------------------------

    def on_request(self, ident: Any, method: str, params: dict[str, Any]) -> None:
        """Answer a request of the agent."""
        if method == "session/request_permission":
            if self._turn and self._turn.is_cancelled:
                self._peer.respond(ident, {"outcome": {"outcome": "cancelled"}})
                return
            call = params.get("toolCall")
            if self._turn and isinstance(call, dict):
                self._turn.ask_for(call)
            self._permissions.ask(self._peer, ident, params)
        elif method in ("fs/read_text_file", "fs/write_text_file"):
            self._serve_file(ident, method, params)
        elif method.startswith("terminal/") and self._options.terminals:
            self._serve_terminal(ident, method, params)
        else:
            self._peer.refuse(ident, METHOD_NOT_FOUND, f"reef does not offer {method}")

    def _serve_file(self, ident: Any, method: str, params: dict[str, Any]) -> None:
        is_read = method == "fs/read_text_file"
        offered = files.capabilities(self._options.files)
        if not offered["readTextFile" if is_read else "writeTextFile"]:
            self._peer.refuse(ident, METHOD_NOT_FOUND, f"reef does not offer {method}")
            return
        folder = os.getcwd()
        try:
            result = None
            if is_read:
                result = files.read(folder, params)
            else:
                files.write(folder, params)
        except (files.Refused, OSError, ValueError) as trouble:
            self._peer.refuse(ident, INTERNAL_ERROR, str(trouble))
        else:
            self._peer.respond(ident, result)

    def _serve_terminal(self, ident: Any, method: str, params: dict[str, Any]) -> None:
        peer = self._peer

        def respond(result: dict[str, Any]) -> None:
            peer.respond(ident, result)

        try:
            self._terminals.serve(method, params, respond)
        except (files.Refused, OSError, ValueError) as trouble:
            peer.refuse(ident, INTERNAL_ERROR, str(trouble))

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        """Take over an update; those of a history that is loaded are not printed again."""
        update = params.get("update")
        if method != "session/update" or not isinstance(update, dict):
            return
        self._session.update(update)
        if self._is_loading:
            return
        if self._turn:
            self._turn.update(update)
        elif text_of(update, "sessionUpdate") in TEXTS and not self._said_outside:
            self._said_outside = True
            notice(OUTSIDE)

    def on_end(self) -> None:
        """End with the agent, and as it did."""
        status = self._peer.wait_for_end()
        how = f"with exit status {status}" if status >= 0 else f"by {_name(-status)}"
        sys.stderr.write(f"The agent's program ended {how}.\n")
        self._status = status if status >= 0 else 128 - status


def _name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
