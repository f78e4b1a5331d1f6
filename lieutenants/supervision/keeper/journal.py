"""Files that the keeper appends to: journal, its own log, and the agent's stderr."""

from __future__ import annotations

import os
import time

from .json_lines import pack
from .limits import (
    LAST_WRITE_SECONDS,
    MAX_BACKLOG,
    MAX_DELTA_BACKLOG,
    MAX_STDERR_BYTES,
    MB,
    RECORD_BYTES,
    RETRY_SECONDS,
    STDERR_CHARS,
    STDERR_LINES,
)

TYPE_CHECKING = False  # importing typing would cost a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_WARNINGS = 20


def now_ms() -> int:
    return int(time.time() * 1000)


def log_problem(text: str) -> None:
    """Log a problem of our own: descriptor 2 is keeper.log."""
    try:
        if os.fstat(2).st_size < MB:
            os.write(2, "{} {}\n".format(now_ms(), text).encode("utf-8", "replace"))
    except OSError:
        pass


class Journal:
    """The append-only journal. Never raises: records that cannot be written wait, up to a limit."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting: list[bytes] = []
        self._bytes = self._lost = self._lost_bytes = 0
        self.size = os.fstat(self._file).st_size
        # What all records so far have cost, in bytes.
        self.offered = 0
        self.due: float | None = None

    def add(self, record: list[Any]) -> None:
        line = pack(record)
        self.offered += RECORD_BYTES + len(line)
        limit = MAX_DELTA_BACKLOG if record[0] in "tkc" else MAX_BACKLOG
        if record[0] == "x":
            self._report_loss()  # nothing may come after the end
        elif self._bytes + len(line) > limit:
            self._lost += 1
            self._lost_bytes += len(line)
            return
        self._append(line)

    def _append(self, line: bytes) -> None:
        self._waiting.append(line)
        self._bytes += len(line)

    def tick(self, now: float) -> None:
        """Write waiting records, unless the last write failed less than a second ago."""
        if not self._waiting or (self.due is not None and now < self.due):
            return
        data = b"".join(self._waiting)
        try:
            done = os.write(self._file, data)
        except OSError as trouble:
            done = 0
            if self.due is None:
                log_problem("journal: {}; trying again".format(trouble.strerror))
        self.size += done
        self._bytes = len(data) - done
        self._waiting = [data[done:]] if self._bytes else []
        self.due = now + RETRY_SECONDS if self._bytes else None
        if not self._bytes:
            self._report_loss()

    def _report_loss(self) -> None:
        """Add a record of how much was dropped while the disk was full, if any."""
        if self._lost:
            text = "… {} records lost: the disk was full".format(self._lost)
            self._append(pack(["g", now_ms(), text, self._lost_bytes]))
        self._lost = self._lost_bytes = 0

    def finish(self) -> None:
        """Write all waiting records, for a minute at most."""
        until = time.monotonic() + LAST_WRITE_SECONDS
        while self._waiting and time.monotonic() < until:
            self.tick(time.monotonic())
            if self._waiting:
                time.sleep(RETRY_SECONDS / 2)


class StderrLog:
    """The agent's stderr: a short file, its last lines for the end record, some warnings."""

    def __init__(self, path: str, warnings: list[str], warn: Callable[[str], None]) -> None:
        """`warn` gets each line with one of the texts `warnings`, up to MAX_WARNINGS lines."""
        self._path = path
        self._texts = [text.encode("utf-8") for text in warnings if text]
        self._warn = warn
        self._warnings_left, self._line = MAX_WARNINGS, b""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._tail = b""

    def add(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk)[-4 * STDERR_LINES * STDERR_CHARS :]
        if self._warnings_left:
            self._find_warnings(chunk)
        try:
            if os.fstat(self._file).st_size + len(chunk) > MAX_STDERR_BYTES:
                self._shorten()
            os.write(self._file, chunk)
        except OSError as trouble:
            log_problem("stderr.log: {}".format(trouble.strerror))

    def _find_warnings(self, chunk: bytes) -> None:
        *lines, rest = (self._line + chunk).split(b"\n")
        self._line = rest[: 4 * STDERR_CHARS]
        for line in lines:
            if self._warnings_left and any(text in line for text in self._texts):
                self._warnings_left -= 1
                self._warn(line.decode("utf-8", "replace").strip()[:STDERR_CHARS])

    def _shorten(self) -> None:
        size = os.fstat(self._file).st_size
        kept = os.pread(self._file, MAX_STDERR_BYTES // 2, max(0, size - MAX_STDERR_BYTES // 2))
        os.ftruncate(self._file, 0)
        os.write(self._file, kept[kept.find(b"\n") + 1 :])

    def last_lines(self) -> list[str]:
        lines = self._tail.decode("utf-8", "replace").rstrip("\n").split("\n")
        return [line[:STDERR_CHARS] for line in lines[-STDERR_LINES:] if line]


def describe(trouble: BaseException) -> str:
    """Describe a problem, with the file that it concerns."""
    if isinstance(trouble, OSError) and trouble.strerror:
        return ": ".join(str(part) for part in (trouble.strerror, trouble.filename) if part)
    return str(trouble)
