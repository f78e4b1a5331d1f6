"""Recursive queries over any table with a key and a parent's key, such as the tree or the registry.

They terminate on cycles. PostgreSQL would join the whole table at every step of the recursion; a
lateral join that it cannot flatten (`OFFSET 0`) makes it use the index.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.db.models.expressions import RawSQL

# A row's key and its parent's key.
KeyPair = tuple[Any, Any]


@dataclass(frozen=True)
class Links:
    """A table whose rows reference their parents. All names are inserted into SQL unescaped."""

    table: str
    key: str
    parent: str
    # Condition for descendants, such as `removed_at IS NULL`.
    living: str = ""


def above(links: Links, *, start: str = "") -> str:
    """Return SQL that begins a statement: `line(key, parent)` holds the row %s and its ancestors.

    `start`, a condition in SQL, begins with all matching rows instead of the row %s.
    """
    return _recursion(links, f"{links.key} = line.parent", living="", depth=False, start=start)


def below(links: Links, *, depth: bool = False, start: str = "") -> str:
    """Return SQL that begins a statement: `line(key, parent)` holds the row %s and its descendants.

    `start`, a condition in SQL, begins with all matching rows instead of the row %s. `depth` adds
    one more parameter: the maximum number of levels.
    """
    step = f"{links.parent} = line.key"
    return _recursion(links, step, living=links.living, depth=depth, start=start)


def ancestor_pairs(links: Links, start: Hashable) -> list[KeyPair]:
    """Return the keys of `start` and its ancestors, in no order, each with its parent's key."""
    return _fetch(f"{above(links)} SELECT key, parent FROM line", start)


def descendant_pairs(links: Links, start: Hashable) -> list[KeyPair]:
    """Return the keys of `start` and its descendants, in no order, each with its parent's key."""
    return _fetch(f"{below(links)} SELECT key, parent FROM line", start)


def count_descendants(links: Links, starts: Collection[Hashable]) -> dict[Any, int]:
    """Map those of these rows that exist to their numbers of descendants, by one query."""
    if not starts:
        return {}
    marks = ", ".join(["%s"] * len(starts))
    start = f"{links.key} IN ({marks})"
    pairs = _fetch(f"{below(links, start=start)} SELECT key, parent FROM line", *starts)
    children: dict[Any, list[Any]] = {}
    for key, parent in pairs:
        children.setdefault(parent, []).append(key)
    sizes: dict[Any, int] = {}
    for key, _ in pairs:
        _measure(key, children, sizes)
    return {key: sizes[key] - 1 for key in starts if key in sizes}


def _measure(top: Hashable, children: Mapping[Any, list[Any]], sizes: dict[Any, int]) -> None:
    """Note the sizes of the subtree of `top`, and of all subtrees in it that are not known yet."""
    found, left = [], [top]
    while left:
        key = left.pop()
        if key not in sizes:
            # Noted at once, so that a cycle ends.
            sizes[key] = 1
            found.append(key)
            left += children.get(key, ())
    for key in reversed(found):
        sizes[key] = 1 + sum(sizes[child] for child in children.get(key, ()))


def is_within(links: Links, key: Hashable, top: Hashable) -> bool:
    """Return whether `key` is `top` or a descendant of it."""
    sql = f"{above(links)} SELECT 1 FROM line WHERE key = %s LIMIT 1"
    return bool(_fetch(sql, key, top))


def descendants(links: Links, start: Hashable) -> RawSQL:
    """Return an expression to put after `__in`: the keys of `start` and its descendants."""
    return RawSQL(f"{below(links)} SELECT key FROM line", [start])  # noqa: S611


def _recursion(links: Links, step: str, *, living: str, depth: bool, start: str = "") -> str:
    condition = step + (" AND line.depth < %s" if depth else "")
    columns = f"{links.key} AS key, {links.parent} AS parent"
    level, more = (", 0", ", line.depth + 1") if depth else ("", "")
    if connection.vendor == "postgresql":
        condition += f" AND {living}" if living else ""
        join = (
            f"line CROSS JOIN LATERAL (SELECT {columns} FROM {links.table}"
            f" WHERE {condition} OFFSET 0) AS next"
        )
        onward = f"SELECT next.key, next.parent{more} FROM {join}"
    else:
        if living:
            # A condition on the table alone makes SQLite read all of it into a Bloom filter first.
            condition += f" AND CASE WHEN line.key IS NOT NULL THEN {living} END"
        onward = f"SELECT {columns}{more} FROM line JOIN {links.table} ON {condition}"
    return (
        f"WITH RECURSIVE line(key, parent{', depth' if depth else ''}) AS ("
        f"SELECT {columns}{level} FROM {links.table} WHERE {start or f'{links.key} = %s'}"
        f" UNION {onward})"
    )


def _fetch(sql: str, *parameters: Any) -> list[KeyPair]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[KeyPair] = cursor.fetchall()
    return rows
