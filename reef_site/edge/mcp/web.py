"""Requests of the MCP server to Django, with the headers of the MCP client's request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import httpx

from reef_site.edge import open_waits
from reef_site.edge.held_responses import WAIT_TOOL

Json = dict[str, Any]
# Key of the ASGI scope.
SCOPE_KEY = "reef.mcp_web"
PROGRESS_SECONDS = 2.0
MAX_TEXT = 4 << 20
WAIT_HEADER = "reef-wait"

# Sends GET to a path, or POST with a payload.
Call = Callable[[str, bytes | None], Awaitable[httpx.Response]]
Progress = Callable[[float, float, str], Awaitable[None]]


class Waits(Protocol):
    """The waits of the edge's streams."""

    def wait_of(self, header: str) -> Any: ...

    async def until_over(self, wait: Any) -> None: ...


class Answer(NamedTuple):
    """A response of web."""

    status: int
    text: str

    def json(self) -> Json:
        found: Json = json.loads(self.text)
        return found

    @property
    def error(self) -> str:
        """Return the sentence of an error."""
        try:
            return str(self.json().get("error", ""))
        except ValueError:
            return ""


class TooLong(Exception):
    """The response is too long for a client's memory."""


class Web:
    """Django, as one caller sees it."""

    def __init__(
        self,
        call: Call,
        waits: Waits,
        until_ending: Callable[[Coroutine[Any, Any, None]], Awaitable[None]],
        place: Callable[[], AbstractContextManager[bool]],
    ) -> None:
        """`place` gives a place for a wait of the caller, see `OpenWaits.place`."""
        self._call, self._waits, self._until_ending = call, waits, until_ending
        self._place = place

    async def get(self, path: str) -> Answer:
        """Return the response at this path. Raises TooLong, httpx.HTTPError."""
        return await self._answer(await self._call(path, None))

    async def call_tool(self, name: str, arguments: Json, progress: Progress) -> Answer:
        """Call a tool and, if it waits, report progress until its wait is over.

        Raises TooLong, httpx.HTTPError.
        """
        path = f"/tools/{quote(name, safe='')}"
        response = await self._call(path, json.dumps(arguments).encode())
        header = response.headers.get(WAIT_HEADER)
        answer = await self._answer(response)
        if not header:
            return answer
        wait = self._waits.wait_of(header)
        with self._place() as has_place:
            if not has_place and open_waits.only_waits("POST", path):
                return Answer(429, json.dumps({"error": open_waits.TOO_MANY}))
            if has_place:
                await self._hold(wait, progress, _awaited(answer))
        # The caller may have lost its access to what it waited for.
        payload = json.dumps(wait.arguments).encode()
        state = await self._answer(await self._call(WAIT_TOOL, payload))
        if state.status != 200:
            return state
        return answer._replace(text=json.dumps({**answer.json(), **state.json()}))

    async def _hold(self, wait: Any, progress: Progress, awaited: str) -> None:
        """Wait until the wait is over, or until the edge is about to stop."""
        began = time.monotonic()
        over = asyncio.create_task(self._until(wait))
        try:
            while not (await asyncio.wait({over}, timeout=PROGRESS_SECONDS))[0]:
                await progress(time.monotonic() - began, wait.seconds, awaited)
            await over
        finally:
            over.cancel()
            await asyncio.gather(over, return_exceptions=True)

    async def _until(self, wait: Any) -> None:
        await self._until_ending(self._waits.until_over(wait))

    async def _answer(self, response: httpx.Response) -> Answer:
        parts, size = [], 0
        try:
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > MAX_TEXT:
                    raise TooLong(f"it has more than {MAX_TEXT} bytes")
        finally:
            await response.aclose()
        return Answer(response.status_code, b"".join(parts).decode("utf-8", "replace"))


def _awaited(answer: Answer) -> str:
    """Return the first state of what is waited for, from the result of `reef_wait`."""
    text = str(answer.json()["text"]).partition(" Call reef_wait ")[0]
    return text.replace("Not yet: ", "waiting: ", 1)
