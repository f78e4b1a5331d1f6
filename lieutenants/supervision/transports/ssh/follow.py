"""The part of a journal on a VM that has arrived here and is not committed yet."""

from __future__ import annotations

import threading

ACK_BYTES = 256 << 10
# The relay sends at most 24 MiB that are not acknowledged.
MAX_BYTES = 32 << 20
_MAX_OFFSET = 1 << 62


class Follow:
    """Bytes of one journal from offset `start` on. Written by the pump, read by the follower."""

    def __init__(self, number: int, directory: str, start: int) -> None:
        self.number, self.directory, self.start = number, directory, start
        self._data = bytearray()
        self._lock = threading.Lock()
        self._acked = start
        # Of a released part at the end of the data: where the journal goes on.
        self._gap: int | None = None
        # Why its keeper cannot be reached on its machine.
        self.out = ""
        self._ended = False

    @property
    def end(self) -> int:
        """Return the offset from which the relay must send."""
        with self._lock:
            return self._gap or self.start + len(self._data)

    def add(self, offset: int, data: bytes) -> None:
        """Append bytes that the relay sent; what is known already is dropped.

        Raises ValueError if bytes before them are missing, or if they are no part of a journal.
        """
        if b"\0" in data:
            raise ValueError("the relay sent a journal with NUL bytes")
        with self._lock:
            known = self.start + len(self._data) - offset
            if self._gap is not None:
                # They are asked for again when the follower has gone on behind the gap.
                return
            if known < 0:
                raise ValueError("the relay left out a part of a journal")
            if len(self._data) + len(data) > MAX_BYTES:
                raise ValueError("the relay sent more than it may")
            self._data += data[known:]

    def add_gap(self, offset: int, end: int) -> None:
        """Note that the journal has no bytes between these offsets. Raises ValueError."""
        if not 0 <= offset < end < _MAX_OFFSET:
            raise ValueError("the relay sent a gap with wrong offsets")
        with self._lock:
            if offset == self.start + len(self._data):
                self._gap = end

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
            skip = offset - self.start
            if skip < 0 or skip > len(self._data):
                return None
            if skip:
                del self._data[:skip]
                self.start = offset
            if self._gap is not None and not self._data:
                return b"\0"
            return bytes(self._data[:limit])

    def holds(self, end: int) -> bool:
        """Return whether all bytes before `end` have arrived."""
        with self._lock:
            return self.start + len(self._data) >= end

    def skip_gap(self) -> int | None:
        """Go on behind the released part; return where that is."""
        with self._lock:
            if self._gap is None or self._data:
                return None
            self.start, self._gap = self._gap, None
            return self.start

    def due_ack(self) -> int | None:
        """Return the offset to acknowledge, if that is due."""
        with self._lock:
            if self.start - self._acked < ACK_BYTES:
                return None
            self._acked = self.start
            return self.start
