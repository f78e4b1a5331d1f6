"""Writes a draft: all tables of a snapshot as of one moment."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from reef_site.common import clock
from reef_site.common.errors import ReefError
from vmtree.snapshots import queries, tables
from vmtree.snapshots.queries import Counts


class SnapshotFailed(ReefError):
    """A snapshot could not be written; nothing of it is left."""

    status = 503


@dataclass(frozen=True)
class Written:
    """The time of a draft's data, and the number of rows by table."""

    at: datetime
    counts: Counts


def write(draft: Path, *, why: str, made_by: str) -> Written:
    """Write a complete draft and check it. Raises SnapshotFailed, OSError, sqlite3.Error."""
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    wanted = list(tables.snapshot_tables)
    with queries.opened_draft(draft) as file:
        queries.create_tables(file, wanted)
        written = Written(*queries.copy_rows(file, wanted))
        _write_meta(file, written, why, made_by)
        queries.create_indexes(file, wanted)
        check(file, written.counts)
    return written


def check(file: sqlite3.Connection, counts: Counts) -> None:
    """Raise SnapshotFailed unless the file is intact and has exactly these numbers of rows."""
    if problems := queries.find_damage(file):
        raise SnapshotFailed(f"the file is damaged: {problems[0]}")
    found = {name: queries.count(file, name) for name in counts}
    if found != counts:
        raise SnapshotFailed(f"it holds {found} rows, not {counts}")


def _write_meta(file: sqlite3.Connection, written: Written, why: str, made_by: str) -> None:
    facts = {
        "format": tables.FORMAT,
        "at": clock.format_timestamp(written.at),
        "why": why,
        "made_by": made_by,
        "counts": json.dumps(written.counts),
    }
    queries.write_meta(file, facts)
