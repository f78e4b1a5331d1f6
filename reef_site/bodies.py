"""Requests' heads and bodies: how they are read, how much, and for how long; and answers."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import IO, Any

from reef_site.addresses import client_key, is_loopback

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MOST_BODY = 16 << 20
# A body: how much of it stays in memory, how long it may pause, how long it may take altogether.
BODY_IN_MEMORY = 1 << 16
BODY_PAUSE_SECONDS = 20.0
BODY_SECONDS = 300.0
# The same for a request without credentials, and how much of such bodies is held at a time: in all,
# and of one address.
ANONYMOUS_BODY_SECONDS = 10.0
ANONYMOUS_BUDGET = 8 << 20
ANONYMOUS_BUDGET_PER_ADDRESS = 1 << 20
# How long we go on reading what a client sends after its answer, so that it can read that answer.
LINGER_SECONDS = 2.0
# In a scope: a function after whose call the server drops the rest of the body, and one that tells
# whether all of the body is here already.
DISCARD, ARRIVED = "reef.discard_body", "reef.body_has_arrived"


class BodyTooLarge(Exception):
    """The client sends more than is taken."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"body: more than {limit} bytes")


class ClientGone(Exception):
    """The client hung up before its request was whole."""


class TryLater(Exception):
    """The body cannot be read now, such as when too many bytes of others are being held.

    With `closes` it should be tried on another connection.
    """

    def __init__(self, status: int, text: str, *, closes: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.closes = closes


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """How many bytes a request may send, and whether its head shows good credentials."""

    size: int
    is_anonymous: bool = False


def header(scope: Scope, name: bytes) -> bytes:
    """The first value of this header; empty without one."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def declared(scope: Scope) -> int:
    """How long the body is said to be; 0 if that is not said."""
    return _lengths(scope)[0]


def has_body(scope: Scope) -> bool:
    """Whether a body follows the head."""
    return _lengths(scope)[1]


_LENGTHS = "reef.body_lengths"


def _lengths(scope: Scope) -> tuple[int, bool]:
    """The declared length, and whether there is a body; looked at once, as it is asked often."""
    known: tuple[int, bool] | None = scope.get(_LENGTHS)
    if known is None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        known = scope[_LENGTHS] = (size, size > 0 or bool(headers.get(b"transfer-encoding")))
    return known


def client_of(scope: Scope) -> str:
    """The client's address, as limits count it."""
    return client_key(str((scope.get("client") or ("", 0))[0]))


class BodyBudget:
    """How many bytes of bodies are held at a time, in memory and in files: in all, for each client.

    A quarter of it is kept for small bodies, so that large ones never hold up heartbeats.
    """

    def __init__(self, total: int, per_address: int) -> None:
        self._total, self._per_address = total, per_address
        self._held = 0
        self._by_client: dict[str, int] = {}

    def reserve(self, client: str, size: int, *, small: bool) -> None:
        """Count `size` bytes more. Raises TryLater."""
        if self._held + size > (self._total if small else self._total * 3 // 4):
            raise TryLater(503, "too many requests are being read; try again soon")
        mine = self._by_client.get(client, 0) + size
        if mine > self._per_address and not is_loopback(client):
            raise TryLater(429, "too many bytes at a time from your address; try again soon")
        self._held += size
        self._by_client[client] = mine

    def release(self, client: str, size: int) -> None:
        """Count them no longer."""
        left = self._by_client.get(client, 0) - size
        self._held -= size
        if left > 0:
            self._by_client[client] = left
        else:
            self._by_client.pop(client, None)


class Body:
    """A request's body: a small one in memory, a larger one in a file without a name."""

    def __init__(self, budget: BodyBudget, client: str) -> None:
        self.size = 0
        self.is_whole = False
        self._budget, self._client = budget, client
        self._reserved = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Forget what was read."""
        if self._file:
            self._file.close()
        self._memory, self._file, self.size = bytearray(), None, 0
        self._budget.release(self._client, self._reserved)
        self._reserved = 0

    async def take_in_anonymous(
        self, receive: Receive, declared: int, limit: int, budget: BodyBudget
    ) -> None:
        """Read a body without credentials like `take_in`, in less time and from its own budget.

        Only what has arrived is reserved: a declared length costs its sender nothing.
        """
        self.drop()
        self._budget = budget
        if declared > limit:
            raise BodyTooLarge(limit)
        await self._read(receive, limit, ANONYMOUS_BODY_SECONDS)

    async def take_in(
        self, receive: Receive, declared: int, limit: int = MOST_BODY, *, has_arrived: bool = False
    ) -> None:
        """Read it to its end. Raises BodyTooLarge, TryLater, ClientGone, TimeoutError."""
        if declared > limit:
            raise BodyTooLarge(limit)
        self._reserve(declared)
        await self._read(receive, limit, BODY_SECONDS, has_arrived=has_arrived)

    async def _read(
        self, receive: Receive, limit: int, seconds: float, *, has_arrived: bool = False
    ) -> None:
        end = time.monotonic() + seconds
        more = True
        while more:
            if has_arrived:
                # Timers cost more than all the rest of this.
                event, has_arrived = await receive(), False
            else:
                async with asyncio.timeout(min(BODY_PAUSE_SECONDS, end - time.monotonic())):
                    event = await receive()
            if event["type"] == "http.disconnect":
                raise ClientGone
            chunk = event.get("body", b"")
            if self.size + len(chunk) > limit:
                raise BodyTooLarge(limit)
            self._reserve(self.size + len(chunk))
            self._add(chunk)
            more = event.get("more_body", False)
        self.is_whole = True

    def _add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._file is None and self.size > BODY_IN_MEMORY:
            # Closed by drop().
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._file.write(self._memory)
            self._memory = bytearray()
        if self._file is None:
            self._memory += chunk
        else:
            self._file.write(chunk)

    def _reserve(self, size: int) -> None:
        if size > self._reserved:
            small = size <= BODY_IN_MEMORY
            self._budget.reserve(self._client, size - self._reserved, small=small)
            self._reserved = size

    def whole(self) -> bytes:
        """All of it."""
        if self._file is None:
            return bytes(self._memory)
        self._file.seek(0)
        return self._file.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, from its beginning."""
        if self._file is None:
            yield bytes(self._memory)
            return
        self._file.seek(0)
        while chunk := self._file.read(1 << 16):
            yield chunk


class Exchange:
    """A request and its answer. An answer that comes before the body's end ends the connection.

    Then the rest of the body is read for a moment and dropped: closing the connection at once would
    take the answer away from a client that is still sending.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._unread = has_body(scope)
        self._closing = False
        # Who asks first sends nothing after a refusal.
        self._asks_first = self._unread and bool(header(scope, b"expect"))

    async def receive(self) -> Event:
        """The next event from the client."""
        event = await self._receive()
        if event["type"] == "http.disconnect" or not event.get("more_body", False):
            self._unread = False
        return event

    async def send(self, event: Event) -> None:
        """Send a part of the answer."""
        if event["type"] == "http.response.start" and self._unread:
            self._closing = True
            kept = [each for each in event["headers"] if each[0] != b"connection"]
            event = {**event, "headers": [*kept, (b"connection", b"close")]}
        is_last = event["type"] == "http.response.body" and not event.get("more_body", False)
        if not (is_last and self._closing):
            await self._send(event)
            return
        if not self._asks_first:
            await self._send({**event, "more_body": True})
            await self._drop_rest()
            event = {"type": "http.response.body", "body": b""}
        await self._send(event)

    async def _drop_rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._unread:
                    await self.receive()
