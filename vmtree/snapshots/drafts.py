"""Writes a draft: all tables of a snapshot as of one moment.

On SQLite the draft itself reads the database, by `ATTACH` and `INSERT … SELECT` in one read
transaction: in WAL mode it neither waits for writers nor blocks them, and no row passes through
Python. On PostgreSQL rows are streamed in a REPEATABLE READ transaction.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.db import connection
from django.db.backends.utils import CursorWrapper

from reef_site.common import clock
from reef_site.common.errors import ReefError
from vmtree.snapshots import tables
from vmtree.snapshots.tables import Table

Counts = dict[str, int]
_BATCH_SIZE = 10_000
_WAIT_SECONDS = 20.0


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
    with _open_draft(draft) as file:
        for table in wanted:
            file.execute(table.schema)
        file.execute(tables.META_SCHEMA)
        copy = _from_postgresql if connection.vendor == "postgresql" else _from_sqlite
        written = copy(file, wanted)
        _write_meta(file, written, why, made_by)
        for table in wanted:
            if table.index:
                file.execute(
                    f"CREATE INDEX {table.name}_by_{table.index} ON {table.name} ({table.index})"
                )
        check(file, written.counts)
    return written


def check(file: sqlite3.Connection, counts: Counts) -> None:
    """Raise SnapshotFailed unless the file is intact and has exactly these numbers of rows."""
    problems = [text for (text,) in file.execute("PRAGMA integrity_check(3)")]
    if problems != ["ok"]:
        raise SnapshotFailed(f"the file is damaged: {problems[0]}")
    found = {name: _count(file, name) for name in counts}
    if found != counts:
        raise SnapshotFailed(f"it holds {found} rows, not {counts}")


@contextlib.contextmanager
def _open_draft(draft: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that no other process uses: it needs no journal."""
    file = sqlite3.connect(
        draft.as_uri(), uri=True, timeout=_WAIT_SECONDS, isolation_level=None, cached_statements=0
    )
    try:
        file.execute("PRAGMA journal_mode = OFF")
        file.execute("PRAGMA synchronous = OFF")
        yield file
    finally:
        file.close()


def _from_sqlite(file: sqlite3.Connection, wanted: list[Table]) -> Written:
    source = Path(str(connection.settings_dict["NAME"])).absolute()
    file.execute("ATTACH ? AS live", [f"{source.as_uri()}?mode=ro"])
    file.execute("BEGIN")
    at = clock.now()
    # The first read fixes the snapshot of the transaction.
    counts = {table.name: _count(file, f"live.{table.counted}") for table in wanted}
    for table in wanted:
        file.execute(f"INSERT INTO {table.name} {table.select('sqlite')}")
    file.execute("COMMIT")
    file.execute("DETACH live")
    return Written(at, counts)


def _from_postgresql(file: sqlite3.Connection, wanted: list[Table]) -> Written:
    source = connection.copy()
    try:
        source.set_autocommit(False)
        file.execute("BEGIN")
        with source.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            at = clock.now()
            counts: Counts = {}
            for table in wanted:
                cursor.execute(f"SELECT count(*) FROM {table.counted}")
                counts[table.name] = cursor.fetchone()[0]
        for table in wanted:
            with source.chunked_cursor() as rows:
                rows.execute(table.select("postgresql"))
                _stream(file, table, rows)
        file.execute("COMMIT")
        source.rollback()
    finally:
        source.close()
    return Written(at, counts)


def _stream(file: sqlite3.Connection, table: Table, rows: CursorWrapper) -> None:
    marks = ", ".join("?" * len(table.columns))
    convert = table.row_converter("postgresql")
    while some := rows.fetchmany(_BATCH_SIZE):
        file.executemany(
            f"INSERT INTO {table.name} VALUES ({marks})", map(convert, some) if convert else some
        )


def _count(file: sqlite3.Connection, table: str) -> int:
    return int(file.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _write_meta(file: sqlite3.Connection, written: Written, why: str, made_by: str) -> None:
    facts = {
        "format": tables.FORMAT,
        "at": clock.format_timestamp(written.at),
        "why": why,
        "made_by": made_by,
        "counts": json.dumps(written.counts),
    }
    file.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
