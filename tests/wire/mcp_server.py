"""The edge's MCP server in a thread, in front of a web server of the test."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import httpx
import uvicorn

from reef_site.edge.mcp.endpoint import Endpoint
from reef_site.edge.mcp.web import Web
from tests.waiting import until

PASSED_ON = (b"authorization", b"content-type", b"accept")


class NoWaits:
    """Stands for the waits of the edge where no tool waits."""

    def wait_of(self, header: str) -> Any:
        raise AssertionError(f"a tool waits: {header}")

    async def until_over(self, _wait: Any) -> None:
        """There is none."""


@contextlib.contextmanager
def serve(host: str, web: str) -> Iterator[str]:
    """Serve `/mcp` and the routes of web at this address of the machine; yield the base URL.

    Each request is one of the web server at the URL `web`, with the caller's own token.
    """
    app = _App(web)
    config = uvicorn.Config(app, host=host, port=0, lifespan="off", log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="mcp-server")
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


class _App:
    """The ASGI application."""

    def __init__(self, web: str) -> None:
        self._web, self._endpoint = web, Endpoint()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [each for each in scope["headers"] if each[0] in PASSED_ON]
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        async with httpx.AsyncClient(base_url=self._web, timeout=60) as client:

            async def call(path: str, payload: bytes | None) -> httpx.Response:
                method = "GET" if payload is None else "POST"
                # Web reads and sends JSON, whatever the agent's request accepts.
                own = [each for each in headers if each[0] == b"authorization"]
                own.append((b"content-type", b"application/json"))
                return await client.request(method, path, content=payload, headers=own)

            path = scope["path"]
            if path == "/mcp" and scope["method"] == "POST":
                answer = await call("/mcp", body)
                if answer.status_code == 200:
                    web = Web(call, NoWaits(), _finished, lambda: contextlib.nullcontext(True))
                    await self._endpoint.serve(scope, body, receive, send, web, _never())
                    return
            else:
                query = scope["query_string"].decode()
                url = f"{path}?{query}" if query else path
                answer = await client.request(scope["method"], url, content=body, headers=headers)
        await send(
            {
                "type": "http.response.start",
                "status": answer.status_code,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": answer.content})


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    await work


async def _never() -> None:
    await asyncio.Event().wait()
