"""Snapshots as files: where they lie, how one appears whole or not at all, how it is read."""

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

# A draft that nobody has written to for so long has no writer any more.
_DRAFT_SECONDS = 3600.0


def folder() -> Path:
    """Where snapshots lie; made with mode 0700 if it is absent."""
    found = Path(settings.DATA_DIR) / "snapshots"
    found.mkdir(mode=0o700, exist_ok=True)
    return found


def name_of(moment: datetime) -> str:
    """The name of a snapshot of that moment, such as vms-2026-11-22T06-36-30-359Z.sqlite."""
    return f"vms-{clock.format_timestamp(moment).replace(':', '-').replace('.', '-')}.sqlite"


def path_of(name: str) -> Path:
    """Where the snapshot of this name lies."""
    return folder() / name


def shown_path(name: str) -> str:
    """The same for people: from the checkout on, if it lies in it."""
    path = path_of(name)
    base = Path(settings.BASE_DIR)
    return str(path.relative_to(base) if path.is_relative_to(base) else path)


def begin(name: str) -> bool:
    """Show that this process writes the snapshot of this name: a lock that ends with it.

    False if somebody else has the name.
    """
    lock = locks.FileLock(_mark_of(name))
    if not lock.try_take():
        return False
    _marks[name] = lock
    return True


def end(name: str) -> None:
    """The process writes it no longer."""
    if name in _marks:
        _mark_of(name).unlink(missing_ok=True)
        _marks.pop(name).release()


def is_written(name: str) -> bool:
    """Whether a process of this machine writes it now."""
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
    """Where it is written until it is whole."""
    return folder() / f".{name}.part"


def publish(name: str) -> None:
    """Give the finished draft its name; after a power cut it is there whole, or not at all."""
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
    """Remove the snapshot and what may be left of its draft."""
    for path in (path_of(name), draft_of(name)):
        path.unlink(missing_ok=True)


def discard_old_drafts() -> None:
    """Remove what dead writers left."""
    for draft in folder().glob(".vms-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                draft.unlink()


def sha256_of(path: Path) -> str:
    """The hash of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A finished file to be read; it is never written, not even a lock beside it."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        yield connection
    finally:
        connection.close()
