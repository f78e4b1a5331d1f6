"""Snapshot files: their folder, atomic publishing, and reading."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from django.conf import settings

from reef_site.common import clock, locks

# A draft without a write for this long has no writer any more.
_DRAFT_SECONDS = 3600.0


def folder() -> Path:
    """Return the folder of snapshots; create it with mode 0700 if it is missing."""
    found = Path(settings.DATA_DIR) / "snapshots"
    found.mkdir(mode=0o700, exist_ok=True)
    return found


def name_of(moment: datetime) -> str:
    """Return the file name for this time, such as vms-2026-11-22T06-36-30-359Z.sqlite."""
    return f"vms-{clock.format_timestamp(moment).replace(':', '-').replace('.', '-')}.sqlite"


def path_of(name: str) -> Path:
    return folder() / name


def shown_path(name: str) -> str:
    """Return the path for display: relative to the checkout if it lies inside."""
    path = path_of(name)
    base = Path(settings.BASE_DIR)
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def begin_writing(name: str) -> bool:
    """Mark the snapshot of this name as being written, with a lock that ends with the process.

    Return False if another process has the name.
    """
    lock = locks.FileLock(_mark_of(name))
    if not lock.try_take():
        return False
    _marks[name] = lock
    return True


def end_writing(name: str) -> None:
    """Remove the mark: this process no longer writes the snapshot."""
    if name in _marks:
        _mark_of(name).unlink(missing_ok=True)
        _marks.pop(name).release()


def is_being_written(name: str) -> bool:
    """Return whether a process of this machine is writing it."""
    if locks.is_held(_mark_of(name)):
        return True
    _mark_of(name).unlink(missing_ok=True)
    return False


_marks: dict[str, locks.FileLock] = {}


def _mark_of(name: str) -> Path:
    marks = Path(settings.DATA_DIR) / ".writing"
    marks.mkdir(mode=0o700, exist_ok=True)
    return marks / name


def draft_of(name: str) -> Path:
    """Return the path that is written until the file is complete."""
    return folder() / f".{name}.part"


def publish(name: str) -> None:
    """Rename the finished draft; after a power cut the file is complete or absent."""
    draft = draft_of(name)
    draft.chmod(0o400)
    _sync(draft)
    draft.replace(path_of(name))
    _sync(folder())


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def discard(name: str) -> None:
    """Delete the snapshot's file and its draft."""
    for path in (path_of(name), draft_of(name)):
        path.unlink(missing_ok=True)


def discard_old_drafts() -> None:
    """Delete drafts of dead writers."""
    for draft in folder().glob(".vms-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                draft.unlink()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of the file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a finished file read-only, without creating even a lock file."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        yield connection
    finally:
        connection.close()
