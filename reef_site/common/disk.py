"""The disk of the data folder: how much room is left, and which errors mean there is none."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

# Below the smaller of these two the disk is nearly full.
LOW_BYTES, LOW_SHARE = 1 << 30, 0.05
# With less than this, SQLite cannot even begin its log.
FULL_BYTES = 256 << 10

FULL = "the disk of the data folder is full; make room there, then try again"
READ_ONLY = "the disk of the data folder is read-only; make it writable, then try again"
_FULL_TEXTS = ("database or disk is full", "no space left on device", "disk quota exceeded")
# What SQLite says of a full disk as of others: it cannot make or grow a file.
_MAYBE_TEXTS = ("disk i/o error", "unable to open database file")
_POSTGRES_DISK_FULL = "53100"


@dataclass(frozen=True)
class Space:
    """The room on one disk. `why` says in words what is wrong; it is empty if nothing is."""

    free_bytes: int
    total_bytes: int
    why: str

    @property
    def free_percent(self) -> float:
        """Return the free share in percent."""
        return round(100 * self.free_bytes / self.total_bytes, 1) if self.total_bytes else 0.0


def space(folder: Path | None = None) -> Space:
    """Return the room on the disk of `folder` (of the data folder). Raises OSError."""
    found = os.statvfs(folder or settings.DATA_DIR)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return Space(free, total, _why(found, free, total))


def _why(found: os.statvfs_result, free: int, total: int) -> str:
    if found.f_flag & os.ST_RDONLY:
        return "the disk is read-only"
    if free < FULL_BYTES:
        return "the disk is full"
    if found.f_files and not found.f_favail:
        return "the disk is full: it has room for no further file"
    if free < min(LOW_BYTES, LOW_SHARE * total):
        return "the disk is nearly full"
    return ""


def problem_of(error: BaseException | None) -> str:
    """Return what to tell a caller whose write failed for the disk; empty for other errors."""
    for each in _chain(error):
        text = str(each).lower()
        if isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT):
            return FULL
        if getattr(each, "sqlstate", None) == _POSTGRES_DISK_FULL:
            return FULL
        if any(words in text for words in _FULL_TEXTS):
            return FULL
        if "readonly database" in text or getattr(each, "errno", None) == errno.EROFS:
            return READ_ONLY
        if any(words in text for words in _MAYBE_TEXTS) and (why := _why_here()):
            return READ_ONLY if "read-only" in why else FULL
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _why_here() -> str:
    try:
        why = space().why
    except OSError:
        return ""
    return "" if "nearly" in why else why
