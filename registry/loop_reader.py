"""Small reads on the event loop itself, if the database is SQLite.

There a look-up takes less time than to hand it to a thread and back. What takes longer is broken
off, and a thread does it again.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence

from reef_site.common.asgi import JSONResponse
from reef_site.common.fast_routes import FastRoute
from reef_site.common.queries import LoopConnection
from registry.batching import Batcher
from registry.fast_reads import LATER, Reader, ReadRequest
from registry.remembered import Remembered

logger = logging.getLogger(__name__)

Reply = Callable[[JSONResponse | None], None]
# Requests that are answered before the loop does something else.
MAX_AT_ONCE = 64
# For so long, what was broken off is not tried on the loop again; and how much of it at most.
SLOW_SECONDS, MAX_SLOW = 30.0, 1000


class LoopReader:
    """Answers what arrived in one round of the loop together, or lets a thread do it."""

    def __init__(
        self, remembered: Remembered, thread: Batcher[ReadRequest, JSONResponse | None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = thread
        self._link = LoopConnection()
        self._remembered = remembered
        self._reader = Reader(remembered, self._link)
        self._waiting: list[tuple[ReadRequest, Reply]] = []
        # What was too slow for the loop lately; a thread reads it, unless it is remembered.
        self._slow: set[tuple[FastRoute, str]] = set()
        self._slow_until = 0.0

    def put(self, request: ReadRequest, reply: Reply) -> None:
        """Call `reply` with the response soon; with None if it failed."""
        if self._slow and self._is_slow(request) and not self._remembered.has(request.wanted):
            self._thread.put(request, reply)
            return
        if not self._waiting:
            self._loop.call_soon(self._answer)
        self._waiting.append((request, reply))

    def _is_slow(self, request: ReadRequest) -> bool:
        if self._loop.time() >= self._slow_until or len(self._slow) > MAX_SLOW:
            self._slow.clear()
        return (request.route, request.key) in self._slow

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _answer(self) -> None:
        some, self._waiting = self._waiting[:MAX_AT_ONCE], self._waiting[MAX_AT_ONCE:]
        if self._waiting:
            self._loop.call_soon(self._answer)
        for (request, reply), response in zip(some, self._read(some), strict=True):
            if response is LATER:
                self._thread.put(request, reply)
                continue
            try:
                reply(response)
            except Exception:
                # A failing callback must not affect the others.
                logger.exception("an answer was lost")

    def _read(self, some: Sequence[tuple[ReadRequest, Reply]]) -> list[JSONResponse | None]:
        """Return the responses; `LATER` for what a thread has to do."""
        requests = [request for request, _ in some]
        try:
            responses = self._reader.read(requests)
        except sqlite3.Error as error:
            # Before a route was read: that says nothing about the routes.
            logger.debug("%d reads go to a thread: %s", len(some), error)
            return [LATER] * len(some)
        except Exception:
            logger.exception("a round of reads failed")
            return [None] * len(some)
        for request, response in zip(requests, responses, strict=True):
            if response is LATER:
                if not self._slow:
                    self._slow_until = self._loop.time() + SLOW_SECONDS
                self._slow.add((request.route, request.key))
        return responses
