"""A TLS connection presented as a plain socket.

SSH reads and writes from several threads, but a TLS connection is not thread-safe: a dedicated
thread copies between the two sockets until either side ends.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import threading
from functools import lru_cache
from pathlib import Path

_CHUNK = 65536
_MAX_BUFFERED = 1 << 20


def trust_context(file: str | None) -> ssl.SSLContext:
    """Return a context that trusts the CA certificates of this file, or those of this machine.

    Raise OSError.
    """
    return _load_context(file, Path(file).stat().st_mtime_ns if file else 0)


@lru_cache(8)
def _load_context(file: str | None, _changed: int) -> ssl.SSLContext:
    """Cache the context: a machine has many certificates."""
    return ssl.create_default_context(cafile=file)


def open_pipe(
    host: str, port: int, name: str, context: ssl.SSLContext, timeout: float
) -> socket.socket:
    """Return a socket whose bytes travel in TLS to `host:port`. `name` is the SNI and is verified.

    Raise OSError (ssl.SSLCertVerificationError among them).
    """
    raw = socket.create_connection((host, port), timeout)
    try:
        enable_keepalive(raw)
        inside = context.wrap_socket(raw, server_hostname=name)
    except BaseException:
        raw.close()
        raise
    ours, theirs = socket.socketpair()
    threading.Thread(target=_Pump(inside, theirs).run, name="tls-pipe", daemon=True).start()
    return ours


def enable_keepalive(sock: socket.socket) -> None:
    """Let the kernel detect within a minute that the peer is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 15),
        ("TCP_KEEPINTVL", 15),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 60_000),
    ):
        if number := getattr(socket, option, None):
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


class _Pump:
    """Copies bytes both ways, buffering up to a limit."""

    def __init__(self, inside: ssl.SSLSocket, plain: socket.socket) -> None:
        self.inside, self.plain = inside, plain
        self.to_inside, self.to_plain = bytearray(), bytearray()
        self.plain_ended = self.inside_ended = False
        self.inside_wants_write = False

    def run(self) -> None:
        """Copy until one side has ended and the other has received the rest."""
        self.inside.setblocking(False)
        self.plain.setblocking(False)
        with self.inside, self.plain, selectors.DefaultSelector() as selector:
            selector.register(self.inside, selectors.EVENT_READ)
            selector.register(self.plain, selectors.EVENT_READ)
            # A broken side ends the pipe; SSH sees the end of its stream.
            with contextlib.suppress(OSError):
                while not self._has_ended():
                    self._copy()
                    if not self._has_ended():
                        self._wait(selector)

    def _has_ended(self) -> bool:
        return (self.plain_ended and not self.to_inside) or (
            self.inside_ended and not self.to_plain
        )

    def _wait(self, selector: selectors.BaseSelector) -> None:
        inside = plain = 0
        if not self.inside_ended and len(self.to_plain) < _MAX_BUFFERED:
            inside |= selectors.EVENT_READ
        if self.to_inside or self.inside_wants_write:
            inside |= selectors.EVENT_WRITE
        if not self.plain_ended and len(self.to_inside) < _MAX_BUFFERED:
            plain |= selectors.EVENT_READ
        if self.to_plain:
            plain |= selectors.EVENT_WRITE
        # A selector cannot register without events, so such a socket is left out.
        for sock, events in ((self.inside, inside), (self.plain, plain)):
            known = sock.fileno() in selector.get_map()
            if events and known:
                selector.modify(sock, events)
            elif events:
                selector.register(sock, events)
            elif known:
                selector.unregister(sock)
        selector.select()

    def _copy(self) -> None:
        self._read_inside()
        self._read_plain()
        self._write_plain()
        self._write_inside()

    def _read_inside(self) -> None:
        self.inside_wants_write = False
        try:
            # TLS buffers decrypted bytes that no selector sees: read until it would block.
            while not self.inside_ended and len(self.to_plain) < _MAX_BUFFERED:
                data = self.inside.recv(_CHUNK)
                self.to_plain += data
                self.inside_ended = not data
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:
            self.inside_wants_write = True
        except ssl.SSLEOFError:
            self.inside_ended = True

    def _read_plain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self.plain_ended and len(self.to_inside) < _MAX_BUFFERED:
                data = self.plain.recv(_CHUNK)
                self.to_inside += data
                self.plain_ended = not data

    def _write_plain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.to_plain:
                del self.to_plain[: self.plain.send(self.to_plain[:_CHUNK])]

    def _write_inside(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while self.to_inside:
                # TLS requires the same bytes again after "would block": remove them only when sent.
                del self.to_inside[: self.inside.send(self.to_inside[:_CHUNK])]
