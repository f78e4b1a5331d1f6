"""The public port: event streams and waits are answered here, all else is passed on to Django.

A raw ASGI application. No body is read before the head has shown good credentials: without them web
gets the head alone, marked as such, and refuses it in its usual words. A body is read whole before
web is asked, so that a slow client never holds up one of its few threads; answers are passed on as
streams. Sizes and times are limited; when the web process is away, it says so in words. Who may
hear a stream is asked of Django once, at its start.
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

from reef_site import away, gateway, handover, open_files, waits
from reef_site.bodies import (
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
from reef_site.common.asgi import Answer
from reef_site.common.text import parse_number

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "reef_site.settings")

logger = logging.getLogger("reef.edge")

Headers = list[tuple[bytes, bytes]]

WEB_SECONDS = 90.0
SMALL_BODY = 16 << 10
# Until the settings are read.
DEFAULT_BUDGET = 256 << 20
TRANSCRIPT = re.compile(r"/lieutenant/lieutenants/[^/]+/stream/?")
LISTING = re.compile(r"/events/?")
# Headers that belong to one hop, and those that this hop sets itself.
HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade", b"x-forwarded-for", b"x-forwarded-host"),
        *(b"x-real-ip", b"expect", b"forwarded", b"date", b"server"),
    }
)


# Headers between us and web, which no client may set.
INTERNAL = frozenset(
    name.encode() for name in (handover.TAKES, gateway.KEY_HEADER, gateway.WITHHELD_HEADER)
)
# Headers of which two would be understood differently by different readers.
SINGLE = (b"host", b"authorization")


class BadRequest(Exception):
    """Not a request that can be passed on; the text says why."""


class Edge:
    """The ASGI application."""

    def __init__(self) -> None:
        self._web: httpx.AsyncClient | None = None
        self._streams: Any = None
        self._hot: Any = None
        self._credentials: Any = None
        self._refusals: Any = None
        self._budget = BodyBudget(DEFAULT_BUDGET, DEFAULT_BUDGET // 4)
        self._anonymous_budget = BodyBudget(ANONYMOUS_BUDGET, ANONYMOUS_BUDGET_PER_ADDRESS)
        self._key = b""
        self._ending = asyncio.Event()

    def end_streams(self) -> None:
        """We are about to stop: end what would go on for ever, or for long."""
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
                if self._hot:
                    await self._hot.close()
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
        from reef_site.audit.at_edge import EdgeRefusals
        from reef_site.credentials import Credentials
        from reef_site.streams import Streams
        from registry.hotpath import HotRoutes

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
            timeout=httpx.Timeout(WEB_SECONDS, connect=3.0, pool=30.0),
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
            self._hot = HotRoutes()
        # What is there now stays: looking through it for garbage would hold up all beats each time.
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
            await _say(send, 400, str(error))
        except BodyTooLarge as error:
            await _say(send, 413, str(error))
        except TryLater as error:
            close = [(b"connection", b"close")] if error.closes else []
            await _say(send, error.status, str(error), (b"retry-after", b"2"), *close)
        except TimeoutError:
            await _say(send, 408, "body: did not come in time", (b"connection", b"close"))
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
        """Read the body, if its sender may send one, and answer here or by web."""
        hot = self._hot and self._hot.route(scope)
        with Body(self._budget, client_of(scope)) as body:
            # Hot routes look at the token as they write, so what is here already need not wait.
            early = bool(hot) and _is_small_and_here(scope)
            if early:
                await body.take_in(receive, declared(scope), has_arrived=True)
            good = early or await self._read_body(scope, receive, body)
            answered = await self._answer_hot(hot, scope, body if good else None) if hot else None
            if answered is None:
                if early:
                    good = await self._read_body(scope, receive, body)
                try:
                    answer = await self._ask_web(scope, body, withheld=not good)
                except httpx.HTTPError as error:
                    log = "%s %.1000s: web is away (%s)"
                    logger.warning(log, scope["method"], scope["path"], error)
                    await _say_away(scope, send, error)
                    return
        if answered is not None:
            self._note_refusal(scope, answered)
            await _send_all(send, answered.status, answered.headers, answered.body)
        else:
            await self._pass_back(scope, answer, send)

    async def _read_body(self, scope: Scope, receive: Receive, body: Body) -> bool:
        """Read the body, unless that was done; False if its sender shows no good credentials."""
        if not has_body(scope):
            return True
        limit = await self._credentials.body_limit(scope)
        if not limit.size:
            body.drop()
            # What still comes is dropped, rather than held while web answers.
            scope.get(DISCARD, _nothing)()
        elif body.is_whole:
            pass
        elif limit.is_anonymous:
            budget = self._anonymous_budget
            await body.take_in_anonymous(receive, declared(scope), limit.size, budget)
        else:
            await body.take_in(receive, declared(scope), limit.size)
        return bool(limit.size)

    # -- hot routes ---------------------------------------------------------------------------

    def at_once(self, scope: Scope, tell: Callable[[Answer | None], None]) -> bool:
        """Begin to answer without a task of its own, as `door.AtOnce` describes it."""
        route = self._hot and self._hot.route(scope)
        if not route:
            return False
        headers = dict(_trimmed(scope["headers"]))
        twice = len(headers) < len(scope["headers"])
        if twice or b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
            return False

        def noted(answer: Answer | None) -> None:
            if answer is not None:
                self._note_refusal(scope, answer)
            tell(answer)

        begun: bool = self._hot.begin(route, headers, noted)
        return begun

    def _note_refusal(self, scope: Scope, answer: Answer) -> None:
        """Have the audit log record an answer that refuses the request."""
        if answer.status not in (401, 403):
            return
        reason = str(json.loads(answer.body).get("error", ""))
        where = (client_of(scope), scope["method"], scope["path"])
        self._refusals.note(*where, answer.status, reason)

    async def _answer_hot(
        self, route: tuple[str, str], scope: Scope, body: Body | None
    ) -> Answer | None:
        """The answer of a hot route, where the body may be read; None to have web asked."""
        headers = dict(scope["headers"])
        answer: Answer | None
        if body is None:
            answer = self._hot.rejection(headers)
        else:
            answer = await self._hot.answer(route, headers, body.whole())
        return answer

    # -- passing on ---------------------------------------------------------------------------

    async def _ask_web(
        self,
        scope: Scope,
        body: Body | None,
        path: bytes | None = None,
        *,
        withheld: bool = False,
    ) -> httpx.Response:
        """The web process's answer, its body not read yet; tried again where that is harmless.

        `withheld` tells web that there is a body that nobody has read.
        """
        assert self._web is not None
        query = scope["query_string"] if path is None else b""
        raw = (path or scope.get("raw_path") or scope["path"].encode()) or b"/"
        url = httpx.URL("http://web").copy_with(raw_path=raw + (b"?" + query if query else b""))
        method = scope["method"] if path is None else "GET"
        body = body if body and body.size else None
        headers = _forwarded(scope, body.size if body else 0)
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
                # Where nothing was sent, or nothing but a question, nothing can be done twice.
                harmless = isinstance(error, httpx.ConnectError) or method in {"GET", "HEAD"}
                if attempt == 5 or not harmless:
                    raise
                await asyncio.sleep(0.1 * (attempt + 1))
        raise AssertionError("not reached")

    async def _pass_back(self, scope: Scope, answer: httpx.Response, send: Send) -> None:
        """Give the client what web has answered."""
        try:
            if wait := answer.headers.get("reef-wait"):
                await self._answer_later(scope, answer, wait, send)
            elif name := answer.headers.get(handover.FILE):
                await answer.aclose()
                await self._send_file(name, _returned(answer), send)
            else:
                await _stream_back(answer, send)
        finally:
            await answer.aclose()

    async def _answer_later(
        self, scope: Scope, answer: httpx.Response, header: str, send: Send
    ) -> None:
        """Keep the answer back until what it waits for is over, then give what is true then."""
        body = await answer.aread()
        wait = self._streams.wait_of(header)
        await self._unless_ending(self._streams.until_over(wait))
        state = await self._streams.state_of(wait)
        said = json.loads(body)
        path = waits.newer_path(wait, said)
        newer = await self._newer(scope, path) if path else None
        body = json.dumps(
            waits.completed(wait, said, newer, state), ensure_ascii=False, separators=(",", ":")
        ).encode()
        headers = [(k, v) for k, v in _returned(answer) if k != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await _send_all(send, answer.status_code, headers, body)

    async def _newer(self, scope: Scope, path: str) -> dict[str, Any] | None:
        """What web says to the same caller at this path; None if it says nothing good."""
        try:
            answer = await self._ask_web(scope, None, path.encode())
            body = await answer.aread()
            await answer.aclose()
        except httpx.HTTPError as error:
            logger.warning("the newer state at %s is not to be had: %s", path, error)
            return None
        found: dict[str, Any] = json.loads(body) if answer.status_code == 200 else {}
        return found or None

    async def _send_file(self, name: str, headers: Headers, send: Send) -> None:
        """A file that web has looked at and leaves to us to send, however slow the client is."""
        try:
            await handover.send_file(name, headers, send)
        except FileNotFoundError:
            await _say(send, 404, "the file is not there any more")

    # -- streams ------------------------------------------------------------------------------

    async def _allowed(self, scope: Scope, send: Send) -> dict[str, Any] | None:
        """What Django says of this stream; None if it refused and the client was told."""
        try:
            answer = await self._ask_web(scope, None)
            body = await answer.aread()
            await answer.aclose()
        except httpx.HTTPError as error:
            await _say_away(scope, send, error)
            return None
        if answer.status_code != 200:
            await _send_all(send, answer.status_code, _returned(answer), body)
            return None
        facts: dict[str, Any] = json.loads(body)
        return facts

    async def _transcript(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_room(scope)
        facts = await self._allowed(scope, send)
        if facts is not None:
            after = _last_event(scope)
            events = self._streams.transcript(facts["id"], after)
            await self._stream(events, scope, receive, send, vm_id=facts["id"])

    async def _listing(self, scope: Scope, receive: Receive, send: Send) -> None:
        _check_room(scope)
        if await self._allowed(scope, send) is not None:
            await self._stream(self._streams.listing(), scope, receive, send)

    async def _stream(
        self,
        events: AsyncGenerator[bytes, None],
        scope: Scope,
        receive: Receive,
        send: Send,
        vm_id: str = "",
    ) -> None:
        """Send the events while the caller may follow them; `vm_id` is whose transcript it is."""
        cookies = b"; ".join(value for key, value in scope["headers"] if key == b"cookie")
        authorization = header(scope, b"authorization")
        revoked = self._streams.guard.until_revoked(authorization, cookies, vm_id)
        await _stream_events(events, self._unless_ending(revoked), receive, send)

    async def _unless_ending(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for this, or until we are about to stop."""
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
    """The same without the blanks around values, which belong to none (RFC 9110, 5.5)."""
    return [(key, value.strip(b" \t")) for key, value in headers]


def _check(scope: Scope) -> None:
    """Refuse what HTTP allows nobody to send, or what has no meaning here."""
    if not scope["path"].startswith("/"):
        raise BadRequest("path: must start with a slash")
    names = [key for key, _ in scope["headers"]]
    for name in SINGLE:
        if names.count(name) > 1:
            raise BadRequest(f"{name.decode()}: is given more than once")
    if scope.get("http_version") == "1.1" and b"host" not in names:
        raise BadRequest("host: is missing")


def _check_room(scope: Scope) -> None:
    """Refuse a stream that would take one of the last files."""
    if why := open_files.why_no_stream(scope.get(open_files.FILE, 0)):
        # Another connection may get a lower number.
        raise TryLater(503, why, closes=True)


def _forwarded(scope: Scope, size: int) -> Headers:
    """The client's headers, where it came from, and how long its body is."""
    # With an underscore, a header could pose as another one behind the gateway interface.
    drop = HOP | INTERNAL | {b"content-length"}
    kept = [(key, value) for key, value in scope["headers"] if key not in drop and b"_" not in key]
    if size or scope["method"] in {"POST", "PUT", "PATCH"}:
        kept.append((b"content-length", str(size).encode()))
    if not header(scope, b"host"):
        kept.append((b"host", b"localhost"))
    kept.append((handover.TAKES.encode(), b"yes"))
    client = scope.get("client") or ("", 0)
    kept.append((b"x-forwarded-for", str(client[0]).encode()))
    if header(scope, b"x-forwarded-proto") not in (b"http", b"https"):
        kept.append((b"x-forwarded-proto", scope.get("scheme", "http").encode()))
    return kept


def _last_event(scope: Scope) -> int | None:
    """The change after which to go on: Last-Event-ID, else `?cursor=`; None is from now on."""
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


def _is_small_and_here(scope: Scope) -> bool:
    """Whether all of a small body came together with the head."""
    return 0 < declared(scope) <= SMALL_BODY and scope.get(ARRIVED, bool)()


def _nothing() -> None:
    """For servers that cannot drop what comes."""


# -- answers ----------------------------------------------------------------------------------


def _returned(answer: httpx.Response) -> Headers:
    """The web process's headers as they are; `raw` keeps an encoded body's length true."""
    skip = HOP | {b"reef-wait", handover.FILE.encode()}
    return [(k.lower(), v) for k, v in answer.headers.raw if k.lower() not in skip]


async def _stream_back(answer: httpx.Response, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": answer.status_code,
            "headers": _returned(answer),
        }
    )
    try:
        async for chunk in answer.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except httpx.HTTPError as error:
        # Half an answer must not look like a whole one: hang up.
        logger.warning("web went away in the middle of an answer: %s", error)
        raise
    await send({"type": "http.response.body", "body": b""})


async def _send_all(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _say(send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": text}, ensure_ascii=False, separators=(",", ":")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await _send_all(send, status, headers, body)


async def _say_away(scope: Scope, send: Send, error: httpx.HTTPError) -> None:
    """Say in words that web did not answer: to a browser as a page that tries again by itself."""
    status, text = _why_away(error)
    if away.is_navigation(scope["headers"]):
        headers, body = away.page(text, reloads=scope["method"] == "GET" and status != 400)
        await _send_all(send, status, headers, body)
    else:
        retry = ((b"retry-after", b"2"),) if status == 502 else ()
        await _say(send, status, text, *retry)


def _why_away(error: httpx.HTTPError) -> tuple[int, str]:
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
    """Server-sent events until the client hangs up, the stream ends, or `shut` does."""
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
        # Closed at once, so that nobody goes on collecting events for a client that is gone.
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
    """`python -m reef_site.edge --host H --port P`"""
    import uvicorn

    from reef_site import settings
    from reef_site.addresses import ConnectionLimits, TrustedProxies
    from reef_site.door import Protocol, Server
    from reef_site.hardening import harden_process
    from reef_site.log_lines import LineFormatter

    parser = argparse.ArgumentParser(description="The public port of reef.")
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
        # Its messages go where ours go, and look as they do.
        log_config=None,
        log_level="warning",
        server_header=False,
        # It would believe X-Forwarded-For of every program on this machine.
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=6000,
    )
    server = Server(config, app.end_streams)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
