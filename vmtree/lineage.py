"""Ancestors and descendants: recursive queries over any table with a key and a parent's key.

The tree and the registry both use them. They terminate on cycles. PostgreSQL would join the whole
table at every step of the recursion; a lateral join that it cannot flatten (`OFFSET 0`) makes it
use the index.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import connection

Row = TypeVar("Row")


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


def ancestor_keys(links: Links, start: Hashable) -> list[Any]:
    """Return the keys from the root down to `start`; empty if the row does not exist.

    Stops at a parent that has no row, and at a cycle.
    """
    parents = dict(_fetch(f"{above(links)} SELECT key, parent FROM line", start))
    return path_to(start, parents)


def descendant_keys(links: Links, start: Hashable) -> list[Any]:
    """Return the keys of `start` and its descendants, breadth first; empty if it does not exist."""
    rows = _fetch(f"{below(links)} SELECT key, parent FROM line", start)
    return [key for key, _ in breadth_first(rows, start, lambda row: row)]


def is_within(links: Links, key: Hashable, top: Hashable) -> bool:
    """Return whether `key` is `top` or a descendant of it."""
    sql = f"{above(links)} SELECT 1 FROM line WHERE key = %s LIMIT 1"
    return bool(_fetch(sql, key, top))


def path_to(start: Hashable, parents: dict[Any, Any]) -> list[Any]:
    """Return the keys from the topmost known ancestor down to `start`; `parents` maps keys to
    parents.
    """
    path: dict[Any, None] = {}
    key: Any = start
    while key in parents and key not in path:
        path[key] = None
        key = parents[key]
    return list(reversed(path))


def breadth_first(
    rows: Iterable[Row], start: Hashable, links_of: Callable[[Row], tuple[Any, Any]]
) -> list[Row]:
    """Return the row with the key `start`, its children in the order of `rows`, then theirs."""
    first: Row | None = None
    children: dict[Any, list[tuple[Any, Row]]] = {}
    for row in rows:
        key, parent = links_of(row)
        if key == start and first is None:
            first = row
        else:
            children.setdefault(parent, []).append((key, row))
    if first is None:
        return []
    found, waiting = [first], deque([start])
    while waiting:
        # Removed from the map, so that a cycle ends: a row met twice has no children left.
        for key, row in children.pop(waiting.popleft(), ()):
            found.append(row)
            waiting.append(key)
    return found


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


def _fetch(sql: str, *parameters: Any) -> list[tuple[Any, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, Any]] = cursor.fetchall()
    return rows
