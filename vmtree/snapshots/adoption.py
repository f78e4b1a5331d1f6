"""Imports snapshot files without a row: left from a lost database, or copied here.

They get rows, so that the tree can be restored from them. They are pinned, because only people know
why they are here.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from vmtree.snapshot_models import Snapshot, State, Why
from vmtree.snapshots import drafts, files, queries, verification
from vmtree.snapshots.drafts import SnapshotFailed

logger = logging.getLogger(__name__)

_MAX_NAME_LENGTH = 100
# Unreadable files as (name, modification time), so that each is logged once.
_unreadable: set[tuple[str, int]] = set()


def adopt() -> list[Snapshot]:
    """Create a row for each complete file that has none. Return the new rows."""
    paths = {path.name: path for path in files.folder().glob("vms-*.sqlite")}
    known = set(Snapshot.objects.filter(file__in=paths).values_list("file", flat=True))
    found = [_adopt(path) for name, path in sorted(paths.items()) if name not in known]
    return [each for each in found if each]


def _adopt(path: Path) -> Snapshot | None:
    try:
        mark = (path.name, path.stat().st_mtime_ns)
    except FileNotFoundError:
        return None
    if mark in _unreadable or len(path.name) > _MAX_NAME_LENGTH:
        return None
    try:
        return _create_row(path, _facts(path))
    except (OSError, sqlite3.Error, SnapshotFailed, ValueError, KeyError) as error:
        logger.warning("%s is no snapshot: %s", path, error)
        _unreadable.add(mark)
    except IntegrityError:
        # Another process created the row first.
        pass
    return None


def _facts(path: Path) -> dict[str, Any]:
    """Read the columns of the row from the file."""
    with files.opened(path) as file:
        meta = queries.read_meta(file)
        written = verification.read_meta(path)
        drafts.check(file, written.counts)
    return {
        **verification.file_columns(path),
        "at": written.at,
        "began_at": written.at,
        "counts": written.counts,
        "why": Why(meta["why"]),
        "made_by": meta["made_by"][:200],
    }


def _create_row(path: Path, facts: dict[str, Any]) -> Snapshot | None:
    with transaction.atomic():
        snapshot = Snapshot.objects.create(
            file=path.name, state=State.READY, host=settings.HOST, pinned=True, **facts
        )
    if path.exists():
        return snapshot
    # The file was pruned meanwhile.
    snapshot.delete()
    return None
