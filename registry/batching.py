"""Batches work of concurrent callers: what arrives while one batch runs goes into the next one."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from django.db import Error as DatabaseError
from django.db import connections

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_BATCH_SIZE = 256


class Batcher(Generic[Item, Result]):
    """One thread with its own database connections that processes all waiting items at once.

    `run` takes items and returns one result for each, in their order. A failed batch is retried
    once; then its callers get None.
    """

    def __init__(self, name: str, run: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[tuple[Item, Callable[[Result | None], None]] | None]
        self._waiting = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item, reply: Callable[[Result | None], None]) -> None:
        """Call `tell` on the loop with the result of this item; None if it failed."""
        self._waiting.put((item, reply))

    async def ask(self, item: Item) -> Result | None:
        """Return the result of this item; None if it failed."""
        future: asyncio.Future[Result | None] = self._loop.create_future()
        self.put(item, partial(_set_result, future))
        return await future

    async def close(self) -> None:
        """Process what waits, then end the thread."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join, 5)

    def _work(self) -> None:
        while batch := self._batch():
            results = self._results([item for item, _ in batch])
            try:
                self._loop.call_soon_threadsafe(_deliver, [reply for _, reply in batch], results)
            except RuntimeError:
                logger.warning("the loop was closed; nobody waits for %d results", len(batch))
                break
        _close_connections()

    def _batch(self) -> list[tuple[Item, Callable[[Result | None], None]]]:
        """Wait for items and return all of them; an empty list at the end."""
        first = self._waiting.get()
        batch = []
        while first is not None:
            batch.append(first)
            if len(batch) == MAX_BATCH_SIZE:
                break
            try:
                first = self._waiting.get_nowait()
            except Empty:
                break
        else:
            # Close was requested: seen again after this batch.
            if batch:
                self._waiting.put(None)
        return batch

    def _results(self, items: list[Item]) -> Sequence[Result | None]:
        for attempt in (1, 2):
            try:
                results = self._run(items)
                if len(results) != len(items):
                    raise ValueError(f"{len(items)} items have {len(results)} results")
                return results
            except DatabaseError as error:
                logger.warning("the database failed in round %d: %s", attempt, error)
                _close_connections()
            except Exception:
                logger.exception("a round failed")
                break
        return [None] * len(items)


def _close_connections() -> None:
    """Close all connections; an error must not end the thread."""
    try:
        connections.close_all()
    except Exception:
        logger.exception("a connection cannot be closed")


def _deliver(
    replies: Sequence[Callable[[Result | None], None]], results: Sequence[Result | None]
) -> None:
    for reply, result in zip(replies, results, strict=True):
        try:
            reply(result)
        except Exception:
            # A failing callback must not affect the others.
            logger.exception("an answer was lost")


def _set_result(future: asyncio.Future[Result | None], result: Result | None) -> None:
    # The caller may have disconnected meanwhile.
    if not future.done():
        future.set_result(result)
