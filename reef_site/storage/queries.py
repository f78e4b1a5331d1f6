"""Sizes of the tables of the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import connection

# A table that was never analyzed has -1 tuples.
_POSTGRES_TABLES = """
SELECT c.relname,
    (CASE WHEN c.reltuples < 0 THEN coalesce(s.n_live_tup, 0) ELSE c.reltuples END)::bigint,
    pg_total_relation_size(c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'p') AND n.nspname = current_schema()
"""
_SQLITE_TREES = "SELECT name, tbl_name FROM sqlite_master WHERE rootpage > 0"
# With a name, SQLite reads the pages of this B-tree only, so each read transaction is short.
_SQLITE_SIZE = "SELECT ncell, pgsize FROM dbstat WHERE name = %s AND aggregate = TRUE"


@dataclass
class TableSize:
    """A table: about how many rows it has, and its bytes with those of its indexes."""

    name: str
    rows: int = 0
    size_bytes: int = 0


def table_sizes() -> list[TableSize]:
    """Return all tables, the largest first. Reads the whole file of SQLite."""
    tables = _postgres_tables() if connection.vendor == "postgresql" else _sqlite_tables()
    return sorted(tables, key=lambda table: (-table.size_bytes, table.name))


def database_bytes() -> tuple[int, int]:
    """Return the size of the database, and how much of it is free for new rows."""
    if connection.vendor == "postgresql":
        return _number("SELECT pg_database_size(current_database())"), 0
    page = _number("PRAGMA page_size")
    return page * _number("PRAGMA page_count"), page * _number("PRAGMA freelist_count")


def _postgres_tables() -> list[TableSize]:
    return [TableSize(*row) for row in _rows(_POSTGRES_TABLES)]


def _sqlite_tables() -> list[TableSize]:
    found: dict[str, TableSize] = {}
    for name, owner in _rows(_SQLITE_TREES):
        table = found.setdefault(owner, TableSize(owner))
        for cells, size in _rows(_SQLITE_SIZE, [name]):
            table.size_bytes += size
            if name == owner:
                # Inner pages have cells, too: about one for a hundred rows.
                table.rows = cells
    return list(found.values())


def _rows(sql: str, values: list[Any] | None = None) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


def _number(sql: str) -> int:
    return int(_rows(sql)[0][0])
