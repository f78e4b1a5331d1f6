"""Holds responses of web until what their callers wait for has happened."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx

from reef_site.edge import held_responses, open_waits
from reef_site.edge.parts import Parts
from reef_site.edge.request_bodies import Scope, Send
from reef_site.edge.responses import (
    plain_headers,
    response_headers,
    send_all,
    send_error,
    send_unavailable,
)

logger = logging.getLogger("reef.edge")

# Longer waits of a tool are cut; a client of MCP is told that it goes on, so there they are not.
MAX_HELD_SECONDS = 60.0


class Holder:
    """Sends the state at the end of a wait."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def respond(
        self, scope: Scope, answer: httpx.Response, waits_for: str, send: Send
    ) -> None:
        """Hold the response until its wait is over, then send the state at that time."""
        body = await answer.aread()
        wait = self._parts.streams.wait_of(waits_for)
        with self._parts.place(scope) as has_place:
            if not has_place and open_waits.only_waits(scope["method"], scope["path"]):
                retry = (b"retry-after", b"%d" % open_waits.RETRY_SECONDS)
                await send_error(send, 429, open_waits.TOO_MANY, retry)
                return
            is_revoked = has_place and not await self._hold(scope, wait)
        if is_revoked:
            await send_error(send, 401, held_responses.REVOKED, (b"www-authenticate", b"Bearer"))
            return
        payload = json.loads(body)
        path = held_responses.newer_path(wait, payload)
        try:
            newer = await self._parts.web.ask(scope, path, wait.arguments) if path else None
        except httpx.HTTPError as error:
            logger.warning("the newer state at %s is not to be had: %s", path, error)
            if wait.arguments is not None:
                await send_unavailable(scope, send, error)
                return
            newer = None
        if newer and held_responses.is_refused(wait, newer.status_code):
            await send_all(send, newer.status_code, plain_headers(newer), newer.content)
            return
        found = newer.json() if newer and newer.status_code == 200 else None
        state = {} if wait.arguments is not None else await self._parts.streams.state_of(wait)
        body = json.dumps(
            held_responses.completed(wait, payload, found, state),
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        headers = [(k, v) for k, v in response_headers(answer) if k != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await send_all(send, answer.status_code, headers, body)

    async def _hold(self, scope: Scope, wait: Any) -> bool:
        """Wait until the wait is over; return False if the caller's access ended first."""
        until_over = self._parts.streams.until_over(wait, MAX_HELD_SECONDS)
        waiting = asyncio.create_task(self._parts.until_ending(until_over))
        revoked = asyncio.create_task(self._parts.until_revoked(scope))
        try:
            await asyncio.wait({waiting, revoked}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                await waiting
            return not revoked.done()
        finally:
            for task in (waiting, revoked):
                task.cancel()
            await asyncio.gather(waiting, revoked, return_exceptions=True)
