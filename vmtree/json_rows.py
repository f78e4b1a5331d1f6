"""Nodes as ready-made pieces of JSON, straight from the database.

A tree of 10,000 nodes, or a chain 5,000 deep, is assembled from them without a model object or a
recursive encoder. Each piece is a node in the wire format.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from json.encoder import encode_basestring
from typing import Any

import orjson
from django.db import connection
from django.db.models import F, QuerySet, TextField
from django.db.models.functions import Cast

from reef_site.common.json_sql import Piece
from vmtree import lineage
from vmtree.models import Node, Revision
from vmtree.queries import nodes as queries
from vmtree.queries.nodes import JsonTail


def pieces_of(nodes: QuerySet[Node]) -> list[Piece]:
    """Return the nodes of a QuerySet, in its order, with one statement."""
    rows = nodes.annotate(
        config=Cast("reef_config", TextField()),
        tail=JsonTail(F("created_at"), F("updated_at"), F("removed_at"), F("destroyed_at")),
    )
    columns = ("pk", "parent_id", "vm_id", "name", "parent__vm_id", "category", "config", "tail")
    return _pieces(rows.values_list(*columns))


def pieces_at(moment: datetime) -> list[Piece]:
    """Return all nodes as of that time, oldest first; the keys are VM ids."""
    states = Revision.objects.newest_until(moment).exclude(what=Revision.What.REMOVED)
    rows = states.annotate(
        vm_id=F("node__vm_id"),
        config=Cast("reef_config", TextField()),
        tail=JsonTail(F("node__created_at"), F("at")),
    ).order_by("node__created_at", "node_id")
    columns = ("vm_id", "name", "parent_vm_id", "category", "config", "tail")
    return _pieces((row[0], row[2], *row) for row in rows.values_list(*columns))


def ancestor_pieces(node: Node) -> list[Piece]:
    """Return the nodes from the root down to the node itself."""
    pieces = _pieces(queries.ancestor_rows(node.pk))
    parents = {piece.key: piece.parent for piece in pieces}
    by_key = {piece.key: piece for piece in pieces}
    return [by_key[key] for key in lineage.path_to(node.pk, parents)]


def descendant_pieces(
    node: Node | None,
    *,
    depth: int | None = None,
    since: datetime | None = None,
    removed: bool = False,
) -> list[Piece]:
    """Return the node (or all roots) and its descendants, oldest first.

    `depth` limits the levels below; `since` keeps only nodes changed then or later; `removed`
    includes removed nodes.
    """
    key = node.pk if node else None
    return _pieces(queries.descendant_rows(key, depth=depth, since=since, removed=removed))


def _pieces(rows: Iterable[Sequence[Any]]) -> list[Piece]:
    """Convert rows of key, parent's key, id, name, parent's id, category, DNA and tail."""
    quote, config_of = encode_basestring, _config_of()
    return [
        Piece(
            key,
            parent,
            f'{{"vmId":{quote(vm_id)},"name":{quote(name)},"parentVmId":'
            f'{"null" if parent_id is None else quote(parent_id)},"category":"{category}",'
            f'"reefConfig":{config_of(config)}{tail}',
        )
        for key, parent, vm_id, name, parent_id, category, config, tail in rows
    ]


def _config_of() -> Callable[[str | None], str]:
    return _compact_json if connection.vendor == "postgresql" else _stored_json


def _stored_json(config: str | None) -> str:
    """Return the text as SQLite stores it: compact."""
    return config or "null"


@functools.lru_cache(maxsize=4096)
def _compact_json(config: str | None) -> str:
    """Remove the blanks that PostgreSQL writes into JSON. Cached: many VMs share their DNA."""
    return orjson.dumps(orjson.loads(config)).decode() if config else "null"


# -- assembling pieces ---------------------------------------------------------------------------


def breadth_first(pieces: Sequence[Piece], start: Any) -> list[Piece]:
    """Return the piece with the key `start`, its children in their order, then theirs."""
    return lineage.breadth_first(pieces, start, lambda piece: (piece.key, piece.parent))


def subtree(pieces: Sequence[Piece], root: Any, depth: int | None) -> list[Piece]:
    """Return pieces at most `depth` levels below `root` (None: below all roots), in their order."""
    parents = {piece.key: piece.parent for piece in pieces}
    levels: dict[Any, int | None] = {}
    for piece in pieces:
        _set_levels(piece.key, parents, root, levels)
    limit = len(pieces) if depth is None else depth
    return [
        piece for piece in pieces if (level := levels[piece.key]) is not None and level <= limit
    ]


def _set_levels(
    key: Any, parents: dict[Any, Any], root: Any, levels: dict[Any, int | None]
) -> None:
    """Store the level below the root of this key and its ancestors; None if outside the subtree."""
    path = []
    while key not in levels and key != root and parents.get(key) is not None:
        path.append(key)
        key = parents[key]
    if key not in levels:
        is_top = key == root or (root is None and key in parents)
        levels[key] = 0 if is_top else None
    level = levels[key]
    for each in reversed(path):
        level = None if level is None else level + 1
        levels[each] = level


def json_list(pieces: Iterable[Piece]) -> str:
    """Return a JSON list of nodes."""
    return f"[{','.join([piece.text for piece in pieces])}]"


def json_tree(pieces: Sequence[Piece], root: Any = None) -> str:
    """Return a JSON list of `{"vm": …, "children": […]}` from all roots, or from the node `root`.

    Siblings keep the order of `pieces`. Not recursive, so any depth works.
    """
    children: dict[Any, list[Piece]] = {}
    for piece in pieces:
        children.setdefault(piece.parent, []).append(piece)
    tops = children.get(None, [])
    if root is not None:
        tops = [piece for piece in pieces if piece.key == root]
    parts: list[str] = []
    # Still to be written, next item last: a node, or literal text.
    waiting: list[Piece | str] = _in_a_list(tops)
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            parts.append(item)
        elif below_it := children.get(item.key):
            parts.append(f'{{"vm":{item.text},"children":')
            waiting.append("}")
            waiting += _in_a_list(below_it)
        else:
            parts.append(f'{{"vm":{item.text},"children":[]}}')
    return "".join(parts)


def _in_a_list(pieces: list[Piece]) -> list[Piece | str]:
    """Return brackets, commas and pieces, the first one last."""
    parts: list[Piece | str] = ["]"]
    for piece in reversed(pieces):
        parts += (piece, ",")
    # The last comma stands where the list begins.
    return [*parts[:-1], "["] if pieces else [*parts, "["]
