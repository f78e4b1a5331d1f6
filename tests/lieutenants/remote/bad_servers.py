"""SSH servers that serve nobody, each in a way of its own."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
from contextlib import suppress

BANNER = b"SSH-2.0-OpenSSH_9.6\r\n"


def _close_at_once(_: socket.socket) -> None:
    return


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _close_after_banner(connection: socket.socket) -> None:
    connection.sendall(BANNER)


def _close_in_key_exchange(connection: socket.socket) -> None:
    connection.sendall(BANNER)
    connection.recv(4096)


def _send_garbage(connection: socket.socket) -> None:
    connection.sendall(BANNER + b"\0\0\1\0" + b"x" * 4096)


def _serve_http(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 40)


def _stay_silent(connection: socket.socket) -> None:
    while connection.recv(4096):
        pass


def _be_slow(connection: socket.socket) -> None:
    for letter in BANNER[:12]:
        connection.sendall(bytes([letter]))
        connection.settimeout(0.05)
        with suppress(TimeoutError):
            if not connection.recv(4096):
                return
    connection.settimeout(None)
    _stay_silent(connection)


def _hang_after_banner(connection: socket.socket) -> None:
    connection.sendall(BANNER)
    _stay_silent(connection)


QUICK = (
    *(_close_at_once, _reset, _close_after_banner, _close_in_key_exchange, _send_garbage),
    _serve_http,
)
SLOW = (_stay_silent, _be_slow, _hang_after_banner)


class BadServer:
    """Listens on the loopback, and fails each connection in another way: every third one slowly."""

    def __init__(self) -> None:
        self._ways = itertools.cycle(
            way for quick, slow in zip(QUICK, SLOW * 2, strict=True) for way in (quick, quick, slow)
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection, suppress(OSError):
                next(self._ways)(connection)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
