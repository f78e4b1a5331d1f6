"""Splitting the agent's output into lines of limited length."""

from __future__ import annotations

from .events import IMAGES, START_LINE, SUMMARY_LINES, UPDATE_LINE
from .json_lines import read_update
from .limits import HEAD_BYTES, HEAD_CHARS, MAX_LINE_BYTES, TAIL_BYTES

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Iterator


class Line:
    """One line of the agent.

    `data` is the whole line, or its head if `size` is larger. Of such a line `tail` is its end and
    `images` the number of images in it.
    """

    __slots__ = ("data", "images", "size", "tail")

    def __init__(self, data: bytes, size: int, tail: bytes = b"", images: int = 0) -> None:
        self.data, self.size, self.tail, self.images = data, size, tail, images

    @property
    def cut(self) -> bool:
        return self.size > len(self.data)

    def head(self) -> str:
        return self.data[: 4 * HEAD_CHARS].decode("utf-8", "replace")[:HEAD_CHARS]


def can_skip_rest(head: bytes) -> bool:
    """Return whether the rest of a long line with this beginning can be skipped."""
    if head.startswith(UPDATE_LINE):
        return read_update(head) is not None
    return head.startswith((START_LINE, *SUMMARY_LINES.values()))


def count_images(data: bytes | bytearray) -> int:
    return sum(data.count(mark) for mark in IMAGES)


class LineSplitter:
    """Splits bytes into lines; never holds more than MAX_LINE_BYTES and one chunk."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._held = bytearray()
        self._size = self._images = 0
        self._tail = b""
        self._head_checked = self._skipping = False

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """Yield the lines that end in this chunk."""
        start = 0
        while True:
            end = chunk.find(b"\n", start)
            if end < 0:
                break
            if self._size:
                self._hold(chunk[start:end])
                yield self._finish()
            else:
                yield Line(chunk[start:end], end - start)
            start = end + 1
        if start < len(chunk):
            self._hold(chunk[start:])

    def rest(self) -> Line | None:
        """Return the unfinished last line, if any."""
        return self._finish() if self._size else None

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._skipping:
            edge = self._tail[1 - len(IMAGES[-1]) :]
            self._images += count_images(edge + piece) - count_images(edge)
            self._tail = (self._tail + piece)[-TAIL_BYTES:]
            return
        self._held += piece
        if not self._head_checked and self._size >= HEAD_BYTES:
            self._head_checked = True
            if can_skip_rest(bytes(self._held)):
                self._skip(len(self._held))
        if not self._skipping and self._size > MAX_LINE_BYTES:
            self._skip(HEAD_BYTES)

    def _skip(self, keep: int) -> None:
        self._skipping = True
        self._images = count_images(self._held)
        self._tail = bytes(self._held[-TAIL_BYTES:])
        self._held = self._held[:keep]

    def _finish(self) -> Line:
        line = Line(bytes(self._held), self._size, self._tail, self._images)
        self._start()
        return line
