"""Request headers and bodies at the edge, with limits on size and time; and short responses."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import IO, Any

from reef_site.edge.client_addresses import client_key, is_loopback

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MAX_BODY = 16 << 20
# Opening brackets and braces of one body, also those in texts. Each may become a list or an object:
# 16 MB of empty lists would take half a gigabyte, and many seconds.
MAX_BRACKETS = 300_000
# For one body: the part kept in memory, the longest pause, the total time.
BODY_IN_MEMORY = 1 << 16
BODY_PAUSE_SECONDS = 20.0
BODY_SECONDS = 300.0
# For a request without valid credentials: the total time, and how many bytes of such bodies are
# held at a time, in all and for one address.
ANONYMOUS_BODY_SECONDS = 10.0
ANONYMOUS_BUDGET = 8 << 20
ANONYMOUS_BUDGET_PER_ADDRESS = 1 << 20
# How long to keep reading from a client after an early response, so that it can read the response.
LINGER_SECONDS = 2.0
# Keys in the ASGI scope: a function that makes the server drop the rest of the body, and one that
# returns whether the whole body has arrived.
DISCARD, ARRIVED = "reef.discard_body", "reef.body_has_arrived"


class BodyTooLarge(Exception):
    """The client sends more than is allowed."""

    def __init__(self, limit: int, of: str = "bytes") -> None:
        super().__init__(f"body: more than {limit} {of}")


class ClientGone(Exception):
    """The client hung up before its request was complete."""


class TryLater(Exception):
    """The body cannot be read now, for example because too many bytes of others are held.

    With `closes`, the client should retry on another connection.
    """

    def __init__(self, status: int, text: str, *, closes: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.closes = closes


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """Number of bytes that a request may send; anonymous if it has no valid credentials."""

    size: int
    is_anonymous: bool = False


def header(scope: Scope, name: bytes) -> bytes:
    """Return the first value of this header; empty if there is none."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def declared(scope: Scope) -> int:
    """Return the declared length of the body; 0 if there is none."""
    return _lengths(scope)[0]


def has_body(scope: Scope) -> bool:
    """Return whether a body follows the headers."""
    return _lengths(scope)[1]


_LENGTHS_KEY = "reef.body_lengths"


def _lengths(scope: Scope) -> tuple[int, bool]:
    """Return the declared length and whether there is a body; cached in the scope."""
    known: tuple[int, bool] | None = scope.get(_LENGTHS_KEY)
    if known is None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        size = int(length) if length.isdigit() else 0
        known = scope[_LENGTHS_KEY] = (size, size > 0 or bool(headers.get(b"transfer-encoding")))
    return known


def client_of(scope: Scope) -> str:
    """Return the client's address as the limits count it."""
    return client_key(str((scope.get("client") or ("", 0))[0]))


class BodyBudget:
    """Budget of body bytes held at a time, in memory and in files: in all, and for each client.

    A quarter is reserved for small bodies, so that large ones never delay heartbeats.
    """

    def __init__(self, total: int, per_address: int) -> None:
        self._total, self._per_address = total, per_address
        self._held = 0
        self._by_client: dict[str, int] = {}

    def reserve(self, client: str, size: int, *, small: bool) -> None:
        """Add `size` bytes. Raises TryLater if the budget is exceeded."""
        if self._held + size > (self._total if small else self._total * 3 // 4):
            raise TryLater(503, "too many requests are being read; try again soon")
        client_total = self._by_client.get(client, 0) + size
        if client_total > self._per_address and not is_loopback(client):
            raise TryLater(429, "too many bytes at a time from your address; try again soon")
        self._held += size
        self._by_client[client] = client_total

    def release(self, client: str, size: int) -> None:
        """Give `size` bytes back."""
        left = self._by_client.get(client, 0) - size
        self._held -= size
        if left > 0:
            self._by_client[client] = left
        else:
            self._by_client.pop(client, None)


class Body:
    """Body of a request: in memory while small, else in an unnamed temporary file."""

    def __init__(self, budget: BodyBudget, client: str) -> None:
        self.size = 0
        self.is_whole = False
        self._budget, self._client = budget, client
        self._reserved = self._brackets = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def drop(self) -> None:
        """Discard what was read and release its budget."""
        if self._file:
            self._file.close()
        self._memory, self._file, self.size, self._brackets = bytearray(), None, 0, 0
        self._budget.release(self._client, self._reserved)
        self._reserved = 0

    async def take_in_anonymous(
        self, receive: Receive, declared: int, limit: int, budget: BodyBudget
    ) -> None:
        """Read a body without credentials as `take_in` does, with less time and another budget.

        Only received bytes are reserved: a declared length reserves nothing.
        """
        self.drop()
        self._budget = budget
        if declared > limit:
            raise BodyTooLarge(limit)
        await self._read(receive, limit, ANONYMOUS_BODY_SECONDS)

    async def take_in(
        self, receive: Receive, declared: int, limit: int = MAX_BODY, *, has_arrived: bool = False
    ) -> None:
        """Read the body to its end. Raises BodyTooLarge, TryLater, ClientGone, TimeoutError."""
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
                # A timer would cost more than the rest of this function.
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
        self._brackets += chunk.count(b"[") + chunk.count(b"{")
        if self._brackets > MAX_BRACKETS:
            raise BodyTooLarge(MAX_BRACKETS, "brackets")
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
        """Return the complete body."""
        if self._file is None:
            return bytes(self._memory)
        self._file.seek(0)
        return self._file.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the complete body in pieces."""
        if self._file is None:
            yield bytes(self._memory)
            return
        self._file.seek(0)
        while chunk := self._file.read(1 << 16):
            yield chunk


class Exchange:
    """Request and response on one connection, which ends after a response to an unread body.

    Then the rest of the body is read for a moment and dropped: closing the connection at once
    would lose the response for a client that is still sending.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._unread = has_body(scope)
        self._closing = False
        # A client that sends `Expect: 100-continue` sends no body after a refusal.
        self._asks_first = self._unread and bool(header(scope, b"expect"))

    async def receive(self) -> Event:
        """Return the next ASGI event from the client."""
        event = await self._receive()
        if event["type"] == "http.disconnect" or not event.get("more_body", False):
            self._unread = False
        return event

    async def send(self, event: Event) -> None:
        """Send a part of the response."""
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
