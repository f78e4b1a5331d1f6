"""Commands that the agent runs through its client, beginning in its working folder."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess

from .files import Refused, inside
from .output import count_of, dicts, text_of

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_TERMINALS = 32
MAX_OUTPUT = 1 << 20
READ_BYTES = 64 << 10


class Terminal:
    """One command with the end of its output."""

    def __init__(self, selector: selectors.BaseSelector, params: dict[str, Any]) -> None:
        """Start the command. Raises Refused, OSError."""
        command, words = text_of(params, "command"), params.get("args")
        if not command:
            raise Refused("command: is required")
        given = list(map(str, words)) if isinstance(words, list) else None
        folder = inside(os.getcwd(), text_of(params, "cwd") or os.getcwd(), also_root=True)
        named = {text_of(each, "name"): text_of(each, "value") for each in dicts(params.get("env"))}
        named.pop("", None)
        self._limit = min(count_of(params, "outputByteLimit") or MAX_OUTPUT, MAX_OUTPUT)
        self._selector, self._output, self.is_cut = selector, b"", False
        # Without arguments it is a line for the shell.
        argv = ["/bin/sh", "-c", command] if given is None else [command, *given]
        self._process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**os.environ, **named},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        os.set_blocking(self._stdout.fileno(), False)
        selector.register(self._stdout, selectors.EVENT_READ, self.read)
        self.waiting: list[Callable[[dict[str, Any]], None]] = []

    @property
    def output(self) -> str:
        return self._output.decode("utf-8", "ignore")

    def read(self) -> None:
        """Read what is there."""
        if self._stdout.closed:
            return
        try:
            data = os.read(self._stdout.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        self._output += data
        if len(self._output) > self._limit:
            self._output, self.is_cut = self._output[-self._limit :], True
        if not data:
            self._close()

    def exit_status(self) -> dict[str, Any] | None:
        """Return how it ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        with contextlib.suppress(ValueError):
            if code < 0:
                return {"exitCode": None, "signal": signal.Signals(-code).name}
        return {"exitCode": abs(code), "signal": None}

    def tell(self) -> None:
        """Answer those that wait for its end, if it has ended."""
        status = self.exit_status()
        if status is None or not self.waiting:
            return
        self.read()
        waiting, self.waiting = self.waiting, []
        for respond in waiting:
            respond(status)

    def kill(self) -> None:
        """Kill the command with its children, if it still runs."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def release(self) -> None:
        """Kill it, and forget its output."""
        self.kill()
        self.tell()
        self._close()

    def _close(self) -> None:
        if not self._stdout.closed:
            self._selector.unregister(self._stdout)
            self._stdout.close()


class Terminals:
    """All commands of one agent."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._count = 0
        self._known: dict[str, Terminal] = {}

    def serve(
        self, method: str, params: dict[str, Any], respond: Callable[[dict[str, Any]], None]
    ) -> None:
        """Answer `terminal/…`, now or at the end of the command. Raises Refused, OSError."""
        if method == "terminal/create":
            respond({"terminalId": self._create(params)})
            return
        ident = text_of(params, "terminalId")
        terminal = self._known.get(ident)
        if terminal is None:
            raise Refused("terminalId: is not known")
        if method == "terminal/output":
            terminal.read()
            status = terminal.exit_status()
            shown = {"output": terminal.output, "truncated": terminal.is_cut}
            respond({**shown, **({"exitStatus": status} if status else {})})
        elif method == "terminal/wait_for_exit":
            terminal.waiting.append(respond)
            terminal.tell()
        elif method == "terminal/kill":
            terminal.kill()
            terminal.tell()
            respond({})
        elif method == "terminal/release":
            self._known.pop(ident).release()
            respond({})
        else:
            raise Refused(f"{method}: is not known")

    def reap(self) -> None:
        """Look for commands that have ended."""
        for terminal in list(self._known.values()):
            terminal.tell()

    def close(self) -> None:
        """End all commands."""
        for terminal in self._known.values():
            terminal.waiting.clear()
            terminal.release()
        self._known.clear()

    def _create(self, params: dict[str, Any]) -> str:
        if len(self._known) >= MAX_TERMINALS:
            raise Refused(f"{MAX_TERMINALS} terminals are open; release some")
        terminal = Terminal(self._selector, params)
        self._count += 1
        ident = f"terminal-{self._count}"
        self._known[ident] = terminal
        return ident
