"""A script on a machine whose stdin and stdout stay open, read and written without blocking."""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable

import paramiko

from bootloader.exceptions import ShellUnavailable
from bootloader.providers.ssh.remote_script import FramedScript, printable

# Small enough to fit into the buffer of a socket that is ready to write.
_WRITE_BYTES = 4096
_WRITES = _READS = 64
_READ_BYTES = 1 << 18
_MAX_ERRORS = 4096
_MAX_HEAD = 1 << 20


class ScriptStream:
    """The two streams of a running script. Reads and writes belong to one thread at a time."""

    def __init__(self, channel: paramiko.Channel, framed: FramedScript) -> None:
        self._channel = channel
        self._framed = framed
        self._errors = b""
        self._began = b""

    def await_begin(self, wait: Callable[[float], object], end: Callable[[], float]) -> bytes:
        """Read up to the script's first marker; return what came before it if there is none.

        Return an empty text once the script runs. `end` returns the remaining seconds.
        """
        head = b""
        while self._framed.begin not in head:
            chunk = self._take()
            head += chunk
            if (not chunk and self.ended) or end() <= 0 or len(head) > _MAX_HEAD:
                return head[-_MAX_ERRORS:] or b"nothing"
            if not chunk:
                wait(min(0.2, end()))
        self._began = head.partition(self._framed.begin)[2]
        return b""

    def listen(self, bell: Callable[[], object]) -> None:
        """Call `bell` from the connection's thread when there is something to read, or an end."""
        event = Bell(bell)
        self._channel.in_buffer.set_event(event)
        self._channel.in_stderr_buffer.set_event(event)

    def read(self) -> bytes:
        """Return the available output; empty if there is none now."""
        began, self._began = self._began, b""
        return began + self._take()

    def _take(self) -> bytes:
        for _ in range(_READS):
            if not self._channel.recv_stderr_ready():
                break
            self._errors = (self._errors + self._channel.recv_stderr(65536))[-_MAX_ERRORS:]
        parts = []
        for _ in range(_READS):
            if not self._channel.recv_ready():
                break
            parts.append(self._channel.recv(_READ_BYTES))
        return b"".join(parts)

    @property
    def has_more(self) -> bool:
        """Return whether output is available that the last `read` has left."""
        return bool(self._channel.recv_ready())

    @property
    def ended(self) -> bool:
        """Return whether no further output will come."""
        transport = self._channel.get_transport()
        gone = self._channel.closed or self._channel.eof_received
        return bool(gone or not transport or not transport.is_active())

    def errors(self) -> str:
        """Return the end of the script's stderr as one line."""
        before, marked, own = self._errors.partition(self._framed.begin)
        return printable(own if marked else before)

    def write(self, data: bytes) -> int:
        """Write as much as the network takes without blocking; return the number of bytes.

        Raise ShellUnavailable when the connection has ended.
        """
        done = 0
        try:
            for _ in range(_WRITES):
                if done >= len(data) or not self._is_writable():
                    break
                done += self._channel.send(data[done : done + _WRITE_BYTES])
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise ShellUnavailable(f"The connection was lost: {error}") from None
        return done

    def _is_writable(self) -> bool:
        if self._channel.closed:
            raise EOFError("the channel is closed")
        if not self._channel.send_ready():
            return False
        sock = self._channel.get_transport().sock
        while isinstance(sock, paramiko.Channel):
            # It goes through another machine.
            if sock.closed or not sock.send_ready():
                return False
            sock = sock.get_transport().sock
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLOUT)
        return any(event & select.POLLOUT for _, event in poll.poll(0))

    def close(self) -> None:
        """Close the channel."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()


class Bell(threading.Event):
    """Calls a function instead of waking a waiting thread."""

    def __init__(self, ring: Callable[[], object]) -> None:
        super().__init__()
        self._ring = ring

    def set(self) -> None:
        self._ring()

    def clear(self) -> None:
        """Do nothing: that one stream was emptied says nothing about the other one."""
