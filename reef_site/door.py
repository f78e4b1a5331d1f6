"""What uvicorn lacks: limits on heads and connections, quick answers, a quiet end of streams."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from reef_site import open_files
from reef_site.addresses import ConnectionLimits, TrustedProxies, client_key
from reef_site.bodies import ARRIVED, DISCARD, Receive, Scope, Send
from reef_site.common.asgi import Answer

logger = logging.getLogger("reef.edge")

# Takes a request without a body and tells its answer later, on the loop; None has it answered as
# all others are. It says False if it does not take it.
AtOnce = Callable[[Scope, Callable[[Answer | None], None]], bool]

HEAD_SECONDS = 20.0
MOST_HEAD = 1 << 16
MAX_URL = 32 << 10
# The web server takes a hundred, and the edge adds some of its own.
MAX_HEADERS = 90
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
TOO_LONG = "url: is too long"
TOO_MANY = "headers: are too many, or too long"
TOO_MANY_CONNECTIONS = "too many connections from your address"
TOO_SLOW = "headers: did not come in time"
MALFORMED = "this is not a valid HTTP request"


class _DiscardedTrailers(list[tuple[bytes, bytes]]):
    """Drops the fields that follow a body."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Drop the field."""


_DISCARDED_TRAILERS = _DiscardedTrailers()


class Protocol(HttpToolsProtocol):
    """Hangs up on whoever does not come to the end of a request's head.

    Asks the application's `at_once` first: a task and the messages of ASGI cost a short answer more
    than all the rest of it.
    """

    limits = ConnectionLimits(per_address=500, loopback=5000)
    proxies = TrustedProxies()
    # One timer goes on through many requests: each begins a little later than the one before.
    _timer: asyncio.TimerHandle | None = None
    _waits_since: float | None = None
    # Bytes in a row that were neither a head's end nor a body: of heads, chunk headers, trailers.
    _size = 0
    _body_came = False
    _data = b""
    _file = 0
    _counted_as: str | None = None
    _discarded: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited; uvicorn has a limit of its own between requests."""
        super().connection_made(transport)
        self._file = transport.get_extra_info("socket").fileno()
        if why := open_files.why_no_connection(self._file):
            self._refuse(503, why, b"retry-after: 5\r\n")
            return
        peer = self.client[0] if self.client else ""
        key = client_key(peer)
        if not self.limits.take(key, is_proxy=peer in self.proxies):
            self._refuse(429, TOO_MANY_CONNECTIONS, b"retry-after: 5\r\n")
            return
        self._counted_as = key
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._end()
        if self._counted_as is not None:
            self.limits.release(self._counted_as)
            self._counted_as = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request is there."""
        super().on_message_begin()
        self._begin()

    def on_headers_complete(self) -> None:
        """The head is whole. What the parser calls headers after this are a body's trailers."""
        self._end()
        super().on_headers_complete()
        self.headers = _DISCARDED_TRAILERS

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, or drop it where nobody wants it."""
        self._body_came = True
        if self._discarded is not self.cycle:
            super().on_body(body)

    def data_received(self, data: bytes) -> None:
        """Count what completes neither a head nor a piece of a body."""
        self._body_came, self._data = False, data
        super().data_received(data)
        self._data = b""
        in_body = self.cycle is not None and self.cycle.more_body and not self._body_came
        if self._waits_since is not None or in_body:
            self._size += len(data)
            if self._size > MOST_HEAD:
                self._hang_up(*((431, TOO_MANY) if self.url_is_whole() else (414, TOO_LONG)))

    def url_is_whole(self) -> bool:
        """Whether the head that is coming has got beyond its first line."""
        return bool(self.headers) or self._waits_since is None or len(self.url) <= MAX_URL

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what the parser refuses."""
        error = sys.exc_info()[1]
        if len(getattr(self, "url", b"")) > MAX_URL:
            self._hang_up(414, TOO_LONG)
        elif isinstance(error, httptools.HttpParserInvalidMethodError) and _is_word(self._data):
            self._hang_up(405, "method not allowed", f"allow: {METHODS}\r\n".encode())
        else:
            self._hang_up(400, MALFORMED)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Called for each request in its turn, when the one before it is answered."""
        scope = cast("Scope", cycle.scope)
        scope[open_files.FILE] = self._file
        app = self._counted(scope, app)
        if app is service_unavailable:
            app = _refusing(503, "too many connections; try again soon")
        elif len(scope["headers"]) > MAX_HEADERS or self._head_is_long(scope):
            app = _refusing(431, TOO_MANY)
        elif len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL:
            app = _refusing(414, TOO_LONG)
        else:
            at_once: AtOnce = self.config.app.at_once  # type: ignore[union-attr]
            if self.flow.write_paused or not at_once(scope, partial(self._answer, cycle, app)):
                scope[DISCARD] = partial(self._discard, cycle)
                scope[ARRIVED] = partial(_has_arrived, cycle)
                super()._start_asgi_task(cycle, app)
            return
        super()._start_asgi_task(cycle, app)

    def _counted(self, scope: Scope, app: Any) -> Any:
        """Put the client's address into the scope; count a proxy's request as a connection.

        A proxy uses its connections for many clients, so each request in progress is counted for
        the client that it comes from.
        """
        peer = self.client[0] if self.client else ""
        if peer not in self.proxies or app is service_unavailable:
            return app
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        client = self.proxies.client(peer, forwarded)
        scope["client"] = (client, 0)
        key = client_key(client)
        return app if key == self._counted_as else _limited(self.limits, key, app)

    def _head_is_long(self, scope: Scope) -> bool:
        """Looked at only where so much came at a time that it can be."""
        if len(self._data) + self._size <= MOST_HEAD:
            return False
        return sum(len(key) + len(value) + 4 for key, value in scope["headers"]) > MOST_HEAD

    def _discard(self, cycle: RequestResponseCycle) -> None:
        """Drop the rest of this request's body as it comes."""
        if cycle is self.cycle:
            self._discarded = cycle
            cycle.body = bytearray()
            self.flow.resume_reading()

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
            self._hang_up(408, TOO_SLOW)

    def _hang_up(self, status: int, text: str, header: bytes = b"") -> None:
        """Refuse what comes in, unless an answer to an earlier request is still on its way."""
        self._end()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(status, text, header)
        elif not cycle.response_started and cycle.more_body:
            cycle.disconnected = True
            cycle.message_event.set()
            self._refuse(status, text, header)
        else:
            self.transport.close()

    def _refuse(self, status: int, text: str, header: bytes = b"") -> None:
        body = _error(text)
        lines = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        head = STATUS_LINE[status] + lines + header + b"connection: close\r\n\r\n"
        self.transport.write(head + body)
        self.transport.close()


def _has_arrived(cycle: RequestResponseCycle) -> bool:
    return not cycle.more_body and not cycle.waiting_for_100_continue


def _error(text: str) -> bytes:
    return json.dumps({"error": text}, separators=(",", ":")).encode()


def _is_word(data: bytes) -> bool:
    """Whether this begins with what could be a method, rather than with another protocol."""
    word, space, _ = data.partition(b" ")
    return bool(space) and word.isalpha() and word.isupper() and len(word) <= 32


def _refusing(status: int, text: str) -> Any:
    """An ASGI application that says no more than this."""
    body = _error(text)

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status in (429, 503):
            headers.append((b"retry-after", b"5"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _limited(limits: ConnectionLimits, key: str, app: Any) -> Any:
    """Return the application with each of its calls counted as a connection of this client."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if not limits.take(key):
            await _refusing(429, TOO_MANY_CONNECTIONS)(scope, receive, send)
            return
        try:
            await app(scope, receive, send)
        finally:
            limits.release(key)

    return limited


class Server(uvicorn.Server):
    """Has streams end by themselves when it is to stop, rather than cut them off after a while."""

    def __init__(self, config: uvicorn.Config, before: Callable[[], None]) -> None:
        super().__init__(config)
        self._before = before

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call `before`, then wait for what goes on."""
        self._before()
        await super().shutdown(sockets)
