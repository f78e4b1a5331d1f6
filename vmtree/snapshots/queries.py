"""Snapshot files, which are SQLite databases of their own, and the tables that fill them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from django.db import connection
from django.db.backends.utils import CursorWrapper

from reef_site.common import clock
from vmtree.snapshots.tables import META_SCHEMA, Table

Counts = dict[str, int]
Row = tuple[Any, ...]
_BATCH_SIZE = 10_000
_WAIT_SECONDS = 20.0


def select(table: Table, vendor: str) -> str:
    """Return the statement that reads the table's rows from reef's database."""
    columns = ", ".join(each.selected(vendor) for each in table.columns)
    return f"SELECT {columns} FROM {table.source} ORDER BY {table.order}"


def current_rows(table: Table) -> list[Row]:
    """Return the table's rows as they would be in a snapshot of now."""
    convert = table.row_converter(connection.vendor)
    with connection.cursor() as cursor:
        cursor.execute(select(table, connection.vendor))
        rows = cursor.fetchall()
    return list(map(convert, rows) if convert else rows)


# -- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened_draft(draft: Path) -> Iterator[sqlite3.Connection]:
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


def create_tables(file: sqlite3.Connection, tables: Sequence[Table]) -> None:
    """Create the tables of the file, and `meta`."""
    for table in tables:
        file.execute(table.schema)
    file.execute(META_SCHEMA)


def create_indexes(file: sqlite3.Connection, tables: Sequence[Table]) -> None:
    """Create the indexes, once the tables are full."""
    for table in tables:
        if table.index:
            file.execute(
                f"CREATE INDEX {table.name}_by_{table.index} ON {table.name} ({table.index})"
            )


def copy_rows(file: sqlite3.Connection, tables: Sequence[Table]) -> tuple[datetime, Counts]:
    """Copy all rows as of one moment; return it, and the number of rows by table.

    On SQLite the file itself reads the database, by `ATTACH` and `INSERT … SELECT` in one read
    transaction: in WAL mode it neither waits for writers nor blocks them, and no row passes through
    Python. On PostgreSQL rows are streamed in a REPEATABLE READ transaction.
    """
    if connection.vendor == "postgresql":
        return _copy_from_postgresql(file, tables)
    source = Path(str(connection.settings_dict["NAME"])).absolute()
    file.execute("ATTACH ? AS live", [f"{source.as_uri()}?mode=ro"])
    file.execute("BEGIN")
    at = clock.now()
    # The first read fixes the snapshot of the transaction.
    counts = {table.name: count(file, f"live.{table.counted}") for table in tables}
    for table in tables:
        file.execute(f"INSERT INTO {table.name} {select(table, 'sqlite')}")
    file.execute("COMMIT")
    file.execute("DETACH live")
    return at, counts


def _copy_from_postgresql(
    file: sqlite3.Connection, tables: Sequence[Table]
) -> tuple[datetime, Counts]:
    source = connection.copy()
    try:
        source.set_autocommit(False)
        file.execute("BEGIN")
        with source.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            at = clock.now()
            counts: Counts = {}
            for table in tables:
                cursor.execute(f"SELECT count(*) FROM {table.counted}")
                counts[table.name] = cursor.fetchone()[0]
        for table in tables:
            with source.chunked_cursor() as rows:
                rows.execute(select(table, "postgresql"))
                _stream(file, table, rows)
        file.execute("COMMIT")
        source.rollback()
    finally:
        source.close()
    return at, counts


def _stream(file: sqlite3.Connection, table: Table, rows: CursorWrapper) -> None:
    marks = ", ".join("?" * len(table.columns))
    convert = table.row_converter("postgresql")
    while some := rows.fetchmany(_BATCH_SIZE):
        file.executemany(
            f"INSERT INTO {table.name} VALUES ({marks})", map(convert, some) if convert else some
        )


def write_meta(file: sqlite3.Connection, facts: Mapping[str, str]) -> None:
    """Add facts about the file."""
    file.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())


# -- reading -------------------------------------------------------------------------------------


def read_meta(file: sqlite3.Connection) -> dict[str, str]:
    """Return the facts about the file."""
    return dict(file.execute("SELECT key, value FROM meta").fetchall())


def find_damage(file: sqlite3.Connection) -> list[str]:
    """Return what SQLite finds wrong with the file: up to three problems."""
    problems = [text for (text,) in file.execute("PRAGMA integrity_check(3)")]
    return [] if problems == ["ok"] else problems


def count(file: sqlite3.Connection, table: str) -> int:
    """Return the number of rows of a table."""
    return int(file.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def table_names(file: sqlite3.Connection) -> set[str]:
    """Return the names of the file's tables and indexes; an old file may lack some."""
    return {name for (name,) in file.execute("SELECT name FROM sqlite_master")}


def rows(file: sqlite3.Connection, table: Table) -> Iterable[Row]:
    """Return the table's rows in the file."""
    columns = ", ".join(each.name for each in table.columns)
    return file.execute(f"SELECT {columns} FROM {table.name} ORDER BY {table.order}")


def active_nodes(file: sqlite3.Connection) -> Iterable[Row]:
    """Return (VM id, name, category, parent's VM id, DNA), oldest first."""
    return file.execute(
        "SELECT vm_id, name, category, parent_vm_id, reef_config FROM nodes"
        " WHERE removed_at IS NULL ORDER BY created_at, id"
    )


def all_nodes(file: sqlite3.Connection) -> Iterable[Row]:
    """Return (VM id, name, category, DNA, created, updated, removed); times are ISO text."""
    columns = "name, category, reef_config, created_at, updated_at, removed_at"
    return file.execute(f"SELECT vm_id, {columns} FROM nodes ORDER BY id")


def parents(file: sqlite3.Connection) -> Iterable[tuple[str, str]]:
    """Return the ids of VMs that have a parent, and of their parents."""
    return file.execute("SELECT vm_id, parent_vm_id FROM nodes WHERE parent_vm_id IS NOT NULL")


def traits(file: sqlite3.Connection) -> Iterable[Row]:
    """Return (VM id, kind, name, position)."""
    return file.execute("SELECT vm_id, kind, name, position FROM traits")


def revisions(file: sqlite3.Connection) -> Iterable[Row]:
    """Return (VM id, time as ISO text, actor, what, name, category, parent's VM id, DNA)."""
    return file.execute(
        "SELECT vm_id, at, actor, what, name, category, parent_vm_id, reef_config"
        " FROM revisions ORDER BY id"
    )
