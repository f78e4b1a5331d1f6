"""The public port: serves event streams and the fast path, and proxies all else to Django.

A raw ASGI application. No body is read before the headers have shown valid credentials: without
them the web process gets the headers alone, marked as such, and refuses the request as usual. A
body is read completely before web is called, so that a slow client never blocks one of its few
threads; responses are streamed. Sizes and times are limited; while the web process is unavailable,
clients are told so. Django decides once, at its start, whether a caller may read a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any
from urllib.parse import parse_qs

import httpx

from reef_site.common.asgi import JSONResponse
from reef_site.common.text import parse_number
from reef_site.edge import file_offload, gateway, held_responses, open_files, unavailable_page
from reef_site.edge.request_bodies import (
    ANONYMOUS_BUDGET,
    ANONYMOUS_BUDGET_PER_ADDRESS,
    ARRIVED,
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
    header,
)

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")

logger = logging.getLogger("reef.edge")

Headers = list[tuple[bytes, bytes]]

WEB_TIMEOUT_SECONDS = 90.0
MAX_SMALL_BODY = 16 << 10
# Used until the settings are read.
DEFAULT_BUDGET = 256 << 20
TRANSCRIPT = re.compile(r"/lieutenant/lieutenants/[^/]+/stream/?")
LISTING = re.compile(r"/events/?")
# Hop-by-hop headers, and those that the edge sets itself.
HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"x-forwarded-for", b"x-forwarded-host"),
        *(b"x-real-ip", b"expect", b"forwarded", b"date", b"server"),
    }
)


# Headers between edge and web, which no client may set.
INTERNAL = frozenset(
    name.encode() for name in (file_offload.TAKES, gateway.KEY_HEADER, gateway.WITHHELD_HEADER)
)
# Headers that different readers would understand differently if they came twice.
SINGLE = (b"host", b"authorization")
BLANKS = b" \t"
REFUSALS = (401, 403)


class BadRequest(Exception):
    """The request cannot be forwarded; the message says why."""


class Edge:
    """The ASGI application of the edge."""

    def __init__(self) -> None:
        self._web: httpx.AsyncClient | None = None
        self._streams: Any = None
        self._fast_path: Any = None
        self._credentials: Any = None
        self._refusals: Any = None
        self._budget = BodyBudget(DEFAULT_BUDGET, DEFAULT_BUDGET // 4)
        self._anonymous_budget = BodyBudget(ANONYMOUS_BUDGET, ANONYMOUS_BUDGET_PER_ADDRESS)
        self._key = b""
        self._ending = asyncio.Event()

    def end_streams(self) -> None:
        """End streams and long waits, because the server is about to stop."""
        self._ending.set()

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
                if self._fast_path:
                    await self._fast_path.close()
                await self._credentials.close()
                await self._refusals.close()
                await self._streams.close()
                if self._web:
                    await self._web.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _start(self) -> None:
        import django
        from django.conf import settings

        django.setup()
        from reef_site.audit.edge_refusals import EdgeRefusals
        from reef_site.edge.credentials import Credentials
        from reef_site.edge.streams import Streams
        from registry.fast_path import FastPath

        transport = httpx.AsyncHTTPTransport(
            uds=str(settings.WEB_SOCKET),
            limits=httpx.Limits(
                max_connections=min(256, (open_files.limit() or 4096) // 8),
                max_keepalive_connections=32,
            ),
        )
        self._web = httpx.AsyncClient(
            transport=transport,
            base_url="http://web",
            timeout=httpx.Timeout(WEB_TIMEOUT_SECONDS, connect=3.0, pool=30.0),
            follow_redirects=False,
        )
        self._key = settings.EDGE_KEY.encode()
        self._budget = BodyBudget(
            settings.MAX_BODY_MIB << 20, settings.MAX_BODY_MIB_PER_ADDRESS << 20
        )
        self._credentials = Credentials()
        self._refusals = EdgeRefusals()
        self._streams = Streams()
        if "registry" in settings.ORGANS:
            self._fast_path = FastPath()
        # All of this is permanent: scanning it for garbage would delay heartbeats each time.
        gc.collect()
        gc.freeze()

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["headers"] = _trimmed(scope["headers"])
        exchange = Exchange(scope, receive, send)
        send = exchange.send
        try:
            _check(scope)
            await self._route(scope, exchange.receive, send)
        except BadRequest as error:
            await _send_error(send, 400, str(error))
        except BodyTooLarge as error:
            await _send_error(send, 413, str(error))
        except TryLater as error:
            close = [(b"connection", b"close")] if error.closes else []
            await _send_error(send, error.status, str(error), (b"retry-after", b"2"), *close)
        except TimeoutError:
            await _send_error(send, 408, "body: did not come in time", (b"connection", b"close"))
        except ClientGone:
            logger.info("%s %.1000s: the client hung up", scope["method"], scope["path"])

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] == "GET" and TRANSCRIPT.fullmatch(path):
            await self._transcript(scope, receive, send)
        elif scope["method"] == "GET" and LISTING.fullmatch(path):
            await self._listing(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, if its sender may send one, and respond by the fast path or by web."""
        route = self._fast_path and self._fast_path.route(scope)
        with Body(self._budget, client_of(scope)) as body:
            # The fast path checks the token as it writes, so a body that has arrived need not wait.
            early = bool(route) and _small_body_has_arrived(scope)
            if early:
                await body.take_in(receive, declared(scope), has_arrived=True)
            is_authenticated = early or await self._read_body(scope, receive, body)
            response = (
                await self._answer_on_fast_path(route, scope, body if is_authenticated else None)
                if route
                else None
            )
            if response is None:
                if early:
                    is_authenticated = await self._read_body(scope, receive, body)
                try:
                    answer = await self._call_web(scope, body, withheld=not is_authenticated)
                except httpx.HTTPError as error:
                    log = "%s %.1000s: web is away (%s)"
                    logger.warning(log, scope["method"], scope["path"], error)
                    await _send_unavailable(scope, send, error)
                    return
        if response is not None:
            if response.status in REFUSALS:
                self._note_refusal(scope, response)
            await _send_all(send, response.status, response.headers, response.body)
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

    # -- fast path ----------------------------------------------------------------------------

    def at_once(self, scope: Scope, callback: Callable[[JSONResponse | None], None]) -> bool:
        """Begin to respond without a task, see `http_protocol.AtOnce`; return whether it does."""
        route = self._fast_path and self._fast_path.route(scope)
        if not route:
            return False
        headers = {key: value.strip(BLANKS) for key, value in scope["headers"]}
        has_duplicates = len(headers) < len(scope["headers"])
        if (
            has_duplicates
            or b"transfer-encoding" in headers
            or headers.get(b"content-length", b"0") != b"0"
        ):
            return False

        def record_and_call_back(answer: JSONResponse | None) -> None:
            if answer is not None and answer.status in REFUSALS:
                self._note_refusal(scope, answer)
            callback(answer)

        begun: bool = self._fast_path.begin(route, headers, record_and_call_back)
        return begun

    def _note_refusal(self, scope: Scope, answer: JSONResponse) -> None:
        """Record a refusal of the fast path in the audit log."""
        reason = str(json.loads(answer.body).get("error", ""))
        where = (client_of(scope), scope["method"], scope["path"])
        self._refusals.note(*where, answer.status, reason)

    async def _answer_on_fast_path(
        self, route: tuple[str, str], scope: Scope, body: Body | None
    ) -> JSONResponse | None:
        """Return the response of a fast-path route; None to call web instead."""
        headers = dict(scope["headers"])
        answer: JSONResponse | None
        if body is None:
            answer = self._fast_path.rejection(headers)
        else:
            answer = await self._fast_path.answer(route, headers, body.whole())
        return answer

    # -- proxying -----------------------------------------------------------------------------

    async def _call_web(
        self,
        scope: Scope,
        body: Body | None,
        path: bytes | None = None,
        *,
        withheld: bool = False,
    ) -> httpx.Response:
        """Return web's response with its body unread; retry where that is harmless.

        `withheld` tells web that there is a body that the edge has not read.
        """
        assert self._web is not None
        query = scope["query_string"] if path is None else b""
        raw = (path or scope.get("raw_path") or scope["path"].encode()) or b"/"
        url = httpx.URL("http://web").copy_with(raw_path=raw + (b"?" + query if query else b""))
        method = scope["method"] if path is None else "GET"
        body = body if body and body.size else None
        headers = _request_headers(scope, body.size if body else 0)
        headers.append((gateway.KEY_HEADER.encode(), self._key))
        if withheld:
            headers.append((gateway.WITHHELD_HEADER.encode(), b"yes"))
        for attempt in range(6):
            request = httpx.Request(
                method,
                url,
                headers=headers,
                content=body.chunks() if body else None,
                extensions={"timeout": self._web.timeout.as_dict()},
            )
            try:
                return await self._web.send(request, stream=True)
            except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
                # If nothing was sent, or the method is safe, a retry cannot repeat an effect.
                is_safe = isinstance(error, httpx.ConnectError) or method in {"GET", "HEAD"}
                if attempt == 5 or not is_safe:
                    raise
                await asyncio.sleep(0.1 * (attempt + 1))
        raise AssertionError("not reached")

    async def _send_response(self, scope: Scope, answer: httpx.Response, send: Send) -> None:
        """Send web's response to the client."""
        try:
            if wait := answer.headers.get("reef-wait"):
                await self._hold_response(scope, answer, wait, send)
            elif name := answer.headers.get(file_offload.FILE):
                await answer.aclose()
                await self._send_file(name, _response_headers(answer), send)
            else:
                await _stream_back(answer, send)
        finally:
            await answer.aclose()

    async def _hold_response(
        self, scope: Scope, answer: httpx.Response, header: str, send: Send
    ) -> None:
        """Hold the response until its wait is over, then send the state at that time."""
        body = await answer.aread()
        wait = self._streams.wait_of(header)
        await self._until_ending(self._streams.until_over(wait))
        state = await self._streams.state_of(wait)
        payload = json.loads(body)
        path = held_responses.newer_path(wait, payload)
        newer = await self._current_state(scope, path) if path else None
        body = json.dumps(
            held_responses.completed(wait, payload, newer, state),
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        headers = [(k, v) for k, v in _response_headers(answer) if k != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await _send_all(send, answer.status_code, headers, body)

    async def _current_state(self, scope: Scope, path: str) -> dict[str, Any] | None:
        """Return the JSON that the same caller gets from web at this path; None on failure."""
        try:
            answer = await self._call_web(scope, None, path.encode())
            body = await answer.aread()
            await answer.aclose()
        except httpx.HTTPError as error:
            logger.warning("the newer state at %s is not to be had: %s", path, error)
            return None
        found: dict[str, Any] = json.loads(body) if answer.status_code == 200 else {}
        return found or None

    async def _send_file(self, name: str, headers: Headers, send: Send) -> None:
        """Send a file that web has checked, so that a slow client does not block web."""
        try:
            await file_offload.send_file(name, headers, send)
        except FileNotFoundError:
            await _send_error(send, 404, "the file is not there any more")

    # -- streams ------------------------------------------------------------------------------

    async def _authorized(self, scope: Scope, send: Send) -> dict[str, Any] | None:
        """Return Django's facts about this stream; None if it refused and the client was told."""
        try:
            answer = await self._call_web(scope, None)
            body = await answer.aread()
            await answer.aclose()
        except httpx.HTTPError as error:
            await _send_unavailable(scope, send, error)
            return None
        if answer.status_code != 200:
            await _send_all(send, answer.status_code, _response_headers(answer), body)
            return None
        facts: dict[str, Any] = json.loads(body)
        return facts

    async def _transcript(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_open_files(scope)
        facts = await self._authorized(scope, send)
        if facts is not None:
            after = _last_event(scope)
            events = self._streams.transcript(facts["id"], after)
            await self._stream(events, scope, receive, send, vm_id=facts["id"])

    async def _listing(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_open_files(scope)
        if await self._authorized(scope, send) is not None:
            await self._stream(self._streams.listing(), scope, receive, send)

    async def _stream(
        self,
        events: AsyncGenerator[bytes, None],
        scope: Scope,
        receive: Receive,
        send: Send,
        vm_id: str = "",
    ) -> None:
        """Send the events until the caller's access is revoked; `vm_id` owns the transcript."""
        cookies = b"; ".join(value for key, value in scope["headers"] if key == b"cookie")
        authorization = header(scope, b"authorization")
        revoked = self._streams.guard.until_revoked(authorization, cookies, vm_id)
        await _stream_events(events, self._until_ending(revoked), receive, send)

    async def _until_ending(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait until this is done, or until the edge is about to stop."""
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            for task in (working, ending):
                task.cancel()
            await asyncio.gather(working, ending, return_exceptions=True)


# -- requests ---------------------------------------------------------------------------------


def _trimmed(headers: Headers) -> Headers:
    """Strip the blanks around header values, which are not part of them (RFC 9110, 5.5)."""
    return [(key, value.strip(BLANKS)) for key, value in headers]


def _check(scope: Scope) -> None:
    """Raise BadRequest for requests that HTTP forbids or that are ambiguous."""
    if not scope["path"].startswith("/"):
        raise BadRequest("path: must start with a slash")
    names = [key for key, _ in scope["headers"]]
    for name in SINGLE:
        if names.count(name) > 1:
            raise BadRequest(f"{name.decode()}: is given more than once")
    if scope.get("http_version") == "1.1" and b"host" not in names:
        raise BadRequest("host: is missing")


def _check_open_files(scope: Scope) -> None:
    """Raise TryLater for a stream that would take one of the last open files."""
    if why := open_files.why_no_stream(scope.get(open_files.FILE, 0)):
        # Another connection may get a lower file number.
        raise TryLater(503, why, closes=True)


def _request_headers(scope: Scope, size: int) -> Headers:
    """Return the headers for web: the client's, its address, and the length of its body."""
    # A name with an underscore could pose as another header in WSGI.
    drop = HOP_BY_HOP | INTERNAL | {b"content-length"}
    kept = [(key, value) for key, value in scope["headers"] if key not in drop and b"_" not in key]
    if size or scope["method"] in {"POST", "PUT", "PATCH"}:
        kept.append((b"content-length", str(size).encode()))
    if not header(scope, b"host"):
        kept.append((b"host", b"localhost"))
    kept.append((file_offload.TAKES.encode(), b"yes"))
    client = scope.get("client") or ("", 0)
    kept.append((b"x-forwarded-for", str(client[0]).encode()))
    if header(scope, b"x-forwarded-proto") not in (b"http", b"https"):
        kept.append((b"x-forwarded-proto", scope.get("scheme", "http").encode()))
    return kept


def _last_event(scope: Scope) -> int | None:
    """Return the change to continue after: Last-Event-ID, else `?cursor=`; None for from now on."""
    given = header(scope, b"last-event-id").decode("latin-1")
    if (number := parse_number(given)) is not None:
        return number
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    for name in ("cursor", "after"):
        for given in query.get(name, []):
            if (number := parse_number(given)) is None:
                raise BadRequest(f"{name}: must be a whole number, 0 or more")
            return number
    return None


def _small_body_has_arrived(scope: Scope) -> bool:
    """Return whether the whole of a small body arrived together with the headers."""
    return 0 < declared(scope) <= MAX_SMALL_BODY and scope.get(ARRIVED, bool)()


def _do_nothing() -> None:
    """Do nothing, on servers that cannot drop a body."""


# -- answers ----------------------------------------------------------------------------------


def _response_headers(answer: httpx.Response) -> Headers:
    """Return web's headers for the client; `raw` keeps the length of an encoded body right."""
    skip = HOP_BY_HOP | {b"reef-wait", file_offload.FILE.encode()}
    return [(k.lower(), v) for k, v in answer.headers.raw if k.lower() not in skip]


async def _stream_back(answer: httpx.Response, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": answer.status_code,
            "headers": _response_headers(answer),
        }
    )
    try:
        async for chunk in answer.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.HTTPError as error:
        # A partial response must not look complete: hang up.
        logger.warning("web went away in the middle of an answer: %s", error)
        raise
    await send({"type": "http.response.body", "body": b""})


async def _send_all(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": text}, ensure_ascii=False, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await _send_all(send, status, headers, body)


async def _send_unavailable(scope: Scope, send: Send, error: httpx.HTTPError) -> None:
    """Report that web did not respond: to browsers by a page that reloads itself."""
    status, text = _unavailable_reason(error)
    if unavailable_page.is_navigation(scope["headers"]):
        headers, body = unavailable_page.page(
            text, reloads=scope["method"] == "GET" and status != 400
        )
        await _send_all(send, status, headers, body)
    else:
        retry = ((b"retry-after", b"2"),) if status == 502 else ()
        await _send_error(send, status, text, *retry)


def _unavailable_reason(error: httpx.HTTPError) -> tuple[int, str]:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
        return 502, "reef's web process is not there; nothing was done. Try again soon."
    if isinstance(error, httpx.LocalProtocolError):
        return 400, "headers: invalid for proxying; the request was not forwarded"
    if isinstance(error, httpx.TimeoutException):
        return 504, "reef's web process did not answer in time; look before you repeat."
    return 502, "reef's web process ended while it answered; look before you repeat."


async def _stream_events(
    events: AsyncGenerator[bytes, None],
    shut: Coroutine[Any, Any, None],
    receive: Receive,
    send: Send,
) -> None:
    """Send server-sent events until the client hangs up, or the stream or `shut` ends."""
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-store"),
                (b"x-accel-buffering", b"no"),
            ],
        }
    )

    async def pump() -> None:
        # Closed at once, so that no more events are collected for a client that is gone.
        async with aclosing(events):
            async for chunk in events:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def hang_up() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    pumping, shutting = asyncio.create_task(pump()), asyncio.create_task(shut)
    tasks = {pumping, shutting, asyncio.create_task(hang_up())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            logger.error("A stream ended with an error", exc_info=error)
    if pumping.cancelled() and not shutting.cancelled():
        await send({"type": "http.response.body", "body": b""})


app = Edge()


def main() -> None:
    """Run `python -m reef_site.edge --host H --port P`."""
    import uvicorn

    from reef_site import settings
    from reef_site.common.log_lines import LineFormatter
    from reef_site.edge.client_addresses import ConnectionLimits, TrustedProxies
    from reef_site.edge.http_protocol import Protocol, Server
    from reef_site.hardening import harden_process

    parser = argparse.ArgumentParser(
        prog="python -m reef_site.edge", description="The public port of reef."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=settings.PORT)
    options = parser.parse_args()
    harden_process()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=settings.LOG_LEVEL, handlers=[handler])
    Protocol.limits = ConnectionLimits(
        settings.MAX_CONNECTIONS_PER_ADDRESS, settings.MAX_LOOPBACK_CONNECTIONS
    )
    Protocol.proxies = TrustedProxies(settings.TRUSTED_PROXIES)
    logger.info("listening on http://%s:%d", options.host, options.port)
    config = uvicorn.Config(
        app,
        host=options.host,
        port=options.port,
        loop="uvloop",
        http=Protocol,
        ws="none",
        access_log=False,
        # uvicorn's messages go through our own handler.
        log_config=None,
        log_level="warning",
        server_header=False,
        # uvicorn would trust X-Forwarded-For of every program on this machine.
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=6000,
    )
    server = Server(config, app.end_streams)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)
