"""Requests at the control socket."""

from __future__ import annotations

import select

from .json_lines import pack, parse_object
from .limits import MAX_CLIENTS, MAX_PENDING_BYTES, MB, READ_BYTES

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from .loop import Loop
    from .run_files import RunFiles


def refusal(error: str) -> dict[str, Any]:
    return {"ok": False, "error": error}


def seconds(value: Any, default: float) -> float:
    """Return a time from a request, if it is reasonable."""
    usable = type(value) in (int, float) and 0 <= value <= 3600
    return float(value) if usable else default


class Client:
    """A connection to the control socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.inbox = bytearray()
        self._searched = 0
        self.outbox = b""

    def receive(self) -> bool:
        """Read once; return False when the client is gone or its request is too large."""
        try:
            chunk = self.connection.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.inbox += chunk
        return bool(chunk) and len(self.inbox) <= MAX_PENDING_BYTES + MB

    def next_request(self) -> bytes | None:
        end = self.inbox.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self.inbox)
            return None
        line = bytes(self.inbox[:end])
        del self.inbox[: end + 1]
        self._searched = 0
        return line

    def send(self, data: bytes = b"") -> None:
        self.outbox += data
        try:
            self.outbox = self.outbox[self.connection.send(self.outbox) :]
        except BlockingIOError:
            pass
        except OSError:
            self.outbox = b""


def is_same(given: str, key: str) -> bool:
    """Compare in constant time. (The hmac module would cost megabytes.)"""
    differs = len(given) != len(key)
    for one, other in zip(given, key):  # noqa: B905 - strict= needs Python 3.10
        differs |= one != other
    return not differs


class ControlServer:
    """The control socket and its connections."""

    def __init__(
        self,
        loop: Loop,
        files: RunFiles,
        key: str,
        reply: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        """`reply` answers a request that carries the key of the run."""
        self._loop = loop
        self._files = files
        self._key = key
        self._reply = reply
        self._clients: dict[int, Client] = {}

    def open(self) -> None:
        self._loop.watch(self._files.listener.fileno(), self._accept)

    def restore(self) -> None:
        """Restore files that were removed, the socket among them."""
        old = self._files.restore()
        if old is not None:
            self._loop.unwatch(old.fileno())
            old.close()
            self.open()

    def _accept(self) -> None:
        """Accept all waiting connections."""
        while True:
            try:
                client = Client(self._files.listener.accept()[0])
            except BlockingIOError:
                return
            if len(self._clients) >= MAX_CLIENTS:
                self._drop(next(iter(self._clients)))
            self._add(client)

    def _add(self, client: Client) -> None:
        descriptor = client.connection.fileno()
        self._clients[descriptor] = client
        self._loop.watch(descriptor, lambda: self._serve(descriptor))

    def _drop(self, descriptor: int) -> None:
        self._loop.unwatch(descriptor)
        self._clients.pop(descriptor).connection.close()

    def _serve(self, descriptor: int) -> None:
        """Read requests or send replies. A client that does not read its replies gets no more."""
        client = self._clients[descriptor]
        if client.outbox:
            client.send()
        elif not client.receive():
            self._drop(descriptor)
            return
        while not client.outbox:
            request = client.next_request()
            if request is None:
                break
            client.send(pack(self._checked_reply(request)))
        events = select.POLLOUT if client.outbox else select.POLLIN
        self._loop.change(descriptor, events)

    def _checked_reply(self, data: bytes) -> dict[str, Any]:
        request = parse_object(data)
        if request is None:
            return refusal("the request is not a JSON object")
        if not is_same(str(request.get("key")), self._key):
            return refusal("the request does not carry the key of this run")
        return self._reply(request)
