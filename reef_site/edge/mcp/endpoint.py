"""The ASGI side of MCP: credentials, body, and the end of a request."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from importlib import import_module
from typing import Any, Protocol

from reef_site.edge.mcp.web import SCOPE_KEY, Web
from reef_site.edge.request_bodies import Event, Receive, Scope, Send

logger = logging.getLogger("reef.edge")

Handle = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


class Manager(Protocol):
    """The session manager of the SDK."""

    def run(self) -> contextlib.AbstractAsyncContextManager[None]: ...

    async def handle_request(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Endpoint:
    """Serves MCP requests whose caller was checked."""

    def __init__(self) -> None:
        self._manager: Manager | None = None
        self._starting = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None

    async def serve(
        self,
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
        web: Web,
        revoked: Coroutine[Any, Any, None],
    ) -> None:
        """Answer one request; end it when the caller's access is revoked."""
        shutting = asyncio.create_task(revoked)
        response = _Response(send)
        try:
            manager = await self._started()
            handled = {**scope, SCOPE_KEY: web}
            replay = _replay(body, receive)
            handling = asyncio.create_task(
                manager.handle_request(handled, replay.__anext__, response.send)
            )
            await asyncio.wait({handling, shutting}, return_when=asyncio.FIRST_COMPLETED)
            if handling.done():
                await handling
                return
            handling.cancel()
            await asyncio.gather(handling, return_exceptions=True)
            await response.break_off()
        finally:
            shutting.cancel()
            await asyncio.gather(shutting, return_exceptions=True)

    async def close(self) -> None:
        """End all requests."""
        if self._running:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _started(self) -> Manager:
        async with self._starting:
            if self._manager is None:
                # In a thread, so that heartbeats go on while the SDK is loaded.
                module = await asyncio.to_thread(import_module, "reef_site.edge.mcp.server")
                # Permanent, as all that the edge has loaded at its start.
                gc.collect()
                gc.freeze()
                manager: Manager = module.make_manager()
                ready = asyncio.Event()
                self._running = asyncio.create_task(_run(manager, ready))
                await ready.wait()
                self._manager = manager
        return self._manager


async def _run(manager: Manager, ready: asyncio.Event) -> None:
    """Keep the manager's tasks alive until this one is cancelled."""
    async with manager.run():
        ready.set()
        await asyncio.Event().wait()


async def _replay(body: bytes, receive: Receive) -> AsyncIterator[Event]:
    """Yield the body that was read already, then what comes from the client."""
    yield {"type": "http.request", "body": body, "more_body": False}
    while True:
        yield await receive()


class _Response:
    """The part of a response that was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._has_begun = self._has_ended = False

    async def send(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            self._has_begun = True
        elif not event.get("more_body", False):
            self._has_ended = True
        await self._send(event)

    async def break_off(self) -> None:
        """End the response of a caller whose access has ended."""
        if not self._has_begun:
            headers = [(b"content-length", b"0"), (b"www-authenticate", b"Bearer")]
            await self._send({"type": "http.response.start", "status": 401, "headers": headers})
        if not self._has_ended:
            await self._send({"type": "http.response.body", "body": b""})
