"""Responses that stay open: streams of events, and sessions of the MCP server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any

import httpx

from reef_site.common.text import parse_number
from reef_site.edge.mcp import messages
from reef_site.edge.mcp.endpoint import Endpoint as McpEndpoint
from reef_site.edge.mcp.web import Web
from reef_site.edge.parts import Parts
from reef_site.edge.request_bodies import (
    Body,
    BodyBudget,
    Receive,
    Scope,
    Send,
    client_of,
    declared,
    header,
)
from reef_site.edge.request_heads import BadRequest, check_open_files, last_event
from reef_site.edge.responses import response_headers, send_all, send_unavailable

logger = logging.getLogger("reef.edge")

MCP_CHECK = "/mcp"


class OpenResponses:
    """Serves what stays open until its caller's access ends."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._mcp = McpEndpoint()

    async def close(self) -> None:
        """End the sessions of the MCP server."""
        await self._mcp.close()

    async def _authorized(
        self, scope: Scope, send: Send, check: Awaitable[httpx.Response] | None = None
    ) -> dict[str, Any] | None:
        """Return Django's facts about this stream; None if it refused and the client was told.

        `check` is the call to Django, if it is not the request itself.
        """
        try:
            answer = await (check or self._parts.web.call(scope, None))
            body = await answer.aread()
            await answer.aclose()
        except httpx.HTTPError as error:
            await send_unavailable(scope, send, error)
            return None
        if answer.status_code != 200:
            await send_all(send, answer.status_code, response_headers(answer), body)
            return None
        facts: dict[str, Any] = json.loads(body)
        return facts

    async def transcript(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream the transcript of the lieutenant in the path."""
        check_open_files(scope)
        facts = await self._authorized(scope, send)
        if facts is not None:
            after = last_event(scope)
            events = self._parts.streams.transcript(facts["id"], after)
            await self._stream(events, scope, receive, send, vm_id=facts["id"])

    async def fleet(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream changes of the fleet."""
        check_open_files(scope)
        facts = await self._authorized(scope, send)
        if facts is not None:
            after = parse_number(header(scope, b"last-event-id").decode("latin-1"))
            events = self._parts.streams.fleet(facts, after, self._parts.key_of(scope))
            await self._stream(events, scope, receive, send)

    async def serve_mcp(
        self, scope: Scope, receive: Receive, send: Send, budget: BodyBudget
    ) -> None:
        """Check the caller, read the message, and let the MCP server answer it."""
        check_open_files(scope)

        def call(path: str, payload: bytes | None) -> Awaitable[httpx.Response]:
            return self._parts.web.call(scope, None, path.encode(), payload=payload)

        if await self._authorized(scope, send, call(MCP_CHECK, b"{}")) is None:
            return
        with Body(budget, client_of(scope)) as body:
            await body.take_in(receive, declared(scope), messages.max_bytes())
            message = body.whole()
            if problem := messages.problem_of(message):
                raise BadRequest(problem)
            place = partial(self._parts.place, scope)
            web = Web(call, self._parts.streams, self._parts.until_ending, place)
            revoked = self._parts.streams.guard.until_revoked(header(scope, b"authorization"), b"")
            await self._mcp.serve(scope, message, receive, send, web, revoked)

    async def _stream(
        self,
        events: AsyncGenerator[bytes, None],
        scope: Scope,
        receive: Receive,
        send: Send,
        vm_id: str = "",
    ) -> None:
        """Send the events until the caller's access is revoked; `vm_id` owns the transcript."""
        revoked = self._parts.until_revoked(scope, vm_id)
        await _stream_events(events, self._parts.until_ending(revoked), receive, send)


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
