"""Requests' heads and bodies: how they are taken in, how much, and for how long; and answers."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import IO, Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MOST_BODY = 16 << 20
# A body: how much of it stays in memory, how long it may pause, how long it may take altogether.
BODY_IN_MEMORY = 1 << 16
BODY_PAUSE_SECONDS = 20.0
BODY_SECONDS = 300.0


class BodyTooLarge(Exception):
    """The client sends more than is taken."""


class ClientGone(Exception):
    """The client hung up before its request was whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON body."""

    status: int
    body: bytes

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What goes before the body."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
        ]
        if self.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        return headers


def header(scope: Scope, name: bytes) -> bytes:
    """The first value of this header; empty without one."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def declared(scope: Scope) -> int:
    """How long the body is said to be; 0 if that is not said."""
    length = header(scope, b"content-length")
    return int(length) if length.isdigit() else 0


def has_body(scope: Scope) -> bool:
    """Whether a body follows the head."""
    return declared(scope) > 0 or bool(header(scope, b"transfer-encoding"))


class Body:
    """A request's body: a small one in memory, a larger one in a file without a name."""

    def __init__(self) -> None:
        self.size = 0
        # Closed by __exit__.
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(BODY_IN_MEMORY)  # noqa: SIM115

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    async def take_in(self, receive: Receive, declared: int) -> None:
        """Read it to its end. Raises BodyTooLarge, ClientGone, TimeoutError."""
        if declared > MOST_BODY:
            raise BodyTooLarge
        end = time.monotonic() + BODY_SECONDS
        more = True
        while more:
            patience = min(BODY_PAUSE_SECONDS, end - time.monotonic())
            event = await asyncio.wait_for(receive(), patience)
            if event["type"] == "http.disconnect":
                raise ClientGone
            self.size += self._file.write(event.get("body", b""))
            if self.size > MOST_BODY:
                raise BodyTooLarge
            more = event.get("more_body", False)

    async def chunks(self) -> AsyncIterator[bytes]:
        """All of it, from its beginning."""
        self._file.seek(0)
        while chunk := self._file.read(1 << 16):
            yield chunk


async def whole_body(scope: Scope, receive: Receive) -> bytes:
    """A body that is small enough to be kept in memory."""
    if declared(scope) > MOST_BODY:
        raise BodyTooLarge
    body, more = bytearray(), True
    async with asyncio.timeout(BODY_SECONDS):
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise ClientGone
            body += event.get("body", b"")
            if len(body) > MOST_BODY:
                raise BodyTooLarge
            more = event.get("more_body", False)
    return bytes(body)


def again(body: bytes, receive: Receive) -> Receive:
    """The same events once more, for whoever reads the body next."""
    read = False

    async def events() -> Event:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return events
