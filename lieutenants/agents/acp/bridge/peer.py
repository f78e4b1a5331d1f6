"""The agent's process, and JSON-RPC over its pipes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time

from .output import ENCODER, garbage

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    class Handler(Protocol):
        """Receives what the agent asks and tells."""

        def on_request(self, ident: Any, method: str, params: dict[str, Any]) -> None: ...
        def on_notification(self, method: str, params: dict[str, Any]) -> None: ...
        def on_end(self) -> None: ...


READ_BYTES = 64 << 10
# A longer line is left out; images arrive in one line.
MAX_LINE = 64 << 20
# Waiting for an agent that does not read its input.
MAX_UNREAD = 64 << 20
END_SECONDS = 2.0
METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32601, -32602, -32603


class RpcError:
    """An error response."""

    def __init__(self, error: Any) -> None:
        facts = error if isinstance(error, dict) else {}
        self.code = facts.get("code")
        message, data = str(facts.get("message") or error), facts.get("data")
        details = data.get("details") if isinstance(data, dict) else data
        extra = details if isinstance(details, str) and details not in message else ""
        self.text = ": ".join(filter(None, [message, extra]))[:2000]


class LineReader:
    """Splits bytes into lines; of a line that is too long only the size is kept."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that are complete now."""
        *complete, rest = data.split(b"\n")
        lines = [self._end(each) for each in complete]
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > MAX_LINE:
            self._parts.clear()
        elif part:
            self._parts.append(part)

    def _end(self, part: bytes) -> bytes:
        self._keep(part)
        line, size = b"".join(self._parts), self._size
        self._parts, self._size = [], 0
        return line if size <= MAX_LINE else b"a line of %d bytes" % size


class Peer:
    """One process of the agent. Its stderr is the bridge's own."""

    def __init__(
        self, argv: Sequence[str], selector: selectors.BaseSelector, handler: Handler
    ) -> None:
        """Start the agent. Raises OSError."""
        self._selector, self._handler = selector, handler
        self._reader = LineReader()
        self._waiting: dict[int, Callable[[Any, RpcError | None], None]] = {}
        self._unsent = bytearray()
        self._last = 0
        self._is_closed = False
        self._process = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        for stream in (self._stdin, self._stdout):
            os.set_blocking(stream.fileno(), False)
        selector.register(self._stdout, selectors.EVENT_READ, self._read)

    # -- messages to the agent ------------------------------------------------------------

    def request(
        self,
        method: str,
        params: dict[str, Any],
        done: Callable[[Any, RpcError | None], None],
    ) -> None:
        """Send a request; `done` gets its result or its error, unless the agent ends first."""
        self._last += 1
        self._waiting[self._last] = done
        self._send({"id": self._last, "method": method, "params": params})

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification."""
        self._send({"method": method, "params": params})

    def respond(self, ident: Any, result: Any) -> None:
        """Answer a request of the agent."""
        self._send({"id": ident, "result": result})

    def refuse(self, ident: Any, code: int, message: str) -> None:
        """Answer a request of the agent with an error."""
        self._send({"id": ident, "error": {"code": code, "message": message}})

    def _send(self, message: dict[str, Any]) -> None:
        if self._is_closed or len(self._unsent) > MAX_UNREAD:
            return
        if not self._unsent:
            self._selector.register(self._stdin, selectors.EVENT_WRITE, self._write)
        self._unsent += ENCODER.encode({"jsonrpc": "2.0", **message}).encode() + b"\n"

    def _write(self) -> None:
        try:
            done = os.write(self._stdin.fileno(), self._unsent[:READ_BYTES])
        except BlockingIOError:
            return
        except OSError:
            done = len(self._unsent)  # it has closed its input: its end comes next
        del self._unsent[:done]
        if not self._unsent:
            self._selector.unregister(self._stdin)

    # -- messages from the agent ----------------------------------------------------------

    def _read(self) -> None:
        try:
            data = os.read(self._stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        for line in self._reader.feed(data):
            if self._is_closed:
                return
            if line.strip():
                self._take(line)
        if not data:
            self._selector.unregister(self._stdout)
            self._handler.on_end()

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            garbage(line)
            return
        try:
            self._handle(message, line)
        except RecursionError:
            # It could be parsed, but is nested too deeply to be passed on.
            garbage(line)
            if isinstance(message.get("method"), str) and message.get("id") is not None:
                self.refuse(message["id"], INVALID_PARAMS, "nested too deeply")

    def _handle(self, message: dict[str, Any], line: bytes) -> None:
        method, params, ident = message.get("method"), message.get("params"), message.get("id")
        known = params if isinstance(params, dict) else {}
        if isinstance(method, str) and ident is not None:
            self._handler.on_request(ident, method, known)
        elif isinstance(method, str):
            self._handler.on_notification(method, known)
        elif type(ident) is int and ident in self._waiting:
            # The first response counts.
            done = self._waiting.pop(ident)
            done(message.get("result"), RpcError(message["error"]) if "error" in message else None)
        else:
            garbage(line)

    # -- the end --------------------------------------------------------------------------

    def close(self) -> int:
        """End the agent and its children; return its exit status, negative after a signal."""
        if self._is_closed:
            return self._process.wait()
        self._is_closed = True
        for stream in (self._stdin, self._stdout):
            with contextlib.suppress(KeyError):
                self._selector.unregister(stream)
        with contextlib.suppress(OSError):
            self._stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Most end with their input.
            self._process.wait(0.3)
        self._signal(signal.SIGTERM)
        until = time.monotonic() + END_SECONDS
        while self._is_running() and time.monotonic() < until:
            time.sleep(0.02)
        self._signal(signal.SIGKILL)
        self._stdout.close()
        return self._process.wait()

    def wait_for_end(self) -> int:
        """Return the exit status of an agent that has closed its output; end it if it goes on."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        return self.close()

    def _is_running(self) -> bool:
        """Return whether it runs. It stays a zombie, so that its group's id stays its own."""
        if self._process.returncode is not None:
            return False
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is None

    def _signal(self, number: int) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, number)
