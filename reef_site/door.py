"""What uvicorn lacks: limits on the heads of requests, and an end of streams before it stops."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
MOST_HEAD = 1 << 16


class LimitedProtocol(HttpToolsProtocol):
    """Hangs up on whoever does not come to the end of a request's head."""

    # One timer goes on through many requests: each begins a little later than the one before.
    _timer: asyncio.TimerHandle | None = None
    _waits_since: float | None = None
    _size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited; uvicorn has a limit of its own between requests."""
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._end()
        if self._timer:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request is there."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._end()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Count what does not complete a head."""
        super().data_received(data)
        if self._waits_since is not None:
            self._size += len(data)
            if self._size > MOST_HEAD:
                self._hang_up()

    def _begin(self) -> None:
        self._size, self._waits_since = 0, self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._look)

    def _end(self) -> None:
        self._waits_since = None

    def _look(self) -> None:
        """Hang up if the head is overdue; look again when the one that is awaited now would be."""
        self._timer = None
        if self._waits_since is None:
            return
        left = self._waits_since + HEAD_SECONDS - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look)
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        self._end()
        if not self.transport.is_closing():
            self.send_400_response("The head of the request is too long, or too slow.")


class Server(uvicorn.Server):
    """Has streams end by themselves when it is to stop, rather than cut them off after a while."""

    def __init__(self, config: uvicorn.Config, before: Callable[[], None]) -> None:
        super().__init__(config)
        self._before = before

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call `before`, then wait for what goes on."""
        self._before()
        await super().shutdown(sockets)
