"""What uvicorn lacks: limits on heads, answers without a task, an end of streams at its own end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from reef_site.bodies import Answer, Scope

# Takes a request without a body and tells its answer later, on the loop; None has it answered as
# all others are. It says False if it does not take it.
AtOnce = Callable[[Scope, Callable[[Answer | None], None]], bool]

HEAD_SECONDS = 20.0
MOST_HEAD = 1 << 16


class Protocol(HttpToolsProtocol):
    """Hangs up on whoever does not come to the end of a request's head.

    Asks the application's `at_once` first: a task and the messages of ASGI cost a short answer more
    than all the rest of it.
    """

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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Called for each request in its turn, when the one before it is answered."""
        at_once: AtOnce = self.config.app.at_once  # type: ignore[union-attr]
        busy = app is service_unavailable or self.flow.write_paused
        scope = cast("Scope", cycle.scope)
        if busy or not at_once(scope, partial(self._answer, cycle, app)):
            super()._start_asgi_task(cycle, app)

    def _answer(self, cycle: RequestResponseCycle, app: Any, answer: Answer | None) -> None:
        """What the cycle itself would do with the messages of ASGI."""
        if cycle.disconnected:
            return
        if answer is None:
            super()._start_asgi_task(cycle, app)
            return
        said = [STATUS_LINE[answer.status]]
        for name, value in (*cycle.default_headers, *answer.headers):
            said += (name, b": ", value, b"\r\n")
        said.append(b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
        said.append(answer.body)
        cycle.response_started = cycle.response_complete = True
        self.transport.write(b"".join(said))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

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
