"""Verification of snapshot files: reports truncated, altered and missing ones.

The quick check compares size and modification time, which is enough for a list; the full one reads
every byte.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings

from reef_site.common import clock
from reef_site.common.errors import Conflict
from vmtree import permissions
from vmtree.snapshot_models import Snapshot, State
from vmtree.snapshots import drafts, files, queries
from vmtree.snapshots.drafts import SnapshotFailed, Written

# Read for one list, at most, when files were modified. A full check has no limit.
MAX_READ_BYTES = 64 << 20
# Seconds by which the times of files and of checks may differ.
CLOCK_TOLERANCE = 2.0
MISSING = "the file is missing"
NOT_VERIFIED = "the file was modified and is not verified yet"


class SnapshotDamaged(Conflict):
    """The file differs from what was written; the text says how."""


def file_columns(path: Path) -> dict[str, Any]:
    """Return the columns that describe a good file."""
    stat = path.stat()
    return {
        "size": stat.st_size,
        "sha256": files.sha256_of(path),
        "touched_ns": stat.st_mtime_ns,
        "checked_at": clock.now(),
    }


def read_meta(path: Path) -> Written:
    """Return the metadata in a file. Raises sqlite3.Error, KeyError, ValueError."""
    with files.opened(path) as file:
        facts = queries.read_meta(file)
    return Written(clock.parse_iso(facts["at"]), json.loads(facts["counts"]))


def quick_check(snapshot: Snapshot) -> Snapshot:
    """Return the row, updated if its file is missing or was modified since the last check."""
    return quick_check_all([snapshot], sys.maxsize)[0]


def quick_check_all(snapshots: Iterable[Snapshot], most: int | None = None) -> list[Snapshot]:
    """Check many rows likewise, but read at most `most` bytes of modified files.

    `trouble` says of the others, without being saved, that they are not verified yet.
    """
    left, checked = MAX_READ_BYTES if most is None else most, []
    for snapshot in snapshots:
        size = _modified_bytes(snapshot)
        if size is None:
            checked.append(_save_result(snapshot, MISSING))
        elif size == 0:
            checked.append(snapshot)
        elif size <= left:
            left -= size
            checked.append(_check(snapshot))
        else:
            snapshot.trouble = NOT_VERIFIED
            checked.append(snapshot)
    return checked


def _modified_bytes(snapshot: Snapshot) -> int | None:
    """Return the size of a file that must be read again, 0 if not; None if it is missing."""
    if snapshot.state not in (State.READY, State.DAMAGED) or _is_elsewhere(snapshot):
        return 0
    try:
        stat = files.path_of(snapshot.file).stat()
    except FileNotFoundError:
        return None
    if (stat.st_size, stat.st_mtime_ns) == (snapshot.size, snapshot.touched_ns):
        return 0
    checked_at = snapshot.checked_at.timestamp() if snapshot.checked_at else 0.0
    is_known = snapshot.state == State.DAMAGED and snapshot.trouble != MISSING
    if is_known and stat.st_mtime < checked_at - CLOCK_TOLERANCE:
        return 0
    return max(1, stat.st_size)


def verify(snapshot: Snapshot, *, by: object) -> Snapshot:
    """Read every byte and update state and trouble. Raises Conflict, Forbidden."""
    permissions.check(by, "command", None)
    return _check(_ensure_readable(snapshot))


def ensure_intact(snapshot: Snapshot) -> Path:
    """Verify the file and return its path. Raises SnapshotDamaged, Conflict."""
    if _check(_ensure_readable(snapshot)).state == State.DAMAGED:
        raise SnapshotDamaged(f"{snapshot.file} is damaged: {snapshot.trouble}")
    return files.path_of(snapshot.file)


def verify_oldest() -> None:
    """Verify the snapshot whose last verification is the oldest."""
    here = Snapshot.objects.ready().filter(host=settings.HOST)
    if snapshot := here.order_by("checked_at").first():
        _check(snapshot)


def _is_elsewhere(snapshot: Snapshot) -> bool:
    """Return whether the file lies in the data folder of another machine."""
    return snapshot.host != settings.HOST and not files.path_of(snapshot.file).exists()


def _ensure_readable(snapshot: Snapshot) -> Snapshot:
    if snapshot.state not in (State.READY, State.DAMAGED):
        raise Conflict(f"{snapshot.file} is {snapshot.get_state_display()}, there is no file")
    if _is_elsewhere(snapshot):
        raise Conflict(f"{snapshot.file} lies on {snapshot.host}")
    return snapshot


def _check(snapshot: Snapshot) -> Snapshot:
    return _save_result(snapshot, _find_problem(snapshot))


def _save_result(snapshot: Snapshot, trouble: str) -> Snapshot:
    """Save the result of a check."""
    snapshot.state = State.DAMAGED if trouble else State.READY
    snapshot.trouble, snapshot.checked_at = trouble[:500], clock.now()
    if not trouble:
        snapshot.touched_ns = files.path_of(snapshot.file).stat().st_mtime_ns
    written = Snapshot.objects.written().filter(pk=snapshot.pk)
    written.update(
        state=snapshot.state,
        trouble=snapshot.trouble,
        checked_at=snapshot.checked_at,
        touched_ns=snapshot.touched_ns,
    )
    return snapshot


def _find_problem(snapshot: Snapshot) -> str:
    """Return what is wrong with the file; empty if nothing is."""
    path = files.path_of(snapshot.file)
    try:
        size = path.stat().st_size
        if size < snapshot.size:
            return f"the file was cut off: {size} of {snapshot.size} bytes are there"
        if size > snapshot.size or files.sha256_of(path) != snapshot.sha256:
            return "the file was altered: its SHA-256 is another one"
        with files.opened(path) as file:
            drafts.check(file, snapshot.counts)
    except FileNotFoundError:
        return MISSING
    except (OSError, sqlite3.Error, SnapshotFailed) as error:
        return f"the file cannot be read: {error}"
    return ""
