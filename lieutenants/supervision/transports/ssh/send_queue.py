"""Requests that wait for the network, in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass
class _Item:
    data: bytes
    # Of a request that is answered.
    number: int | None
    written: int = 0


class SendQueue:
    """Lines of requests. A request that nobody waits for any more can be taken out again.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        # How many of them are in the hands of the writer.
        self._taken = 0

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, data: bytes, number: int | None = None) -> None:
        """Append a request."""
        self._items.append(_Item(data, number))

    def head(self, limit: int) -> bytes:
        """Return the bytes that come next, for a writer who says by `advance` what was written."""
        found, self._taken = b"", 0
        for each in self._items:
            found += each.data[each.written : each.written + limit - len(found)]
            self._taken += 1
            if len(found) >= limit:
                break
        return found

    def advance(self, count: int) -> None:
        """Forget so many bytes, which are written."""
        self._taken = 0
        while self._items and count >= 0:
            item = self._items[0]
            left = len(item.data) - item.written
            if count < left:
                item.written += count
                return
            count -= left
            self._items.popleft()

    def withdraw(self, number: int) -> bool:
        """Take out a request; return False if a part of it is written, or may be."""
        for index, item in enumerate(self._items):
            if item.number == number:
                if item.written or index < self._taken:
                    return False
                self._items.remove(item)
                return True
        return False

    def clear(self) -> None:
        """Forget all."""
        self._items.clear()
        self._taken = 0
