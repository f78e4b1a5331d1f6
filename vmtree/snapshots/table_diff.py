"""Differences in the further tables of a snapshot, such as the registry."""

from __future__ import annotations

import dataclasses
import sqlite3
from dataclasses import dataclass
from typing import Any

import orjson

from reef_site.common.text import clip
from vmtree.snapshots import queries, tables
from vmtree.snapshots.queries import Row
from vmtree.snapshots.tables import Table

Json = dict[str, Any]
# Rows by table, then by the first of its compared columns.
Rows = dict[str, dict[str, Row]]


@dataclass(frozen=True)
class Difference:
    """Rows of one table that were added, removed or changed; pairs are before and after."""

    table: Table
    added: list[Row]
    removed: list[Row]
    changed: list[tuple[Row, Row]]

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of rows by kind."""
        parts = {"added": self.added, "removed": self.removed, "changed": self.changed}
        return {name: len(rows) for name, rows in parts.items()}

    def as_json(self, limit: int) -> Json:
        """Return counts, and the first `limit` rows of each kind."""
        return {
            "counts": self.counts,
            "added": [self._named(row) for row in self.added[:limit]],
            "removed": [self._named(row) for row in self.removed[:limit]],
            "changed": [
                {
                    **self._named(new),
                    "from": self._differing_values(old, new),
                    "to": self._differing_values(new, old),
                }
                for old, new in self.changed[:limit]
            ],
        }

    def words(self, old: Row, new: Row) -> str:
        """Describe a change in one line."""
        before, after = self._differing_values(old, new), self._differing_values(new, old)
        return ", ".join(
            f"{name}: {_short(before[name])} → {_short(after[name])}" for name in after
        )

    def _named(self, row: Row) -> Json:
        return {"id": row[0], "name": row[1]}

    def _differing_values(self, row: Row, other: Row) -> Json:
        """Return the values that differ from the other row, by their names on the wire."""
        columns = compared(self.table).columns
        return {
            _wire(column.name): _value(column.kind, mine)
            for column, mine, theirs in zip(columns, row, other, strict=True)
            if mine != theirs
        }


def compared(table: Table) -> Table:
    """Return the table with only its compared columns."""
    columns = {each.name: each for each in table.columns}
    return dataclasses.replace(table, columns=tuple(columns[name] for name in table.compared))


def read_rows(file: sqlite3.Connection) -> Rows:
    """Return these rows of an open snapshot; an old file may lack a table."""
    present = queries.table_names(file)
    return {
        table.name: {row[0]: row for row in queries.rows(file, table)}
        for table in _tables()
        if table.name in present
    }


def current_rows() -> Rows:
    """Return these rows of the database."""
    return {table.name: {row[0]: row for row in queries.current_rows(table)} for table in _tables()}


def differences(old: Rows, new: Rows) -> dict[str, Difference]:
    """Compare two sets of rows; the keys are the names of the tables on the wire."""
    return {
        table.title: _difference(table, old[table.name], new[table.name])
        for table in tables.snapshot_tables
        if table.compared and table.name in old and table.name in new
    }


def _difference(table: Table, old: dict[str, Row], new: dict[str, Row]) -> Difference:
    return Difference(
        table=table,
        added=[row for key, row in new.items() if key not in old],
        removed=[row for key, row in old.items() if key not in new],
        changed=[(old[key], row) for key, row in new.items() if key in old and old[key] != row],
    )


def _tables() -> list[Table]:
    return [compared(table) for table in tables.snapshot_tables if table.compared]


def _value(kind: str, value: Any) -> Any:
    return orjson.loads(value) if kind == "json" and value else value


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return clip(text, 60)


def _wire(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
