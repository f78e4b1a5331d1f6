"""The HTTP protocol of the edge: slow headers, and responses without a task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
import uvicorn

from reef_site.common import asgi
from reef_site.edge import http_protocol, request_bodies

Tell = Callable[[asgi.JSONResponse | None], None]
FAST = b"GET /fast HTTP/1.1\r\nHost: a\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class App:
    """Application that responds to /fast and /last at once, and to others after a while."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.gate = gate
        self.told: list[str] = []

    def at_once(self, scope: request_bodies.Scope, tell: Tell) -> bool:
        """Call back later on the loop, as the edge does."""
        if not scope["path"].startswith(("/fast", "/last", "/unclear")):
            return False
        unclear = scope["path"] == "/unclear"
        answer = None if unclear else asgi.JSONResponse(200, scope["path"].encode())
        asyncio.get_running_loop().create_task(
            self._send_response(scope["path"], partial(tell, answer))
        )
        return True

    async def _send_response(self, path: str, tell: Callable[[], None]) -> None:
        if self.gate:
            await self.gate.wait()
        tell()
        self.told.append(path)

    async def __call__(
        self,
        scope: request_bodies.Scope,
        _receive: request_bodies.Receive,
        send: request_bodies.Send,
    ) -> None:
        """Respond after longer than the limit for headers in one of the tests."""
        await asyncio.sleep(0.5)
        body = b"slowly " + scope["path"].encode()
        length = str(len(body)).encode()
        headers = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _serve(app: App) -> asyncio.Server:
    config = uvicorn.Config(app, http=http_protocol.Protocol, log_level="critical")
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: http_protocol.Protocol(config, state, {}), "127.0.0.1", 0
    )


async def _play(app: App, *sent: bytes) -> bytes:
    """Return everything that is received until the server closes the connection."""
    async with await _serve(app) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for each in sent:
            writer.write(each)
            await asyncio.sleep(0.02)
        heard = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return heard


def test_slow_headers_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)

    for slow in ([], [b"GET"], [b"G", b"ET", b" / HTTP/1.1\r\nA:", b" b"]):
        assert b"did not come in time" in asyncio.run(_play(App(), *slow))
    good = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert asyncio.run(_play(App(), good)).startswith(b"HTTP/1.1 200")


def test_pipelined_responses_keep_their_order() -> None:
    heard = asyncio.run(_play(App(), FAST + SLOW + FAST + LAST))

    bodies_heard = [each.rpartition(b"\r\n\r\n")[2] for each in heard.split(b"HTTP/1.1 200 OK")]
    assert bodies_heard == [b"", b"/fast", b"slowly /slow", b"/fast", b"/last"]
    assert heard.count(b"connection: close\r\n") == 1
    assert heard.count(b"content-type: application/json\r\n") == 3


def test_declined_request_is_handled_normally() -> None:
    heard = asyncio.run(_play(App(), FAST.replace(b"/fast", b"/unclear") + LAST))

    assert b"slowly /unclear" in heard
    assert heard.endswith(b"/last")


def test_http_1_0_connection_is_closed_after_response() -> None:
    heard = asyncio.run(_play(App(), b"GET /fast HTTP/1.0\r\n\r\n"))

    assert b"connection: close\r\n" in heard
    assert heard.endswith(b"\r\n\r\n/fast")


def test_disconnected_client_is_ignored() -> None:
    async def play() -> list[str]:
        app = App(asyncio.Event())
        assert app.gate
        async with await _serve(app) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(FAST)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(0.1)
            app.gate.set()
            async with asyncio.timeout(10):
                while not app.told:
                    await asyncio.sleep(0.01)
        return app.told

    assert asyncio.run(play()) == ["/fast"]
