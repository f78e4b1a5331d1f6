"""SQLite's write-ahead log: its size, and the processes that prevent a checkpoint."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connection

LONG_BYTES = 256 << 20
# The bytes of the `-shm` file that readers lock while they read, by SQLite's file format.
_READ_LOCKS = range(123, 128)
# A reader that is found in each sample holds a long transaction.
_SAMPLES, _PAUSE_SECONDS = 3, 0.02


@dataclass(frozen=True)
class Log:
    """Size of the log, and the processes that hold a read transaction, as (pid, program)."""

    size_bytes: int
    holders: list[tuple[int, str]]

    @property
    def why(self) -> str:
        """The problem in words; empty if there is none."""
        if self.size_bytes < LONG_BYTES:
            return ""
        size = f"the database's log has grown to {self.size_bytes >> 20} MB"
        if not self.holders:
            return f"{size}; a reader keeps it from being shortened"
        held = ", ".join(f"process {pid} ({name})" for pid, name in self.holders)
        return f"{size}; {held} keeps a read transaction open"


def look() -> Log | None:
    """Return the state of the log; None if the database is not SQLite."""
    if connection.vendor != "sqlite":
        return None
    path = str(settings.DATABASES["default"]["NAME"])
    try:
        size = os.stat(f"{path}-wal").st_size
    except OSError:
        return Log(0, [])
    return Log(size, _holders(f"{path}-shm") if size >= LONG_BYTES else [])


def _holders(path: str) -> list[tuple[int, str]]:
    try:
        inode = os.stat(path).st_ino
        found = _readers(inode)
        for _ in range(_SAMPLES - 1):
            time.sleep(_PAUSE_SECONDS)
            found &= _readers(inode)
    except OSError:
        # Not every system exposes the locks.
        return []
    return [(pid, _name(pid)) for pid in sorted(found)]


def _readers(inode: int) -> set[int]:
    """Return the processes that hold a reader's lock on this file."""
    pids = set()
    for line in Path("/proc/locks").read_text().splitlines():
        # 7: POSIX  ADVISORY  READ  4711 fd:00:263201 124 124
        words = line.split()
        if len(words) != 8 or words[1] != "POSIX" or words[3] != "READ":
            continue
        first, last = words[6], words[7]
        if int(words[5].rpartition(":")[2]) != inode or "EOF" in (first, last):
            continue
        if int(first) in _READ_LOCKS and int(words[4]) > 0:
            pids.add(int(words[4]))
    return pids


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "?"
