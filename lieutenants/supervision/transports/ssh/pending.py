"""Requests to a relay whose answers are awaited."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from lieutenants.exceptions import NotConnected, Unreachable

Answer = dict[str, Any]


class Pending:
    """Futures of answers, by the numbers of their requests. The caller has the link's lock."""

    def __init__(self) -> None:
        self._futures: dict[int, Future[Answer]] = {}
        self._numbers = itertools.count(1)
        # When the relay last said that a part of a long request has arrived.
        self._progress = 0.0

    def __bool__(self) -> bool:
        return bool(self._futures)

    def add(self) -> tuple[int, Future[Answer]]:
        """Return the number for a new request, and its answer."""
        number, future = next(self._numbers), Future[Answer]()
        self._futures[number] = future
        return number, future

    def forget(self, number: int) -> None:
        """Await this answer no longer."""
        self._futures.pop(number, None)

    def await_answer(self, future: Future[Answer], seconds: float) -> Answer | None:
        """Return the answer, or None after the limit. The limit begins anew with each part that
        has arrived there. The only method that waits: to be called without the lock.

        Raises NotConnected or Unreachable if the connection breaks.
        """
        began = time.monotonic()
        while (left := max(began, self._progress) + seconds - time.monotonic()) > 0:
            try:
                return future.result(left)
            except FutureTimeout:
                continue
        return None

    def take(self, head: Mapping[str, Any]) -> bool:
        """Take an answer, or the news that a part of a request has arrived; else return False."""
        if "n" in head:
            future = self._futures.pop(head["n"], None)
            if future and not future.done():
                future.set_result(dict(head))
            return True
        if "got" in head:
            self._progress = time.monotonic()
            return True
        return False

    def take_all(self) -> dict[int, Future[Answer]]:
        """Return all that are awaited, and forget them."""
        futures, self._futures = self._futures, {}
        return futures


def fail(futures: Mapping[int, Future[Answer]], unsent: Collection[int], text: str) -> None:
    """Let requests fail with this text; nothing was sent of the `unsent` ones."""
    for number, future in futures.items():
        if not future.done():
            kind = NotConnected if number in unsent else Unreachable
            future.set_exception(kind(text))
