"""Whether a snapshot's file is still what was written: cut off, altered and missing ones are named.

Looking compares size and time of change, which is enough for a list; verifying reads every byte.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

from django.conf import settings

from reef_site.common import clock
from reef_site.common.errors import Conflict
from vmtree import authority
from vmtree.snapshot_models import Snapshot, State
from vmtree.snapshots import files, writing
from vmtree.snapshots.writing import SnapshotFailed, Written


class SnapshotDamaged(Conflict):
    """The file is not what was written; the text says what is wrong."""


def facts_of(path: Path) -> dict[str, Any]:
    """What a row keeps of a file that is as it should be."""
    stat = path.stat()
    return {
        "size": stat.st_size,
        "sha256": files.sha256_of(path),
        "touched_ns": stat.st_mtime_ns,
        "checked_at": clock.now(),
    }


def read_meta(path: Path) -> Written:
    """What a file says of itself. Raises sqlite3.Error, KeyError, ValueError."""
    with files.opened(path) as file:
        facts = dict(file.execute("SELECT key, value FROM meta").fetchall())
    return Written(clock.parse_iso(facts["at"]), json.loads(facts["counts"]))


def look_at(snapshot: Snapshot) -> Snapshot:
    """The row, brought up to date if its file is missing or was touched since the last check."""
    if snapshot.state not in (State.READY, State.DAMAGED) or _elsewhere(snapshot):
        return snapshot
    try:
        stat = files.path_of(snapshot.file).stat()
    except FileNotFoundError:
        return _say(snapshot, "the file is missing")
    if (stat.st_size, stat.st_mtime_ns) != (snapshot.size, snapshot.touched_ns):
        return _check(snapshot)
    return snapshot


def verify(snapshot: Snapshot, *, by: object) -> Snapshot:
    """Read every byte; state and trouble say what was found. Raises Conflict, Forbidden."""
    authority.check(by, "command", None)
    return _check(_readable(snapshot))


def ensure_good(snapshot: Snapshot) -> Path:
    """The path of a file that was verified just now. Raises SnapshotDamaged, Conflict."""
    if _check(_readable(snapshot)).state == State.DAMAGED:
        raise SnapshotDamaged(f"{snapshot.file} is damaged: {snapshot.trouble}")
    return files.path_of(snapshot.file)


def verify_oldest() -> None:
    """Verify the one that was not looked through for the longest time."""
    here = Snapshot.objects.ready().filter(host=settings.HOST)
    if snapshot := here.order_by("checked_at").first():
        _check(snapshot)


def _elsewhere(snapshot: Snapshot) -> bool:
    """Whether its file lies in the data folder of another machine."""
    return snapshot.host != settings.HOST and not files.path_of(snapshot.file).exists()


def _readable(snapshot: Snapshot) -> Snapshot:
    if snapshot.state not in (State.READY, State.DAMAGED):
        raise Conflict(f"{snapshot.file} is {snapshot.get_state_display()}, there is no file")
    if _elsewhere(snapshot):
        raise Conflict(f"{snapshot.file} lies on {snapshot.host}")
    return snapshot


def _check(snapshot: Snapshot) -> Snapshot:
    return _say(snapshot, _trouble_of(snapshot))


def _say(snapshot: Snapshot, trouble: str) -> Snapshot:
    """Keep what a check found."""
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


def _trouble_of(snapshot: Snapshot) -> str:
    """What is wrong with the file; nothing, if all is well."""
    path = files.path_of(snapshot.file)
    try:
        size = path.stat().st_size
        if size < snapshot.size:
            return f"the file was cut off: {size} of {snapshot.size} bytes are there"
        if size > snapshot.size or files.sha256_of(path) != snapshot.sha256:
            return "the file was altered: its SHA-256 is another one"
        with files.opened(path) as file:
            writing.check(file, snapshot.counts)
    except FileNotFoundError:
        return "the file is missing"
    except (OSError, sqlite3.Error, SnapshotFailed) as error:
        return f"the file cannot be read: {error}"
    return ""
