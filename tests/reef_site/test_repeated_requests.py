"""Requests whose head came before: begun without the parser, with the same results."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from reef_site.common.asgi import JSONResponse
from reef_site.edge import http_protocol, repeated_requests, request_bodies
from reef_site.edge.client_addresses import TrustedProxies
from reef_site.edge.fast_requests import FastRequests
from reef_site.edge.repeated_requests import Client, KnownRequest, KnownRequests, Reply, remember
from reef_site.edge.request_bodies import BodyBudget, BodyLimit
from reef_site.edge.server import Edge
from registry import fast_path
from registry.fast_path import FastPath

GET = b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /%b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
ONE, TWO = GET % b"one", GET % b"two"


class App:
    """Application that remembers all requests, and notes which ones were parsed."""

    def __init__(self) -> None:
        self.parsed: list[str] = []
        self.begun: list[str] = []
        self.refused: list[int] = []
        # The next responses to known requests: 200 if there are none, None to pass them on.
        self.statuses: list[int | None] = []
        self.declines = False
        # While it is not set, known requests wait.
        self.gate = asyncio.Event()
        self.gate.set()

    def at_once(self, scope: request_bodies.Scope, tell: Reply) -> bool:
        """Respond soon, if the request has no body."""
        if request_bodies.has_body(scope):
            return False
        self.parsed.append(scope["path"])
        remember(scope, self._known(scope["path"], 0))
        asyncio.get_running_loop().call_soon(tell, JSONResponse(200, scope["path"].encode()))
        return True

    def _known(self, path: str, length: int) -> KnownRequest:
        def begin(_client: Client | None, body: bytes, reply: Reply) -> bool:
            if self.declines:
                return False
            self.begun.append(path)
            status = self.statuses.pop(0) if self.statuses else 200
            made = None if status is None else JSONResponse(status, b"again " + body)
            asyncio.get_running_loop().create_task(self._reply_later(reply, made))
            return True

        return KnownRequest(begin, lambda _client, answer: self._refuse(answer), length)

    async def _reply_later(self, reply: Reply, made: JSONResponse | None) -> None:
        await self.gate.wait()
        reply(made)

    def _refuse(self, answer: JSONResponse) -> None:
        self.refused.append(answer.status)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Respond to a request with a body."""
        self.parsed.append(scope["path"])
        event = await receive()
        remember(scope, self._known(scope["path"], request_bodies.declared(scope)))
        headers = [(b"content-length", str(len(event["body"])).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": event["body"]})


class Line:
    """A connection to the application."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, sent: bytes) -> bytes:
        """Send data; return the body of the next response."""
        self.writer.write(sent)
        return (await self.response())[1]

    async def chunked(self, sent: bytes) -> tuple[bytes, bytes]:
        """Send data; return head and body of the next response, which is in one chunk."""
        self.writer.write(sent)
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            body = await self.reader.readexactly(size)
            await self.reader.readuntil(b"0\r\n\r\n")
            return head, body

    async def response(self) -> tuple[bytes, bytes]:
        """Return head and body of the next response."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return head, await self.reader.readexactly(length)


async def true(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def begin_again(app: App, connect: Any, *statuses: int | None) -> Any:
    """Return a connection with a known request in progress, whose response waits for the gate."""
    line = await connect()
    await line.ask(ONE)
    app.gate.clear()
    app.statuses = list(statuses)
    line.writer.write(ONE)
    await true(lambda: app.begun)
    return line


def stop(app: App, connect: Any) -> None:
    """Stop the server while a request is in progress, and let that be answered."""
    for each in list(connect.state.connections):
        each.shutdown()
    app.gate.set()


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> KnownRequests:
    """Return what the server of this test remembers."""
    known = KnownRequests()
    monkeypatch.setattr(repeated_requests.RepeatingProtocol, "known_requests", known)
    return known


def play(act: Callable[[App, Callable[[], Any]], Any], **config: Any) -> App:
    """Run a server while `act` talks to it, with a function that opens a connection."""

    async def run() -> App:
        app = App()
        async with _serving(app, config) as connect:
            await act(app, connect)
        return app

    return asyncio.run(run())


@asynccontextmanager
async def _serving(app: App | Edge, options: dict[str, Any]) -> AsyncIterator[Callable[[], Any]]:
    protocol = http_protocol.Protocol
    config = uvicorn.Config(app, http=protocol, log_level="critical", **options)
    config.load()
    state = uvicorn.server.ServerState()
    lines: list[Line] = []

    def make() -> http_protocol.Protocol:
        return protocol(config, state, {})

    async with await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0) as server:

        async def connect() -> Line:
            address = server.sockets[0].getsockname()
            lines.append(Line(*await asyncio.open_connection(*address)))
            return lines[-1]

        connect.state = state  # type: ignore[attr-defined]
        yield connect
        for line in lines:
            line.writer.close()


def test_a_repeated_head_is_not_parsed() -> None:
    async def act(app: App, connect: Any) -> None:
        for line in (await connect(), await connect()):
            assert await line.ask(ONE) in (b"/one", b"again ")
            assert await line.ask(ONE) == b"again "
            assert await line.ask(TWO) in (b"/two", b"again ")
        assert (app.parsed, app.begun) == (["/one", "/two"], ["/one", "/one", "/one", "/two"])

    play(act)


def test_a_known_head_takes_another_body_of_the_same_length_only() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await connect()
        assert await line.ask(POST % (b"a", 3) + b"abc") == b"abc"
        assert await line.ask(POST % (b"a", 3) + b"xyz") == b"again xyz"
        # With a request behind it.
        assert await line.ask(POST % (b"a", 3) + b"xyz" + ONE) == b"xyz"
        assert (await line.response())[1] == b"/one"
        assert await line.ask(POST % (b"a", 4) + b"abcd") == b"abcd"
        assert app.begun == ["/a"]

    play(act)


def test_a_known_head_waits_for_its_body_in_the_next_packet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act(app: App, connect: Any) -> None:
        line = await connect()
        assert await line.ask(POST % (b"a", 3) + b"abc") == b"abc"
        (protocol,) = connect.state.connections
        for first, rest, body in (
            (b"", b"xyz", b"again xyz"),
            (b"x", b"yz", b"again xyz"),
            # What follows is a request of its own.
            (b"", b"xyz" + ONE, b"xyz"),
        ):
            line.writer.write(POST % (b"a", 3) + first)
            await true(lambda: protocol._held)
            assert await line.ask(rest) == body
        assert (await line.response())[1] == b"/one"
        assert app.begun == ["/a", "/a"]
        monkeypatch.setattr(repeated_requests, "HOLD_SECONDS", 0.0)
        line.writer.write(POST % (b"a", 3))
        await true(lambda: not protocol.cycle.response_complete)
        assert not protocol._held
        assert await line.ask(b"xyz") == b"xyz"
        monkeypatch.setattr(repeated_requests, "HOLD_SECONDS", 60.0)
        # It does not wait twice.
        line.writer.write(POST % (b"a", 3))
        await true(lambda: protocol._held)
        count = len(app.parsed)
        line.writer.write(b"x")
        await true(lambda: len(app.parsed) > count)
        assert app.begun == ["/a", "/a"]

    play(act)


def test_a_head_that_expects_a_go_ahead_is_not_remembered(known: KnownRequests) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    async def act(_app: App, connect: Any) -> None:
        line = await connect()
        line.writer.write(head)
        assert await line.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await line.ask(b"abc") == b"abc"

    play(act)
    assert not known.find(head)


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n" + ONE,
        b"\r\n" + ONE,
        b"GET /one HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_unusual_heads_are_not_remembered(known: KnownRequests, head: bytes) -> None:
    async def act(app: App, connect: Any) -> None:
        line = await connect()
        assert await line.ask(head) == b"/one"
        assert await line.ask(ONE) == b"/one"
        assert known.find(ONE)
        assert app.parsed == ["/one", "/one"]

    play(act)
    assert not known.find(head[: head.index(b"\r\n\r\n") + 4])


def test_a_known_head_that_closes_the_connection_closes_it_again(known: KnownRequests) -> None:
    closing = b"GET /one HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

    async def act(app: App, connect: Any) -> None:
        for expected in (b"/one", b"again "):
            line = await connect()
            line.writer.write(closing)
            head, body = await line.response()
            assert (b"connection: close\r\n" in head, body) == (True, expected)
            assert await line.reader.read() == b""
            if expected == b"/one":
                assert known.find(closing)
        assert app.parsed == ["/one"]

    play(act)


def test_what_is_passed_on_is_parsed_and_forgotten(known: KnownRequests) -> None:
    async def act(app: App, connect: Any) -> None:
        line = await connect()
        await line.ask(ONE)
        app.statuses = [None]
        assert await line.ask(ONE) == b"/one"
        assert (app.parsed, app.begun) == (["/one", "/one"], ["/one"])
        app.declines = True
        assert await line.ask(ONE) == b"/one"
        assert (app.parsed, app.begun) == (["/one"] * 3, ["/one"])
        app.declines, app.statuses = False, [None]
        line.writer.write(ONE)
        await line.response()
        assert app.begun == ["/one"] * 2

    play(act)
    assert not known.find(ONE)


def test_what_arrives_behind_a_known_request_waits_for_it() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await begin_again(app, connect)
        line.writer.write(TWO + GET % b"three")
        (protocol,) = connect.state.connections
        await true(lambda: protocol.flow.read_paused)
        assert app.parsed == ["/one"]
        app.gate.set()
        bodies = [(await line.response())[1] for _ in range(3)]
        assert bodies == [b"again ", b"/two", b"/three"]

    play(act)


def test_a_refusal_is_noted() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await connect()
        await line.ask(ONE)
        app.statuses = [401]
        line.writer.write(ONE)
        head, _ = await line.response()
        assert head.startswith(b"HTTP/1.1 401 ")
        assert b"www-authenticate: Bearer\r\n" in head

    assert play(act).refused == [401]


def test_a_stopping_server_answers_the_known_request_in_progress() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await begin_again(app, connect)
        stop(app, connect)
        head, body = await line.response()
        assert (b"connection: close\r\n" in head, body) == (True, b"again ")
        assert await line.reader.read() == b""

    play(act)


def test_a_stopping_server_ends_the_connection_of_a_request_that_is_passed_on() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await begin_again(app, connect, None)
        stop(app, connect)
        await line.response()
        assert await line.reader.read() == b""

    play(act)


def test_what_came_behind_the_last_request_of_a_stopping_server_is_not_begun() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await begin_again(app, connect)
        line.writer.write(TWO)
        (protocol,) = connect.state.connections
        await true(lambda: protocol.flow.read_paused)
        protocol.shutdown()
        app.gate.set()
        await line.response()
        assert await line.reader.read() == b""
        assert app.parsed == ["/one"]

    play(act)


def test_a_client_that_hung_up_gets_nothing() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await begin_again(app, connect)
        line.writer.close()
        await true(lambda: not connect.state.connections)
        app.gate.set()
        assert await (await connect()).ask(ONE) == b"again "

    play(act)


def test_a_full_server_parses_known_requests_to_refuse_them() -> None:
    async def act(app: App, connect: Any) -> None:
        line = await connect()
        assert await line.ask(ONE) == b"/one"
        await connect()
        await true(lambda: len(connect.state.connections) == 2)
        line.writer.write(ONE)
        head, _ = await line.response()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert app.begun == []

    play(act, limit_concurrency=2)


def test_requests_of_a_trusted_proxy_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    own = TrustedProxies([ipaddress.ip_network("127.0.0.0/8")])

    async def act(app: App, connect: Any) -> None:
        await (await connect()).ask(ONE)
        monkeypatch.setattr(http_protocol.Protocol, "proxies", own)
        line = await connect()
        for _ in range(2):
            assert await line.ask(ONE) == b"/one"
        assert (app.parsed, app.begun) == (["/one"] * 3, [])

    play(act)


def test_pauses_between_requests_are_limited() -> None:
    async def act(_app: App, connect: Any) -> None:
        line = await connect()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < 1.2:
            await line.ask(ONE)
        last = loop.time()
        assert await asyncio.wait_for(line.reader.read(), 10) == b""
        assert 0.8 < loop.time() - last < 5

    play(act, timeout_keep_alive=1)


def test_heads_not_seen_for_long_are_forgotten() -> None:
    known = KnownRequests(size=3)
    request = KnownRequest(lambda *_: True, lambda *_: None)
    heads = [b"%d" % number for number in range(10)]
    for head in heads:
        known.keep(head, request)
        assert known.find(heads[0])

    found = [head for head in heads if known.find(head)]
    assert found[0] == heads[0]
    assert found[-2:] == heads[-2:]
    assert len(found) < 6
    known.forget(heads[0])
    assert not known.find(heads[0])


# -- requests that the fast path leaves to web ---------------------------------------------------


class Tries:
    """A fast path that counts its tries, and a web process that answers all that it gets."""

    route = staticmethod(FastPath.route)

    def __init__(self) -> None:
        self.tries: list[str] = []
        self.web: list[str] = []
        # Whether the fast path answers.
        self.answers = True

    def put(self, request: Any, reply: Reply) -> bool:
        """Try a request."""
        self.tries.append(type(request).__name__)
        made = JSONResponse(200, b'"fast"') if self.answers else None
        asyncio.get_running_loop().call_soon(reply, made)
        return True

    async def answer(self, route: Any, headers: Any, body: bytes, address: str) -> Any:
        """Try a request that has a task."""
        future = asyncio.get_running_loop().create_future()
        parsed = fast_path.parse(route, headers, body, address)
        return await future if self.put(parsed, future.set_result) else None

    async def body_limit(self, _scope: Any) -> BodyLimit:
        """Accept all credentials."""
        return BodyLimit(1 << 20)

    async def call(self, scope: Any, body: Any, *, withheld: bool) -> httpx.Response:
        """Answer in place of web."""
        self.web.append(f"{scope['method']} {body.whole().decode()}")
        return httpx.Response(200, stream=httpx.ByteStream(b'"web"'))


HEADERS = b"Host: localhost\r\nAuthorization: Bearer reef_x\r\n"
FAST_REQUESTS = {
    "GET ": b"GET /registry/vms/a HTTP/1.1\r\n%b\r\n" % HEADERS,
    "POST ": b"POST /registry/vms/a/heartbeat HTTP/1.1\r\n%bContent-Length: 0\r\n\r\n" % HEADERS,
    'PATCH {"name":"n"}': (
        b"PATCH /registry/vms/a HTTP/1.1\r\n%bContent-Length: 12\r\n\r\n" % HEADERS
        + b'{"name":"n"}'
    ),
}


@pytest.mark.parametrize("name", FAST_REQUESTS)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_request_that_is_passed_on_is_tried_once(
    name: str, is_known: bool, settings: Any
) -> None:
    settings.ALLOWED_HOSTS = ["localhost"]

    async def run() -> None:
        tries, edge = Tries(), Edge()
        refusals: Any = SimpleNamespace(note=lambda *_: None)
        fast: Any = tries
        edge._fast_requests = FastRequests(fast, refusals, BodyBudget(1 << 20, 1 << 20))
        edge._credentials, edge._parts.web = fast, fast
        async with _serving(edge, {"lifespan": "off"}) as connect:
            line = await connect()
            if is_known:
                assert await line.ask(FAST_REQUESTS[name]) == b'"fast"'
                tries.tries.clear()
            tries.answers = False
            for _ in range(2):
                head, chunk = await line.chunked(FAST_REQUESTS[name])
                assert b"200" in head
                assert chunk == b'"web"'
        assert len(tries.tries) == 2
        assert tries.web == [name] * 2

    asyncio.run(run())
