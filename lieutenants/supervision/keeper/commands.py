"""Commands to the agent: lines for its stdin, and the steps of a stop."""

from __future__ import annotations

import os
import signal
import time
from collections import deque

from .control import refusal
from .journal import log_problem
from .json_lines import pack
from .limits import MAX_PENDING_BYTES, MAX_REMEMBERED_IDS

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .agent import Agent


class Outbox:
    """Pending lines for the agent's stdin, and the ids of the last accepted commands."""

    def __init__(self, stdin: int, on_sent: Callable[[str], None]) -> None:
        self._stdin = stdin
        self._on_sent = on_sent
        self._lines: deque[tuple[str, bytes]] = deque()
        self._done = 0  # bytes of the first line that are written
        self._seen: dict[str, None] = {}
        self.open = True
        self.bytes = 0

    def push(self, ident: str, line: dict[str, Any]) -> dict[str, Any]:
        """Accept a command once; return the reply for the client."""
        if ident in self._seen:
            return {"ok": True, "repeated": True}
        data = pack(line)
        if not self.open:
            return refusal("the agent has closed its input")
        if self.bytes + len(data) > MAX_PENDING_BYTES:
            return refusal("the agent does not read: {} bytes wait".format(self.bytes))
        if ident:
            self._remember(ident)
        self._lines.append((ident, data))
        self.bytes += len(data)
        return {"ok": True}

    def _remember(self, ident: str) -> None:
        self._seen[ident] = None
        if len(self._seen) > MAX_REMEMBERED_IDS:
            del self._seen[next(iter(self._seen))]

    def write(self) -> None:
        """Write as much as the agent accepts now."""
        while self._lines:
            ident, data = self._lines[0]
            try:
                done = os.write(self._stdin, memoryview(data)[self._done :])
            except BlockingIOError:
                return
            except OSError as trouble:
                self._close(trouble)
                return
            self.bytes -= done
            self._done += done
            if self._done == len(data):
                self._lines.popleft()
                self._done = 0
                if ident:
                    self._on_sent(ident)

    def _close(self, trouble: OSError) -> None:
        log_problem("stdin of the agent: {}".format(trouble.strerror))
        self._lines.clear()
        self.open, self.bytes = False, 0


class StopSequence:
    """The steps of a stop: a final command, SIGTERM, SIGKILL."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._grace = 0.0
        self._final_command = ""
        self._steps: list[int] = []
        self.begun = False
        self.due: float | None = None

    def begin(self, grace: float, final_command: str = "", wait: float = 0.0) -> None:
        """Start the steps. The response to `final_command` (an id) is awaited first."""
        self.begun = True
        self._grace, self._final_command = grace, final_command
        self._steps = [signal.SIGKILL, signal.SIGTERM]
        self.due = time.monotonic() + (wait if final_command else 0.0)

    def on_response(self, ident: str) -> None:
        """Continue with the steps when the agent has responded to the final command."""
        if self.begun and ident == self._final_command and len(self._steps) == 2:
            self.due = time.monotonic()

    def tick(self, now: float) -> None:
        if self.due is None or now < self.due:
            return
        self._agent.signal(self._steps.pop())
        self._agent.signal(signal.SIGCONT)  # a suspended agent must wake up to end
        self.due = now + self._grace if self._steps else None
