"""HTTP protocol on top of uvicorn: limits on headers and connections, responses without a task."""

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
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from reef_site.common.asgi import JSONResponse
from reef_site.edge import open_files
from reef_site.edge.client_addresses import ConnectionLimits, TrustedProxies, client_key
from reef_site.edge.repeated_requests import RepeatingProtocol
from reef_site.edge.request_bodies import ARRIVED, DISCARD, Receive, Scope, Send

logger = logging.getLogger("reef.edge")

# Takes a request, if its body is there, and calls back with its response on the loop, or with None
# to have it handled like all others. Returns False if it does not take the request.
AtOnce = Callable[[Scope, Callable[[JSONResponse | None], None]], bool]

HEAD_SECONDS = 20.0
MAX_HEAD = 1 << 16
MAX_URL = 32 << 10
# The web server accepts a hundred, and the edge adds some of its own.
MAX_HEADERS = 90
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
TOO_LONG = "url: is too long"
TOO_MANY = "headers: are too many, or too long"
TOO_MANY_CONNECTIONS = "too many connections from your address"
TOO_SLOW = "headers: did not come in time"
MALFORMED = "this is not a valid HTTP request"


class _DiscardedTrailers(list[tuple[bytes, bytes]]):
    """List that drops the fields after a body."""

    def append(self, field: tuple[bytes, bytes]) -> None:
        """Drop the field."""


_DISCARDED_TRAILERS = _DiscardedTrailers()


class Protocol(RepeatingProtocol):
    """HTTP protocol that closes connections whose request headers do not arrive completely.

    It calls the application's `at_once` first: for a short response, a task and ASGI messages cost
    more than all the rest.
    """

    limits = ConnectionLimits(per_address=500, loopback=5000)
    proxies = TrustedProxies()
    # One timer serves many requests, each of which begins later than the one before.
    _timer: asyncio.TimerHandle | None = None
    _waits_since: float | None = None
    # Consecutive bytes of headers, chunk headers or trailers that completed nothing.
    _size = 0
    _body_came = False
    _data = b""
    _file = 0
    _counted_as: str | None = None
    _from_proxy = False
    _discarded: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Check the limits and wait for the first request; uvicorn limits later pauses."""
        super().connection_made(transport)
        self._file = transport.get_extra_info("socket").fileno()
        if why := open_files.why_no_connection(self._file):
            self._refuse(503, why, b"retry-after: 5\r\n")
            return
        peer = self.client[0] if self.client else ""
        key = client_key(peer)
        self._from_proxy = peer in self.proxies
        if not self.limits.take(key, is_proxy=self._from_proxy):
            self._refuse(429, TOO_MANY_CONNECTIONS, b"retry-after: 5\r\n")
            return
        self._counted_as = key
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Release the client's slot and stop the timer."""
        self._stop_timer()
        if self._counted_as is not None:
            self.limits.release(self._counted_as)
            self._counted_as = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Start the time limit at the first byte of a request."""
        super().on_message_begin()
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Stop the time limit. Headers that the parser reports later are trailers of the body."""
        self._stop_timer()
        super().on_headers_complete()
        self.headers = _DISCARDED_TRAILERS

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body, or drop it if the body is discarded."""
        self._body_came = True
        if self._discarded is not self.cycle:
            super().on_body(body)

    def takes_known(self) -> bool:
        """Known requests of a proxy are parsed, since they are counted for its clients."""
        if self._from_proxy or not super().takes_known():
            return False
        self._stop_timer()
        return True

    def parse(self, data: bytes) -> None:
        """Count bytes that complete neither the headers nor a piece of a body."""
        self._body_came, self._data = False, data
        super().parse(data)
        self._data = b""
        in_body = self.cycle is not None and self.cycle.more_body and not self._body_came
        if self._waits_since is not None or in_body:
            self._size += len(data)
            if self._size > MAX_HEAD:
                self._hang_up(*((431, TOO_MANY) if self.url_is_whole() else (414, TOO_LONG)))

    def url_is_whole(self) -> bool:
        """Return whether the request line of the incoming headers is complete."""
        return bool(self.headers) or self._waits_since is None or len(self.url) <= MAX_URL

    def send_400_response(self, msg: str) -> None:
        """Respond to what the parser refuses; called by uvicorn."""
        error = sys.exc_info()[1]
        if len(getattr(self, "url", b"")) > MAX_URL:
            self._hang_up(414, TOO_LONG)
        elif isinstance(error, httptools.HttpParserInvalidMethodError) and _is_method(self._data):
            self._hang_up(405, "method not allowed", f"allow: {METHODS}\r\n".encode())
        else:
            self._hang_up(400, MALFORMED)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Handle one request; called by uvicorn when the one before it is answered."""
        scope = cast("Scope", cycle.scope)
        scope[open_files.FILE] = self._file
        if self._from_proxy:
            app = self._with_client_limit(scope, app)
        if app is service_unavailable:
            app = _refusal_app(503, "too many connections; try again soon")
        elif len(scope["headers"]) > MAX_HEADERS or self._head_is_long(scope):
            app = _refusal_app(431, TOO_MANY)
        elif len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL:
            app = _refusal_app(414, TOO_LONG)
        else:
            if not self._from_proxy:
                self.add_remembering(cycle, scope)
            at_once: AtOnce = self.config.app.at_once  # type: ignore[union-attr]
            if self.flow.write_paused or not at_once(scope, partial(self._answer, cycle, app)):
                scope[DISCARD] = partial(self._discard, cycle)
                scope[ARRIVED] = partial(_has_arrived, cycle)
                super()._start_asgi_task(cycle, app)
            return
        super()._start_asgi_task(cycle, app)

    def _with_client_limit(self, scope: Scope, app: Any) -> Any:
        """Set the client's address in the scope; count a proxied request as a connection.

        A proxy uses its connections for many clients, so each request in progress is counted for
        the client that it comes from.
        """
        if app is service_unavailable:
            return app
        peer = self.client[0] if self.client else ""
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        client = self.proxies.client(peer, forwarded)
        scope["client"] = (client, 0)
        key = client_key(client)
        return app if key == self._counted_as else _limited_app(self.limits, key, app)

    def _head_is_long(self, scope: Scope) -> bool:
        """Return whether the headers are too long; measured only if enough bytes arrived."""
        if len(self._data) + self._size <= MAX_HEAD:
            return False
        return sum(len(key) + len(value) + 4 for key, value in scope["headers"]) > MAX_HEAD

    def _discard(self, cycle: RequestResponseCycle) -> None:
        """Drop the rest of this request's body as it arrives."""
        if cycle is self.cycle:
            self._discarded = cycle
            cycle.body = bytearray()
            self.flow.resume_reading()

    def _answer(self, cycle: RequestResponseCycle, app: Any, answer: JSONResponse | None) -> None:
        """Write the response as the cycle would do for ASGI messages; None runs the application."""
        if cycle.disconnected:
            return
        if answer is None:
            super()._start_asgi_task(cycle, app)
            return
        cycle.response_started = cycle.response_complete = True
        self.write_response(answer, keep_alive=cycle.keep_alive)
        self.on_response_complete()

    def _start_timer(self) -> None:
        self._size, self._waits_since = 0, self.loop.time()
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._check_timeout)

    def _stop_timer(self) -> None:
        self._waits_since = None

    def _check_timeout(self) -> None:
        """Hang up if the headers are overdue; else check again when they would be."""
        self._timer = None
        if self._waits_since is None:
            return
        left = self._waits_since + HEAD_SECONDS - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._check_timeout)
        else:
            self._hang_up(408, TOO_SLOW)

    def _hang_up(self, status: int, text: str, header: bytes = b"") -> None:
        """Refuse the request and close, without cutting off the response to an earlier request."""
        self._stop_timer()
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


def _is_method(data: bytes) -> bool:
    """Return whether the data begins with a possible method, rather than with another protocol."""
    word, space, _ = data.partition(b" ")
    return bool(space) and word.isalpha() and word.isupper() and len(word) <= 32


def _refusal_app(status: int, text: str) -> Any:
    """Return an ASGI application that sends this error and closes the connection."""
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


def _limited_app(limits: ConnectionLimits, key: str, app: Any) -> Any:
    """Wrap the application so that each of its calls counts as a connection of this client."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if not limits.take(key):
            await _refusal_app(429, TOO_MANY_CONNECTIONS)(scope, receive, send)
            return
        try:
            await app(scope, receive, send)
        finally:
            limits.release(key)

    return limited


class Server(uvicorn.Server):
    """Server that ends streams by a callback before it stops, rather than by a timeout."""

    def __init__(self, config: uvicorn.Config, before: Callable[[], None]) -> None:
        super().__init__(config)
        self._before = before

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Call `before`, then wait for the requests in progress."""
        self._before()
        await super().shutdown(sockets)
