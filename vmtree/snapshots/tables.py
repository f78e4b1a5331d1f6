"""The tables of a snapshot file: columns, and the SQL that fills them.

Higher apps add tables to `snapshot_tables`. In the file, times are ISO in UTC with microseconds,
JSON is text, booleans are 1 and 0. The descriptions below become comments in the file's schema.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from reef_site.common.hooks import Hook

Kind = Literal["text", "json", "time", "flag", "number"]
_TYPES = {"text": "TEXT", "json": "TEXT", "time": "TEXT", "flag": "INTEGER", "number": "INTEGER"}
# Django keeps times in SQLite as text, whole seconds without their fraction.
_SQLITE = {"time": "substr(replace({0}, ' ', 'T') || '.000000', 1, 26) || 'Z'"}
_POSTGRESQL = {
    "time": """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
    "json": "{0}::text",
    "flag": "{0}::int",
}


@dataclass(frozen=True)
class Column:
    """A column of the file, and the SQL expression that fills it."""

    name: str
    source: str
    kind: Kind = "text"
    about: str = ""
    # Follows the type in the schema, such as PRIMARY KEY.
    rule: str = ""

    def selected(self, vendor: str) -> str:
        """Return the expression in the dialect of this database."""
        forms = _POSTGRESQL if vendor == "postgresql" else _SQLITE
        return forms.get(self.kind, "{0}").format(self.source)

    def declared(self, comma: str) -> str:
        """Return its line of the schema."""
        words = " ".join(filter(None, [self.name, _TYPES[self.kind], self.rule]))
        return f"  {words}{comma}" + (f" -- {self.about}" if self.about else "")


@dataclass(frozen=True)
class Table:
    """A table of the file. All names are inserted into SQL unescaped."""

    name: str
    about: str
    # The text after FROM, and the table whose number of rows must match the file's.
    source: str
    counted: str
    order: str
    columns: tuple[Column, ...]
    # Columns that an index in the file covers.
    index: str = ""
    # For further tables: their name in comparisons, and the compared columns. The first is the key,
    # the second the display name of a row.
    title: str = ""
    compared: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """Return the CREATE TABLE statement."""
        last = len(self.columns) - 1
        lines = [each.declared("," * (n < last)) for n, each in enumerate(self.columns)]
        return "\n".join([f"CREATE TABLE {self.name} ( -- {self.about}", *lines, ")"])

    def row_converter(self, vendor: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]] | None:
        """Return a function that compacts JSON in each row; None where nothing is to be done.

        PostgreSQL writes JSON with blanks.
        """
        places = [n for n, each in enumerate(self.columns) if each.kind == "json"]
        if vendor != "postgresql" or not places:
            return None

        def convert(row: tuple[Any, ...]) -> tuple[Any, ...]:
            values = list(row)
            for place in places:
                values[place] = compact_json(values[place])
            return tuple(values)

        return convert


# Many VMs have the same DNA.
@functools.lru_cache(maxsize=4096)
def compact_json(text: str | None) -> str | None:
    """Return the same JSON without blanks."""
    return orjson.dumps(orjson.loads(text)).decode() if text else text


NODES = Table(
    name="nodes",
    about="every VM that ever had a place in the tree",
    source="vmtree_node AS n LEFT JOIN vmtree_node AS p ON p.id = n.parent_id",
    counted="vmtree_node",
    order="n.id",
    columns=(
        Column("id", "n.id", "number", "its order among those made at once", "PRIMARY KEY"),
        Column("vm_id", "n.vm_id", rule="NOT NULL UNIQUE"),
        Column("name", "n.name", rule="NOT NULL"),
        Column("category", "n.category", rule="NOT NULL"),
        Column("parent_vm_id", "p.vm_id", about="who made it; null is a root"),
        Column("reef_config", "n.reef_config", "json", "DNA: organs and capabilities"),
        Column("created_at", "n.created_at", "time", rule="NOT NULL"),
        Column("updated_at", "n.updated_at", "time", rule="NOT NULL"),
        Column("removed_at", "n.removed_at", "time", "null while it lives"),
    ),
)
TRAITS = Table(
    name="traits",
    about="the DNA once more, a row for each organ and capability",
    source="vmtree_trait AS t JOIN vmtree_node AS n ON n.id = t.node_id",
    counted="vmtree_trait",
    order="t.id",
    columns=(
        Column("vm_id", "n.vm_id", rule="NOT NULL"),
        Column("kind", "t.kind", about="organ or capability", rule="NOT NULL"),
        Column("name", "t.name", rule="NOT NULL"),
        Column("position", "t.position", "number", rule="NOT NULL"),
    ),
)
REVISIONS = Table(
    name="revisions",
    about="every change of a VM, with what it was after it",
    source="vmtree_revision AS r JOIN vmtree_node AS n ON n.id = r.node_id",
    counted="vmtree_revision",
    order="r.id",
    columns=(
        Column("id", "r.id", "number", rule="PRIMARY KEY"),
        Column("vm_id", "n.vm_id", rule="NOT NULL"),
        Column("at", "r.at", "time", rule="NOT NULL"),
        Column("actor", "r.actor", about="who did it", rule="NOT NULL"),
        Column(
            "what",
            "r.what",
            about="created, placed, changed, removed, restored or kept",
            rule="NOT NULL",
        ),
        Column("name", "r.name", rule="NOT NULL"),
        Column("category", "r.category", rule="NOT NULL"),
        Column("parent_vm_id", "r.parent_vm_id"),
        Column("reef_config", "r.reef_config", "json"),
    ),
    index="vm_id",
)

META_SCHEMA = """CREATE TABLE meta ( -- what this file is
  key TEXT PRIMARY KEY, -- format, at (the moment of the rows), why, made_by, counts (JSON)
  value TEXT NOT NULL
)"""
FORMAT = "1"

snapshot_tables: Hook[Table] = Hook(
    "snapshots.tables", "Tables that a snapshot holds beside `meta`."
)
for _table in (NODES, TRAITS, REVISIONS):
    snapshot_tables.register(_table, key=_table.name)
