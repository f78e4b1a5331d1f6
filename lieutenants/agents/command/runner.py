"""Runs a program once for each message: the message on its stdin, its stdout is the answer.

Standalone (standard library, Python 3.8 or newer); the keeper starts it like any agent:

    python3 runner.py PROGRAM [ARGUMENT...]

It speaks JSON lines in the shapes that the keeper knows. Commands on stdin, each with an `id`:
`prompt` (`message`), `abort`, `clear_queue`, `get_state`. On stdout, for each message: agent_start,
message_end (user), tool_execution_start, the response, text deltas of the program's stdout,
tool_execution_update and tool_execution_end (its stderr and how it ended), message_end (assistant),
agent_end, agent_settled. The program runs in a session of its own, without a shell, with the
message's id in REEF_MESSAGE_ID. One message is worked on at a time; the runner remembers nothing.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from typing import Any

KB = 1 << 10
READ_BYTES = 64 * KB
# Of a longer output the first and the last part are kept.
HEAD_CHARS, TAIL_CHARS = 1000 * KB, 24 * KB
STDERR_CHARS = 16 * KB  # kept of the end of stderr
FAILURE_CHARS = 600  # of the end of stderr, in the reason of a failure
UPDATE_SECONDS = 0.5
KILL_SECONDS = 2.0  # between SIGTERM and SIGKILL; less than the keeper waits
DRAIN_SECONDS = 0.5  # how long output is read after the program has ended
CANNOT_RUN = 127
ENCODER = json.JSONEncoder(separators=(",", ":"))


def emit(*events: dict[str, Any]) -> None:
    """Print events in one piece."""
    data = memoryview(b"".join(ENCODER.encode(event).encode() + b"\n" for event in events))
    while data:
        data = data[os.write(1, data) :]


def reply(command: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the response to a command."""
    answered = {"type": "response", "id": command.get("id"), "command": command.get("type")}
    return {**answered, "success": "error" not in more, **more}


def text_block(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def parse(line: bytes) -> dict[str, Any]:
    """Parse a command; an empty object if it is none."""
    try:
        value = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class Text:
    """Decodes output that may end in the middle of a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def decode(self, data: bytes) -> str:
        """Decode a piece; empty data is the end."""
        return self._decoder.decode(data, final=not data)


class Answer:
    """The program's stdout: streamed up to HEAD_CHARS, then only its end is kept."""

    def __init__(self) -> None:
        self._text = Text()
        self._shown = 0
        self._tail: deque[str] = deque()
        self._held = self._left_out = 0

    def add(self, data: bytes) -> None:
        text = self._text.decode(data)
        head = text[: HEAD_CHARS - self._shown]
        self._shown += len(head)
        self._stream(head)
        self._hold(text[len(head) :])

    def finish(self) -> None:
        """Print the held end, after a note about the characters between."""
        self.add(b"")
        tail = "".join(self._tail)
        left_out = self._left_out + max(0, len(tail) - TAIL_CHARS)
        if left_out:
            self._stream(f"\n\n… {left_out:,} characters left out …\n\n")
        self._stream(tail[-TAIL_CHARS:])

    def _hold(self, text: str) -> None:
        if text:
            self._tail.append(text)
            self._held += len(text)
        while self._tail and self._held - len(self._tail[0]) >= TAIL_CHARS:
            dropped = len(self._tail.popleft())
            self._held -= dropped
            self._left_out += dropped

    @staticmethod
    def _stream(text: str) -> None:
        if text:
            delta = {"type": "text_delta", "contentIndex": 0, "delta": text}
            emit({"type": "message_update", "assistantMessageEvent": delta})


class Errors:
    """The end of the program's stderr."""

    def __init__(self) -> None:
        self._text = Text()
        self._left_out = 0
        self.tail = ""

    def add(self, data: bytes) -> None:
        text = self.tail + self._text.decode(data)
        self._left_out += max(0, len(text) - STDERR_CHARS)
        self.tail = text[-STDERR_CHARS:]

    def shown(self) -> str:
        """Return the kept end, with a note if something was left out."""
        note = f"… {self._left_out:,} characters left out …\n" if self._left_out else ""
        return note + self.tail


class Run:
    """One run of the program, for one message."""

    def __init__(self, argv: list[str], command: dict[str, Any], number: int) -> None:
        self._argv = argv
        self._command = command
        self._call = {
            "toolCallId": f"run-{os.getpid()}-{number}",
            "toolName": os.path.basename(argv[0]),
        }
        self._answer, self._errors = Answer(), Errors()
        self._input = memoryview(str(command.get("message") or "").encode("utf-8", "replace"))
        self._process: subprocess.Popen[bytes] | None = None
        self._update_due: float | None = None
        self._kill_due: float | None = None
        self._drain_due: float | None = None
        self._open: set[int] = set()
        self.aborted = False
        self.ended = False

    def begin(self, selector: selectors.BaseSelector) -> None:
        """Report the run, then start the program, so that a reported message is not run again."""
        message = {"role": "user", "content": str(self._command.get("message") or "")}
        emit(
            {"type": "agent_start"},
            {"type": "message_end", "message": message},
            {
                "type": "tool_execution_start",
                **self._call,
                "args": {"command": " ".join(map(shlex.quote, self._argv))},
            },
            reply(self._command),
        )
        try:
            self._start(selector)
        except OSError as trouble:
            self._report("", f"{self._argv[0]} cannot be run: {trouble.strerror}")

    def _start(self, selector: selectors.BaseSelector) -> None:
        process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "REEF_MESSAGE_ID": str(self._command.get("id") or "")},
            start_new_session=True,
        )
        self._process = process
        for stream, events, handler in (
            (process.stdin, selectors.EVENT_WRITE, self._write),
            (process.stdout, selectors.EVENT_READ, self._read_stdout),
            (process.stderr, selectors.EVENT_READ, self._read_stderr),
        ):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, events, handler)
            if events == selectors.EVENT_READ:
                self._open.add(stream.fileno())

    def abort(self) -> None:
        """End the program: SIGTERM, and SIGKILL KILL_SECONDS later."""
        if self._process and not self.ended and not self.aborted and self._drain_due is None:
            self.aborted = True
            self._kill_due = time.monotonic() + KILL_SECONDS
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the program at once."""
        if self._process and not self.ended:
            self._signal(signal.SIGKILL)

    def due(self) -> float | None:
        """Return when `tick` has something to do."""
        dues = [self._update_due, self._kill_due, self._drain_due]
        return min((due for due in dues if due is not None), default=None)

    def tick(self, selector: selectors.BaseSelector) -> None:
        """Do what is due, and finish after the end of the program."""
        now = time.monotonic()
        if self._process is None or self.ended:
            return
        if self._kill_due is not None and now >= self._kill_due:
            self._kill_due = None
            self._signal(signal.SIGKILL)
        if self._update_due is not None and now >= self._update_due:
            self._update_due = None
            partial = {"content": text_block(self._errors.shown())}
            emit({"type": "tool_execution_update", **self._call, "partialResult": partial})
        if self._drain_due is None and self._has_ended():
            self._drain_due = now + DRAIN_SECONDS
        if self._drain_due is not None and (not self._open or now >= self._drain_due):
            self._finish(selector)

    def _has_ended(self) -> bool:
        """Return whether it has ended; it stays a zombie, so that its group's id stays its own."""
        assert self._process is not None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def _finish(self, selector: selectors.BaseSelector) -> None:
        assert self._process is not None
        self._signal(signal.SIGKILL)  # what it left in its group
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            if not stream.closed:
                selector.unregister(stream)
                with contextlib.suppress(OSError):
                    stream.close()
        code = self._process.wait()
        self._errors.add(b"")
        self._answer.finish()
        end = self._errors.tail.strip()[-FAILURE_CHARS:]
        how = f"exit status {code}" if code >= 0 else f"killed by {_name(-code)}"
        self._report(how, "" if code == 0 else ": ".join(filter(None, [how, end])))

    def _report(self, how: str, failure: str) -> None:
        """Report the end; `how` it ended, and why that is a failure."""
        self.ended = True
        shown = "\n".join(filter(None, [self._errors.shown().rstrip("\n"), how or failure]))
        stop: dict[str, Any] = {"stopReason": "stop"}
        if self.aborted:
            stop = {"stopReason": "aborted"}
        elif failure:
            stop = {"stopReason": "error", "errorMessage": failure}
        emit(
            {
                "type": "tool_execution_end",
                **self._call,
                "result": {"content": text_block(shown)},
                "isError": bool(failure),
            },
            {"type": "message_end", "message": {"role": "assistant", **stop}},
            {"type": "agent_end", "messages": []},
            {"type": "agent_settled"},
        )

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, number)

    def _write(self, selector: selectors.BaseSelector) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._input = self._input[os.write(self._process.stdin.fileno(), self._input) :]
        except BlockingIOError:
            return
        except OSError:
            self._input = self._input[:0]  # it has closed its stdin without reading all
        if not self._input:
            selector.unregister(self._process.stdin)
            self._process.stdin.close()

    def _read_stdout(self, selector: selectors.BaseSelector) -> None:
        assert self._process is not None
        if data := self._read(selector, self._process.stdout):
            self._answer.add(data)

    def _read_stderr(self, selector: selectors.BaseSelector) -> None:
        assert self._process is not None
        if data := self._read(selector, self._process.stderr):
            self._errors.add(data)
            if self._update_due is None:
                self._update_due = time.monotonic() + UPDATE_SECONDS

    def _read(self, selector: selectors.BaseSelector, stream: Any) -> bytes:
        try:
            data = os.read(stream.fileno(), READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._open.discard(stream.fileno())
            selector.unregister(stream)
            stream.close()
        return data


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Runner:
    """One loop over our stdin, our signals and the running program's pipes."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self._selector = selectors.DefaultSelector()
        self._inbox = b""
        self._queue: deque[dict[str, Any]] = deque()
        self._aborts: list[dict[str, Any]] = []  # to be answered when the run has ended
        self._run: Run | None = None
        self._count = 0
        self._is_closing = False
        wakeup, self._signals = os.pipe()
        for end in (wakeup, self._signals):
            os.set_blocking(end, False)
        self._selector.register(wakeup, selectors.EVENT_READ, lambda _: self._read_signals(wakeup))
        self._selector.register(0, selectors.EVENT_READ, lambda _: self._read_commands())

    def serve(self) -> None:
        """Work until stdin is closed or SIGTERM arrives; then end the running program."""
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)
        while self._run or not self._is_closing:
            for key, _ in self._selector.select(self._timeout()):
                # A handler before it may have ended the run and closed its pipes.
                if self._selector.get_map().get(key.fd) is key:
                    key.data(self._selector)
            self._advance()

    def kill(self) -> None:
        """Kill the running program."""
        if self._run:
            self._run.kill()

    def _timeout(self) -> float | None:
        due = self._run.due() if self._run else None
        return None if due is None else max(0.0, due - time.monotonic())

    def _advance(self) -> None:
        """Finish the run if it has ended, and begin the next one."""
        if self._run:
            self._run.tick(self._selector)
            if not self._run.ended:
                return
            self._run = None
            emit(*(reply(each) for each in self._aborts))
            self._aborts.clear()
        if self._queue and not self._is_closing:
            self._count += 1
            self._run = Run(self._argv, self._queue.popleft(), self._count)
            self._run.begin(self._selector)
            self._advance()

    def _read_signals(self, wakeup: int) -> None:
        if signal.SIGTERM in os.read(wakeup, READ_BYTES):
            self._close()

    def _read_commands(self) -> None:
        data = os.read(0, READ_BYTES)
        if not data:
            self._selector.unregister(0)
            self._close()
            return
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        for line in lines:
            self._obey(parse(line))
            self._advance()  # so that an abort finds the run of the message before it

    def _close(self) -> None:
        self._is_closing = True
        if self._run:
            self._run.abort()

    def _obey(self, command: dict[str, Any]) -> None:
        kind = command.get("type")
        if kind == "prompt":
            self._queue.append(command)
        elif kind == "get_state":
            state = {"isStreaming": self._run is not None, "pendingMessageCount": len(self._queue)}
            emit(reply(command, data=state))
        elif kind == "abort" and self._run:
            self._aborts.append(command)
            self._run.abort()
        elif kind == "abort":
            emit(reply(command))
        elif kind == "clear_queue":
            texts = [str(each.get("message")) for each in self._queue]
            emit(*(reply(each, error="withdrawn by an abort") for each in self._queue))
            self._queue.clear()
            emit(reply(command, data={"followUp": texts}))
        else:
            emit(reply(command, error=f"unknown command: {kind}"))


def main(argv: list[str]) -> int:
    """Serve commands until the end; return the exit status."""
    if not argv or shutil.which(argv[0]) is None:
        name = argv[0] if argv else "(none)"
        sys.stderr.write(f"The program {name} is not there, or cannot be run.\n")
        return CANNOT_RUN
    runner = Runner(argv)
    try:
        runner.serve()
    except BrokenPipeError:
        return 1  # the keeper is gone
    finally:
        runner.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
