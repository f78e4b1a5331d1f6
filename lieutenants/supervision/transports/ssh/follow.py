"""The part of a journal on a VM that has arrived here and is not committed yet."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

ACK_BYTES = 256 << 10
# The relay sends at most 24 MiB that are not acknowledged.
MAX_BYTES = 32 << 20
# Released parts that the follower has not gone on behind yet.
MAX_GAPS = 1000
_MAX_OFFSET = 1 << 62


@dataclass
class _Piece:
    """Bytes without a gap, from this offset on."""

    start: int
    data: bytearray = field(default_factory=bytearray)

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class Follow:
    """Bytes of one journal from offset `start` on. Written by the pump, read by the follower."""

    def __init__(self, number: int, directory: str, start: int) -> None:
        self.number, self.directory, self.start = number, directory, start
        # What has arrived, from `start` on; then what follows each released part.
        self._pieces = deque([_Piece(start)])
        self._lock = threading.Lock()
        self._acked = start
        # Why its keeper cannot be reached on its machine.
        self.out = ""
        self._ended = False

    @property
    def end(self) -> int:
        """Return the offset from which the relay must send."""
        with self._lock:
            return self._pieces[-1].end

    def add(self, offset: int, data: bytes) -> bool:
        """Append bytes that the relay sent; what is known already is dropped.

        Return whether any were new.
        Raises ValueError if bytes before them are missing, or if they are no part of a journal.
        """
        if b"\0" in data:
            raise ValueError("the relay sent a journal with NUL bytes")
        with self._lock:
            last = self._pieces[-1]
            known = last.end - offset
            if known < 0:
                raise ValueError("the relay left out a part of a journal")
            if sum(len(each.data) for each in self._pieces) + len(data) > MAX_BYTES:
                raise ValueError("the relay sent more than it may")
            last.data += data[known:]
            return known < len(data)

    def add_gap(self, offset: int, end: int) -> None:
        """Note that the journal has no bytes between these offsets. Raises ValueError.

        The begin of a record before them belongs to the gap: its end will never come.
        """
        if not 0 <= offset < end < _MAX_OFFSET:
            raise ValueError("the relay sent a gap with wrong offsets")
        with self._lock:
            last = self._pieces[-1]
            if len(self._pieces) > MAX_GAPS:
                raise ValueError("the relay sent more gaps than a journal can have")
            if offset == last.end:
                del last.data[last.data.rfind(b"\n") + 1 :]
                self._pieces.append(_Piece(end))

    def mark_ended(self) -> None:
        """Note that the keeper has ended and all of its journal is here."""
        self._ended = True

    @property
    def is_over(self) -> bool:
        """Return whether nothing more will come: all is here, and the keeper has ended."""
        return self._ended

    def read(self, offset: int, limit: int) -> bytes | None:
        """Return bytes from `offset` on, and forget those before it; None if it is out of reach.

        A released part is read as one NUL byte, as from a sparse file.
        """
        with self._lock:
            first = self._pieces[0]
            skip = offset - first.start
            if skip < 0 or skip > len(first.data):
                return None
            if skip:
                del first.data[:skip]
                self.start = first.start = offset
            if len(self._pieces) > 1 and not first.data:
                return b"\0"
            return bytes(first.data[:limit])

    def holds(self, end: int) -> bool:
        """Return whether all bytes before `end` have arrived."""
        with self._lock:
            return self._pieces[0].end >= end

    def skip_gap(self) -> int | None:
        """Go on behind the released part; return where that is."""
        with self._lock:
            if len(self._pieces) == 1 or self._pieces[0].data:
                return None
            self._pieces.popleft()
            self.start = self._pieces[0].start
            return self.start

    def due_ack(self) -> int | None:
        """Return the offset to acknowledge, if that is due."""
        with self._lock:
            if self.start - self._acked < ACK_BYTES:
                return None
            self._acked = self.start
            return self.start
