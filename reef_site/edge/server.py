"""The public port: serves event streams and the fast path, and proxies all else to Django.

A raw ASGI application. No body is read before the headers have shown valid credentials: without
them the web process gets the headers alone, marked as such, and refuses the request as usual. A
body is read completely before web is called, so that a slow client never blocks one of its few
threads; responses are streamed. Sizes and times are limited; while the web process is unavailable,
clients are told so. Django decides once, at its start, whether a caller may read a stream.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Callable
from typing import Any

import httpx

from reef_site.common.asgi import JSONResponse
from reef_site.edge import file_offload
from reef_site.edge.holder import Holder
from reef_site.edge.open_responses import OpenResponses
from reef_site.edge.parts import Parts
from reef_site.edge.request_bodies import (
    ANONYMOUS_BUDGET,
    ANONYMOUS_BUDGET_PER_ADDRESS,
    DISCARD,
    Body,
    BodyBudget,
    BodyTooLarge,
    ClientGone,
    Exchange,
    Receive,
    Scope,
    Send,
    TryLater,
    client_of,
    declared,
    has_body,
)
from reef_site.edge.request_heads import (
    BadRequest,
    check,
    small_body_has_arrived,
    trimmed,
    wants_stream,
)
from reef_site.edge.responses import (
    Headers,
    response_headers,
    send_all,
    send_error,
    send_unavailable,
    stream_back,
)
from reef_site.edge.web_client import WebClient

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")

logger = logging.getLogger("reef.edge")

# Used until the settings are read.
DEFAULT_BUDGET = 256 << 20
TRANSCRIPT = re.compile(r"/lieutenant/lieutenants/[^/]+/stream/?")
FLEET = re.compile(r"/events/?")
MCP = re.compile(r"/mcp/?")


class Edge:
    """The ASGI application of the edge."""

    def __init__(self) -> None:
        self._parts = Parts()
        self._holder = Holder(self._parts)
        self._open_responses = OpenResponses(self._parts)
        self._fast_requests: Any = None
        self._credentials: Any = None
        self._refusals: Any = None
        self._budget = BodyBudget(DEFAULT_BUDGET, DEFAULT_BUDGET // 4)
        self._anonymous_budget = BodyBudget(ANONYMOUS_BUDGET, ANONYMOUS_BUDGET_PER_ADDRESS)

    def end_streams(self) -> None:
        """End streams and long waits, because the server is about to stop."""
        self._parts.ending.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            if event["type"] == "lifespan.startup":
                self._start()
                await send({"type": "lifespan.startup.complete"})
            elif event["type"] == "lifespan.shutdown":
                await self._open_responses.close()
                if self._fast_requests:
                    await self._fast_requests.close()
                await self._credentials.close()
                await self._refusals.close()
                await self._parts.streams.close()
                await self._parts.web.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _start(self) -> None:
        import django
        from django.conf import settings

        django.setup()
        from reef_site.audit.edge_refusals import EdgeRefusals
        from reef_site.edge.credentials import Credentials
        from reef_site.edge.streams import Streams

        self._parts.web = WebClient.over(str(settings.WEB_SOCKET), settings.EDGE_KEY)
        self._budget = BodyBudget(
            settings.MAX_BODY_MIB << 20, settings.MAX_BODY_MIB_PER_ADDRESS << 20
        )
        self._credentials = Credentials()
        self._refusals = EdgeRefusals()
        self._parts.streams = Streams()
        if "registry" in settings.ORGANS:
            from reef_site.edge.fast_requests import FastRequests
            from registry.fast_path import FastPath

            self._fast_requests = FastRequests(FastPath(), self._refusals, self._budget)
        # All of this is permanent: scanning it for garbage would delay heartbeats each time.
        gc.collect()
        gc.freeze()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = trimmed(scope["headers"])
        exchange = Exchange(scope, receive, send)
        send = exchange.send
        try:
            check(scope)
            await self._route(scope, exchange.receive, send)
        except BadRequest as error:
            await send_error(send, 400, str(error))
        except BodyTooLarge as error:
            await send_error(send, 413, str(error))
        except TryLater as error:
            close = [(b"connection", b"close")] if error.closes else []
            await send_error(send, error.status, str(error), (b"retry-after", b"2"), *close)
        except TimeoutError:
            await send_error(send, 408, "body: did not come in time", (b"connection", b"close"))
        except ClientGone:
            logger.info("%s %.1000s: the client hung up", scope["method"], scope["path"])

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] == "GET" and TRANSCRIPT.fullmatch(path):
            await self._open_responses.transcript(scope, receive, send)
        elif scope["method"] == "GET" and FLEET.fullmatch(path) and wants_stream(scope):
            await self._open_responses.fleet(scope, receive, send)
        elif scope["method"] == "POST" and MCP.fullmatch(path):
            await self._open_responses.serve_mcp(scope, receive, send, self._budget)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, if its sender may send one, and respond by the fast path or by web."""
        fast = self._fast_requests
        route = fast and fast.route(scope)
        with Body(self._budget, client_of(scope)) as body:
            # The fast path checks the token as it writes, so a body that has arrived need not wait.
            early = bool(route) and small_body_has_arrived(scope)
            if early:
                await body.take_in(receive, declared(scope), has_arrived=True)
            is_authenticated = early or await self._read_body(scope, receive, body)
            response: JSONResponse | None = None
            if route:
                response = await fast.answer(
                    route, scope, body.whole() if is_authenticated else None
                )
            if response is None:
                if early:
                    is_authenticated = await self._read_body(scope, receive, body)
                try:
                    answer = await self._parts.web.call(scope, body, withheld=not is_authenticated)
                except httpx.HTTPError as error:
                    level = logging.WARNING if self._parts.web.has_answered else logging.DEBUG
                    log = "%s %.1000s: web is away (%s)"
                    logger.log(level, log, scope["method"], scope["path"], error)
                    await send_unavailable(scope, send, error)
                    return
        if response is not None:
            await send_all(send, response.status, response.headers, response.body)
        else:
            await self._send_response(scope, answer, send)

    async def _read_body(self, scope: Scope, receive: Receive, body: Body) -> bool:
        """Read the body unless that was done; return False if the credentials are not valid."""
        if not has_body(scope):
            return True
        limit = await self._credentials.body_limit(scope)
        if not limit.size:
            body.drop()
            # The rest of the body is dropped, rather than held until web responds.
            scope.get(DISCARD, _do_nothing)()
        elif body.is_whole:
            pass
        elif limit.is_anonymous:
            budget = self._anonymous_budget
            await body.take_in_anonymous(receive, declared(scope), limit.size, budget)
        else:
            await body.take_in(receive, declared(scope), limit.size)
        return bool(limit.size)

    def at_once(self, scope: Scope, callback: Callable[[JSONResponse | None], None]) -> bool:
        """Begin to respond without a task, see `http_protocol.AtOnce`; return whether it does."""
        return bool(self._fast_requests and self._fast_requests.begin(scope, callback))

    # -- proxying -----------------------------------------------------------------------------

    async def _send_response(self, scope: Scope, answer: httpx.Response, send: Send) -> None:
        """Send web's response to the client."""
        try:
            if wait := answer.headers.get("reef-wait"):
                await self._holder.respond(scope, answer, wait, send)
            elif name := answer.headers.get(file_offload.FILE):
                await answer.aclose()
                await self._send_file(name, response_headers(answer), send)
            else:
                await stream_back(answer, send)
        finally:
            await answer.aclose()

    async def _send_file(self, name: str, headers: Headers, send: Send) -> None:
        """Send a file that web has checked, so that a slow client does not block web."""
        try:
            await file_offload.send_file(name, headers, send)
        except FileNotFoundError:
            await send_error(send, 404, "the file is not there any more")


def _do_nothing() -> None:
    """Do nothing, on servers that cannot drop a body."""


app = Edge()
