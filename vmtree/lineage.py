"""Ancestors and descendants in any table with a key and a parent's key.

The tree and the registry both use them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from vmtree.queries import recursion
from vmtree.queries.recursion import Links

Row = TypeVar("Row")


def ancestor_keys(links: Links, start: Hashable) -> list[Any]:
    """Return the keys from the root down to `start`; empty if the row does not exist.

    Stops at a parent that has no row, and at a cycle.
    """
    parents = dict(recursion.ancestor_pairs(links, start))
    return path_to(start, parents)


def descendant_keys(links: Links, start: Hashable) -> list[Any]:
    """Return the keys of `start` and its descendants, breadth first; empty if it does not exist."""
    rows = recursion.descendant_pairs(links, start)
    return [key for key, _ in breadth_first(rows, start, lambda row: row)]


def is_within(links: Links, key: Hashable, top: Hashable) -> bool:
    """Return whether `key` is `top` or a descendant of it."""
    return recursion.is_within(links, key, top)


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
