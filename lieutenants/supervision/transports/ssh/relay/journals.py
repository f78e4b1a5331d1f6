"""Journals: pushed to reef, and shortened."""

from __future__ import annotations

import ctypes
import errno
import json
import os

from lieutenants.supervision.transports.ssh.relay.machine import (
    Refused,
    expand,
    handle_of,
    is_alive,
    why_unreachable,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KB, MB = 1 << 10, 1 << 20
READ_BYTES = 256 * KB
WINDOW_BYTES = 24 * MB  # of one journal, pushed and not yet stored by reef
KEEP_SIZE, PUNCH_HOLE, PAGE = 1, 2, 4096
CANNOT_PUNCH = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM)
HELD_SECONDS = 5.0  # after which a run without keeper.json counts as ended


class Follow:
    """One journal that is pushed to reef."""

    def __init__(self, number: int, directory: str, at: int) -> None:
        self.number, self.directory = number, directory
        self.path = os.path.join(directory, "journal.jsonl")
        self.sent = self.acked = at
        self.handle: dict[str, Any] | None = None
        self.missing_since: float | None = None
        self.out = ""
        self.ended = self.told = False
        self._file = -1

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def frames(self, room: int) -> tuple[list[bytes], int]:
        """Return frames with new bytes of the journal, and their number of bytes."""
        room = min(room, READ_BYTES, self.acked + WINDOW_BYTES - self.sent)
        try:
            if self._file < 0:
                self._file = os.open(self.path, os.O_RDONLY)
            size = os.fstat(self._file).st_size
            if size <= self.sent or room <= 0:
                return [], 0
            data = os.pread(self._file, room, self.sent)
            if data.startswith(b"\0"):
                return [self._gap(size)], 1
            # A lost write in the middle: the next part begins with it, and is a gap.
            data = data.partition(b"\0")[0]
        except OSError:
            return [], 0
        head = {"r": self.number, "o": self.sent, "z": len(data)}
        self.sent += len(data)
        return [pack(head) + data], len(data)

    def _gap(self, size: int) -> bytes:
        """Skip a part that was released, up to the next complete record."""
        began = self.sent
        try:
            at = os.lseek(self._file, began, os.SEEK_DATA)
            while at < size:
                chunk = os.pread(self._file, 64 * KB, at)
                end = chunk.find(b"\n")
                if end >= 0 or not chunk:
                    at += end + 1
                    break
                at += len(chunk)
        except OSError:
            at = size
        self.sent = self.acked = at
        return pack({"r": self.number, "o": began, "gap": at})

    def check(self, now: float) -> dict[str, Any] | None:
        """Look at the keeper; return what has changed."""
        if self.ended:
            return None
        self.handle = self.handle or handle_of(self.directory)
        if self.handle is None:
            self.missing_since = self.missing_since or now
            self.ended = now - self.missing_since > HELD_SECONDS
            return None
        if not is_alive(self.handle):
            self.ended = True
            return None
        out = why_unreachable(self.directory, self.handle)
        if out == self.out:
            return None
        self.out = out
        return {"r": self.number, "out": out}

    def has_all(self) -> bool:
        """Return whether all of an ended journal was sent."""
        try:
            return os.stat(self.path).st_size <= self.sent
        except OSError:
            return True


def pack(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def shorten(request: dict[str, Any]) -> dict[str, Any]:
    """Release the disk space of a journal before an offset, where the file system can."""
    path = os.path.join(expand(request["dir"]), "journal.jsonl")
    length = int(request["at"]) // PAGE * PAGE
    try:
        file = os.open(path, os.O_RDWR)
    except OSError:
        return {}
    try:
        punch = ctypes.CDLL(None, use_errno=True).fallocate
        punch.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong]
        if length and punch(file, PUNCH_HOLE | KEEP_SIZE, 0, length):
            number = ctypes.get_errno()
            if number not in CANNOT_PUNCH:
                raise Refused(f"the journal cannot be shortened: {os.strerror(number)}")
    finally:
        os.close(file)
    return {}
