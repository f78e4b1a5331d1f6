"""Streams that are open end soon after the token that opened them was revoked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from django.db import Error as DatabaseError

from registry.hotpath import credentials, holders_of

logger = logging.getLogger(__name__)

EVERY_SECONDS = 0.4


class Guard:
    """Looks, while there are streams of nodes, which of their tokens are still good.

    The rows are asked, not the news: they are true also while Redis is down.
    """

    def __init__(self, read: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
        self._read = read
        self._open: dict[asyncio.Event, str] = {}
        self._looking: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Look no more."""
        if self._looking:
            self._looking.cancel()

    async def until_revoked(self, authorization: bytes) -> None:
        """Wait until this header opens nothing any more; of the root and of sessions, for ever."""
        _, digest = credentials(authorization)
        ended = asyncio.Event()
        if digest is not None:
            self._open[ended] = digest
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())
        try:
            await ended.wait()
        finally:
            self._open.pop(ended, None)

    async def _look(self) -> None:
        while self._open:
            await asyncio.sleep(EVERY_SECONDS)
            asked = set(self._open.values())
            try:
                good: Collection[str] = await self._read(partial(holders_of, asked))
            except DatabaseError:
                logger.exception("whose tokens are good cannot be read; trying again")
                continue
            for ended, digest in self._open.items():
                if digest in asked and digest not in good:
                    ended.set()
