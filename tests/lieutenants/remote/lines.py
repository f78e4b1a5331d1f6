"""A network line on the loopback that tests can cut, stall and measure."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress

_CHUNK = 65536


class Line:
    """Passes connections on to a port. One thread; close it at the end."""

    def __init__(self, target: int) -> None:
        self._target = target
        # Seconds that each piece travels; both ways together are the round trip.
        self.delay = 0.0
        # Bytes a second to the target; 0 is no limit.
        self.rate = 0
        self._travelling: deque[tuple[float, socket.socket, socket.socket, bytes]] = deque()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._lost: list[socket.socket] = []
        self._lock = threading.Lock()
        self._stalled = self._refusing = False
        # Bytes that went to the target, and that came from it.
        self.sent = self.received = 0
        self.connections = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stall(self) -> None:
        """Pass nothing on, without a sign to either side."""
        self._stalled = True

    def flow(self) -> None:
        """Pass all on again, and accept connections."""
        self._stalled = self._refusing = False

    def cut(self, *, refuse: bool = False) -> None:
        """Reset all connections; with `refuse` new ones too, until `flow`."""
        self._refusing = refuse
        with self._lock:
            peers, self._peers = list(self._peers), {}
        for sock in peers:
            with suppress(KeyError, ValueError):
                self._selector.unregister(sock)
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()

    def lose(self) -> None:
        """Lose all that travels on the connections, now and later, without a sign to either side.

        New connections are not affected.
        """
        with self._lock:
            peers, self._peers = list(self._peers), {}
        for sock in peers:
            with suppress(KeyError, ValueError):
                self._selector.unregister(sock)
        self._lost += peers
        self._travelling.clear()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(10)
        self.cut()
        for sock in self._lost:
            sock.close()
        self._listener.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            if self._stalled:
                time.sleep(0.005)
                continue
            self._deliver()
            wait = 0.05
            if self._travelling:
                wait = max(0.0, min(wait, self._travelling[0][0] - time.monotonic()))
            for key, _ in self._selector.select(wait):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                elif not self._stalled:
                    self._pass_on(sock)

    def _accept(self) -> None:
        with suppress(OSError):
            near, _ = self._listener.accept()
            near.setblocking(True)
            if self._refusing:
                near.close()
                return
            far = socket.create_connection(("127.0.0.1", self._target), 5)
            far.settimeout(None)
            self.connections += 1
            with self._lock:
                self._peers |= {near: far, far: near}
            self._selector.register(near, selectors.EVENT_READ, "near")
            self._selector.register(far, selectors.EVENT_READ, "far")

    def _pass_on(self, sock: socket.socket) -> None:
        peer = self._peers.get(sock)
        if peer is None:
            return
        try:
            near = self._selector.get_key(sock).data == "near"
            data = sock.recv(max(64, self.rate // 20) if near and self.rate else _CHUNK)
        except (OSError, KeyError, ValueError):
            near, data = False, b""
        if near and self.rate:
            self._ended.wait(len(data) / self.rate)
        self._travelling.append((time.monotonic() + self.delay, sock, peer, data))
        self._deliver()
        if data and near:
            self.sent += len(data)
        elif data:
            self.received += len(data)

    def _deliver(self) -> None:
        """Pass on what has travelled long enough; an empty piece ends the connection."""
        while self._travelling and self._travelling[0][0] <= time.monotonic():
            _, sock, peer, data = self._travelling.popleft()
            if data:
                with suppress(OSError):
                    peer.sendall(data)
                    continue
            self._end(sock, peer)

    def _end(self, *socks: socket.socket) -> None:
        for sock in socks:
            with self._lock:
                self._peers.pop(sock, None)
            with suppress(KeyError, ValueError):
                self._selector.unregister(sock)
            sock.close()
