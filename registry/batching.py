"""Batches work of concurrent callers: what arrives while one batch runs goes into the next one."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
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
PACE_SECONDS = 0.015
# So many waiting items make a good batch.
ENOUGH = 16
# Callers that were just answered are waited for this long, if they tend to come back at once.
RETURN_SECONDS = 0.002
MAX_SKIPPED = 64


class Returns:
    """Estimates if the callers of a batch come back at once, from what happened last time.

    While they do not, the waiting is tried again after 2, 4, 8 … batches.
    """

    def __init__(self) -> None:
        self._skips = self._left = 0

    def are_likely(self) -> bool:
        """Return whether to wait for them after this batch."""
        if self._left:
            self._left -= 1
            return False
        return True

    def note(self, *, came: bool) -> None:
        """Record whether they came while they were waited for."""
        self._skips = 0 if came else min(2 * self._skips or 2, MAX_SKIPPED)
        self._left = self._skips


class Batcher(Generic[Item, Result]):
    """One thread with its own database connections that processes all waiting items at once.

    `run` takes items and returns one result for each, in their order. A failed batch is retried
    once; then its callers get None.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        may_wait: Callable[[Item], bool] = lambda _: False,
        *,
        awaits_returning: bool = False,
    ) -> None:
        """Items that `may_wait` are processed `PACE_SECONDS` after the last batch at the earliest.

        So a steady trickle of them does not cost a transaction each. Many, or another item, make
        the batch begin at once. With `awaits_returning`, the callers of other items are waited for
        when they were just answered: where a batch costs much and an item little.
        """
        self._awaits_returning = awaits_returning
        self._run = run
        self._may_wait = may_wait
        self._hurry = threading.Event()
        self._begun = 0.0
        # Callers who were answered last, how many others waited then, and when that was.
        self._answered = self._others = 0
        self._answered_at = 0.0
        self._returns, self._all_there = Returns(), threading.Event()
        self._loop = asyncio.get_running_loop()
        self._waiting: SimpleQueue[tuple[Item, Callable[[Result | None], None]] | None]
        self._waiting = SimpleQueue()
        # What arrived in this round of the loop: handed over together, it makes larger batches.
        self._arrived: list[tuple[Item, Callable[[Result | None], None]]] = []
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item, reply: Callable[[Result | None], None]) -> None:
        """Call `reply` on the loop with the result of this item; None if it failed."""
        if not self._arrived:
            self._loop.call_soon(self._hand_over)
        self._arrived.append((item, reply))

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        for each in arrived:
            self._waiting.put(each)
        urgent = any(not self._may_wait(item) for item, _ in arrived)
        if urgent or self._waiting.qsize() >= ENOUGH:
            self._hurry.set()
        if self._awaits_returning and self._are_all_there():
            self._all_there.set()

    async def ask(self, item: Item) -> Result | None:
        """Return the result of this item; None if it failed."""
        future: asyncio.Future[Result | None] = self._loop.create_future()
        self.put(item, partial(set_result, future))
        return await future

    async def close(self) -> None:
        """Process what waits, then end the thread."""
        self._hand_over()
        self._waiting.put(None)
        self._hurry.set()
        await asyncio.to_thread(self._thread.join, 5)

    def _work(self) -> None:
        while batch := self._batch():
            items = [item for item, _ in batch]
            results = self._results(items)
            if self._awaits_returning:
                self._answered = sum(not self._may_wait(item) for item in items)
                self._others, self._answered_at = self._waiting.qsize(), time.monotonic()
            try:
                self._loop.call_soon_threadsafe(_deliver, [reply for _, reply in batch], results)
            except RuntimeError:
                logger.warning("the loop was closed; nobody waits for %d results", len(batch))
                break
        _close_connections()

    def _batch(self) -> list[tuple[Item, Callable[[Result | None], None]]]:
        """Wait for items and return all of them; an empty list at the end."""
        first = self._waiting.get()
        self._pace(first)
        self._await_returning()
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

    def _pace(self, first: tuple[Item, Callable[[Result | None], None]] | None) -> None:
        """Wait for more items, if the first one may wait, and the last batch was just now."""
        left = self._begun + PACE_SECONDS - time.monotonic()
        if first is not None and self._may_wait(first[0]) and left > 0:
            self._hurry.wait(left)
        self._hurry.clear()
        self._begun = time.monotonic()

    def _await_returning(self) -> None:
        """Wait a moment for the callers just answered, to write for them and others at once.

        Without it, half of the callers would wait while the batch of the other half is written.
        """
        left = self._answered_at + RETURN_SECONDS - time.monotonic()
        if (
            not self._awaits_returning
            or left <= 0
            or self._are_all_there()
            or not self._returns.are_likely()
        ):
            return
        self._all_there.clear()
        if not self._are_all_there():
            self._all_there.wait(left)
        came = self._waiting.qsize() + 1 - self._others
        self._returns.note(came=2 * came >= self._answered)

    def _are_all_there(self) -> bool:
        """Return whether all have come back. One item was taken from the queue already."""
        return self._waiting.qsize() + 1 >= self._answered + self._others

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


def set_result(future: asyncio.Future[Result | None], result: Result | None) -> None:
    """Set the result, unless nobody waits for it any more."""
    # The caller may have disconnected meanwhile.
    if not future.done():
        future.set_result(result)
