"""Run a command given as text by `sh` on a machine, within a time limit, and end it for good.

The text goes to the machine on stdin, so it is in no argument list, neither here nor there. Its
own process group ends when the connection does: a process on the machine reads stdin to its end,
and then ends the group. Programs that leave the group, as daemons do, go on.
"""

from __future__ import annotations

import codecs
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import paramiko

from bootloader.exceptions import ShellRefused, ShellUnavailable
from bootloader.providers.ssh.protocol import CommandEnd, EndReason, TextSink
from bootloader.providers.ssh.remote_script import COMMAND, FramedScript, printable
from bootloader.providers.ssh.stream import Bell

START_SECONDS = 20.0
# How long a command that is ended may take: a second until SIGKILL, and the way back.
END_SECONDS = 5.0
CANCEL_CHECK_SECONDS = 0.5
# After its end, how long output is awaited that children of the command hold open.
LINGER_SECONDS = 0.3
# Faster output waits on the machine: it is read, masked and mostly left out.
BYTES_PER_SECOND = 8 << 20
_READ_BYTES = 1 << 18
_MAX_HEAD = 1 << 20

_SCRIPT = """
exec 3<&0
text=
while IFS= read -r line <&3 && [ "$line" != 'END' ]; do text="$text$line
"; done
apart=
command -v setsid >/dev/null 2>&1 && apart=setsid
$apart sh -c 'reef_text=$(cat); exec </dev/null; eval "$reef_text"' <<END 3<&- &
$text
END
group=$!
exec 2>/dev/null
(
  exec >/dev/null
  while read -r line; do :; done <&3
  trap '' TERM
  kill -TERM "-$group" || kill -TERM "$group"
  sleep 1
  kill -KILL "-$group" || kill -KILL "$group"
) &
watch=$!
exec 3<&-
wait "$group"
status=$?
kill "$watch"
exit "$status"
"""


class _Phase(Enum):
    GREETING = 1
    RUNNING = 2
    ENDED = 3


@dataclass
class _Frame:
    """Separates the output of a framed script from what the login shell prints around it."""

    begin: bytes
    end: bytes = b""
    phase: _Phase = _Phase.GREETING
    status: int | None = None
    head: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """Return the output in what was read; a part is held back that may begin the end mark."""
        self.head += data
        if self.phase is _Phase.GREETING:
            _noise, began, rest = self.head.partition(self.begin)
            if not began:
                self.head = self.head[-_MAX_HEAD:]
                return b""
            self.phase, self.head = _Phase.RUNNING, rest
        if self.phase is _Phase.ENDED:
            self.head = b""
            return b""
        return self._inner()

    def _inner(self) -> bytes:
        inner, ended, tail = self.head.partition(self.end) if self.end else (self.head, b"", b"")
        if not ended:
            cut = len(self.head) - self._begun()
            inner, self.head = self.head[:cut], self.head[cut:]
            return inner
        word, line_end, _ = tail.partition(b"\n")
        if not line_end:
            self.head = ended + tail
            return inner
        self.phase, self.head = _Phase.ENDED, b""
        self.status = int(word) if word.isdigit() else None
        return inner

    def _begun(self) -> int:
        """Return how many bytes at the end may be the beginning of the end mark."""
        lengths = range(min(len(self.end) - 1, len(self.head)), 0, -1)
        return next((n for n in lengths if self.head.endswith(self.end[:n])), 0)

    def rest(self) -> bytes:
        """Return what was held back, if the script has begun."""
        rest, self.head = self.head, b""
        return b"" if self.phase is _Phase.GREETING else rest


class CommandRun:
    """One command on an open channel."""

    def __init__(
        self, channel: paramiko.Channel, text: str, output: TextSink, errors: TextSink
    ) -> None:
        mark = f"END-{secrets.token_hex(12)}"
        self._channel = channel
        self._framed = FramedScript(_SCRIPT.replace("END", mark))
        self._text = f"{text}\n{mark}\n".encode()
        self._unsent = memoryview(self._framed.text(has_data=True))
        self._streams = (
            _Stream(channel.recv_ready, channel.recv, self._framed, output),
            _Stream(channel.recv_stderr_ready, channel.recv_stderr, self._framed, errors),
        )
        self._streams[0].frame.end = self._framed.end
        self._has_sent_text = False
        self._news = threading.Event()

    def run(self, limit: float, is_cancelled: Callable[[], bool]) -> CommandEnd:
        """Run it. Raise ShellRefused, ShellUnavailable, and the errors of paramiko."""
        for buffer in (self._channel.in_buffer, self._channel.in_stderr_buffer):
            buffer.set_event(Bell(self._news.set))
        self._start()
        began = time.monotonic()
        end, reason = began + limit, EndReason.ENDED
        next_check = began
        while not self._is_over():
            self._send()
            now = time.monotonic()
            if reason is EndReason.ENDED and now >= next_check:
                next_check = now + CANCEL_CHECK_SECONDS
                stopped = EndReason.CANCELLED if is_cancelled() else reason
                reason = EndReason.TIMED_OUT if now >= end else stopped
                if reason is not EndReason.ENDED:
                    # This ends its process group there.
                    self._channel.shutdown_write()
                    end = now + END_SECONDS
            elif reason is not EndReason.ENDED and now >= end:
                break
            self._read(began)
        return self._conclude(reason)

    def _start(self) -> None:
        # The request itself would wait for ever on a frozen machine.
        watch = threading.Timer(START_SECONDS, self._channel.close)
        watch.daemon = True
        watch.start()
        try:
            self._channel.exec_command(COMMAND)
            end = time.monotonic() + START_SECONDS
            while self._output.phase is _Phase.GREETING and not self._has_closed():
                if time.monotonic() > end:
                    raise ShellUnavailable("The machine did not start a shell in time")
                self._send()
                self._read(0.0)
        finally:
            watch.cancel()
        self._unsent = memoryview(self._text)

    @property
    def _output(self) -> _Frame:
        return self._streams[0].frame

    def _has_closed(self) -> bool:
        transport = self._channel.get_transport()
        over = self._channel.closed or self._channel.eof_received
        gone = over or transport is None or not transport.is_active()
        return bool(gone and not any(stream.is_ready() for stream in self._streams))

    def _is_over(self) -> bool:
        return self._output.phase is _Phase.ENDED or self._has_closed()

    def _send(self) -> None:
        while self._unsent and self._channel.send_ready() and not self._channel.closed:
            sent = self._channel.send(bytes(self._unsent[:32768]))
            self._unsent = self._unsent[sent:]

    def _read(self, began: float) -> None:
        """Read what is there; wait for a moment if nothing is, or if too much was read."""
        count = sum(stream.read() for stream in self._streams)
        total = sum(stream.count for stream in self._streams)
        early = total / BYTES_PER_SECOND - (time.monotonic() - began) if began else 0.0
        if early > 0:
            time.sleep(min(early, 0.2))
        elif not count:
            self._news.wait(0.01 if self._unsent else 0.2)
            self._news.clear()

    def _conclude(self, reason: EndReason) -> CommandEnd:
        last = time.monotonic() + LINGER_SECONDS
        while not self._has_closed() and time.monotonic() < last:
            self._read(0.0)
        for stream in self._streams:
            stream.finish()
        frame = self._output
        if frame.phase is _Phase.GREETING:
            raise ShellRefused(f"It runs no script; it says: {printable(frame.head) or 'nothing'}")
        if frame.status is None and reason is EndReason.ENDED:
            raise ShellUnavailable("The connection was lost; the command is ended there")
        return CommandEnd(reason, frame.status)


class _Stream:
    """One of the two streams of a command: decodes it, and passes it on."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        receive: Callable[[int], bytes],
        framed: FramedScript,
        sink: TextSink,
    ) -> None:
        self.is_ready = is_ready
        self._receive = receive
        self.frame = _Frame(framed.begin)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sink = sink
        self.count = 0

    def read(self) -> int:
        """Read what is available, at most one block; return the number of bytes."""
        if not self.is_ready():
            return 0
        data = self._receive(_READ_BYTES)
        self.count += len(data)
        if inner := self.frame.feed(data):
            self._sink.add(self._decoder.decode(inner))
        return len(data)

    def finish(self) -> None:
        """Pass on what was held back."""
        self._sink.add(self._decoder.decode(self.frame.rest(), final=True))
        self._sink.finish()
