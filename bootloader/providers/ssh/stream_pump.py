"""The streams of a command on a paramiko channel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import paramiko

# Output beyond this is discarded; `on_output` still gets it.
MAX_OUTPUT = 16 << 20
# How long to keep reading after a command's end, if a child process holds the output open.
_LINGER_SECONDS = 1.0
_CHUNKS = 32


class StreamPump:
    """The three streams of one command, pumped by one thread."""

    def __init__(
        self,
        channel: paramiko.Channel,
        stdin: bytes,
        on_output: Callable[[bytes], None] | None,
        deferred: tuple[bytes, bytes] | None = None,
    ) -> None:
        self.channel = channel
        self.stdin = memoryview(stdin)
        # A marker, and the data to send once the output contains it.
        self.deferred = deferred
        self.input_sent = False
        self.on_output = on_output
        self.output, self.errors = bytearray(), bytearray()
        self.data_event = _DataEvent()
        channel.in_buffer.set_event(self.data_event)
        channel.in_stderr_buffer.set_event(self.data_event)

    def run(self, end: float) -> bool:
        """Pump until the command and its output have ended (True) or `end` is reached (False)."""
        ended: float | None = None
        while True:
            self._send_input()
            # Read before the output: data that arrives later is read below, or in the next
            # iteration.
            over = self.channel.closed or self.channel.eof_received
            received = self._read_output()
            now = time.monotonic()
            if self.channel.exit_status_ready():
                ended = now if ended is None or received else ended
                if not received and (over or now - ended > _LINGER_SECONDS):
                    return True
            if now >= end:
                return False
            if not received:
                self.data_event.wait_for_data(
                    min(end - now, 0.2 if self.input_sent and not over else 0.01)
                )

    def _send_input(self) -> None:
        while not self.input_sent and self.channel.send_ready():
            try:
                if not self.stdin and self.deferred:
                    if self.deferred[0] not in self.output:
                        return
                    self.stdin, self.deferred = memoryview(self.deferred[1]), None
                elif self.stdin:
                    self.stdin = self.stdin[self.channel.send(bytes(self.stdin[:32768])) :]
                else:
                    self.channel.shutdown_write()
                    self.input_sent = True
            except OSError:
                self.input_sent = True  # the command ended without reading all of it

    def _read_output(self) -> bool:
        """Read available output; return whether there was any."""
        received = False
        for ready, take, kept in (
            (self.channel.recv_ready, self.channel.recv, self.output),
            (self.channel.recv_stderr_ready, self.channel.recv_stderr, self.errors),
        ):
            # A command that prints without pause must not keep us from checking the time.
            for _ in range(_CHUNKS):
                if not ready():
                    break
                data = take(65536)
                received = received or bool(data)
                kept += data[: max(0, MAX_OUTPUT - len(kept))]
                if data and self.on_output is not None:
                    self.on_output(data)
        return received


class _DataEvent(threading.Event):
    """Set by the connection's thread when data arrives on one of the streams.

    The channel's own `fileno()` would be a pipe, which that thread may write to after we closed it,
    and thus into whatever file has its number by then.
    """

    def clear(self) -> None:
        """Do nothing: that one stream was emptied says nothing about the other one."""

    def wait_for_data(self, seconds: float) -> None:
        """Wait for data, at most this long."""
        self.wait(seconds)
        super().clear()
