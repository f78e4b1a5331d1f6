"""Files that no row knows: what is left of a database that was lost, or was copied here.

They get rows, so that the tree can be restored from them; pinned, for only people know why they
are here.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from vmtree.snapshot_models import Snapshot, State, Why
from vmtree.snapshots import checking, files, writing
from vmtree.snapshots.writing import SnapshotFailed

logger = logging.getLogger(__name__)

_LONGEST_NAME = 100
# What could not be read: (name, time of change), so that it is complained of once.
_strange: set[tuple[str, int]] = set()


def adopt() -> list[Snapshot]:
    """A row for each whole file that has none."""
    paths = {path.name: path for path in files.folder().glob("vms-*.sqlite")}
    known = set(Snapshot.objects.filter(file__in=paths).values_list("file", flat=True))
    found = [_adopt(path) for name, path in sorted(paths.items()) if name not in known]
    return [each for each in found if each]


def _adopt(path: Path) -> Snapshot | None:
    try:
        mark = (path.name, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    if mark in _strange or len(path.name) > _LONGEST_NAME:
        return None
    try:
        return _enlist(path, _facts(path))
    except (OSError, sqlite3.Error, SnapshotFailed, ValueError, KeyError) as error:
        logger.warning("%s is no snapshot: %s", path, error)
        _strange.add(mark)
    except IntegrityError:
        # Somebody else was sooner.
        pass
    return None


def _facts(path: Path) -> dict[str, Any]:
    """What can be told from the file itself."""
    with files.opened(path) as file:
        meta = dict(file.execute("SELECT key, value FROM meta").fetchall())
        written = checking.read_meta(path)
        writing.check(file, written.counts)
    return {
        **checking.facts_of(path),
        "at": written.at,
        "began_at": written.at,
        "counts": written.counts,
        "why": Why(meta["why"]),
        "made_by": meta["made_by"][:200],
    }


def _enlist(path: Path, facts: dict[str, Any]) -> Snapshot | None:
    with transaction.atomic():
        snapshot = Snapshot.objects.create(
            file=path.name, state=State.READY, host=settings.HOST, pinned=True, **facts
        )
    if path.exists():
        return snapshot
    # It was being pruned while we looked.
    snapshot.delete()
    return None
