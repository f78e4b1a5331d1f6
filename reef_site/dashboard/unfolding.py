"""Nodes of the tree that are open from the start, `?open=`: their children are rendered at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.db.models import F, Window
from django.db.models.functions import RowNumber
from django.http import QueryDict

from reef_site.common.lists.sorting import Sorting
from reef_site.common.text import parse_number
from reef_site.dashboard.tree_rows import PAGE, Moment, Rest, TreeRow, rows_for
from vmtree.models import Node

MAX_OPEN = 60
# Rows that are rendered at once, and how many of each open node there are in any case.
MAX_ROWS = 600
MIN_OF_EACH = 10
SEPARATOR = "."


def open_keys(values: QueryDict) -> list[int]:
    """Return the keys in `?open=`, at most `MAX_OPEN`; what is not a key is ignored."""
    words = values.get("open", "")[:2000].split(SEPARATOR)[:MAX_OPEN]
    return [key for word in words if (key := parse_number(word)) is not None and key < 1 << 62]


def unfold(
    rows: Sequence[TreeRow], keys: Sequence[int], moment: Moment, order: Sorting
) -> list[TreeRow]:
    """Return the rows with the first children of the open nodes among them, in tree order.

    The number of queries does not depend on how many nodes are open.
    """
    if not keys or not rows:
        return list(rows)
    children = _first_children(keys, moment, order)
    found: list[TreeRow] = []
    for row in rows:
        _add(row, children, found)
    return found


def _first_children(
    keys: Sequence[int], moment: Moment, order: Sorting
) -> dict[int, list[TreeRow]]:
    nodes = order.apply(Node.objects.active().filter(parent__in=keys)).order_by()
    place = Window(RowNumber(), partition_by=F("parent"), order_by=order.expressions())
    limit = max(MIN_OF_EACH, min(PAGE, MAX_ROWS // len(keys)))
    first = nodes.annotate(place=place).filter(place__lte=limit)
    found: dict[int, list[TreeRow]] = {}
    for row in rows_for(first.values_list("pk", flat=True), moment, order=order):
        found.setdefault(row.node.parent_id or 0, []).append(row)
    return found


def _add(row: TreeRow, children: Mapping[int, list[TreeRow]], found: list[TreeRow]) -> None:
    found.append(row)
    mine = children.get(row.node.pk)
    if not mine or row.is_open:
        return
    row.is_open = True
    for position, child in enumerate(mine, 1):
        child.level, child.position = row.level + 1, position
        child.sibling_count = row.children
        _add(child, children, found)
    if row.children > len(mine):
        rest = Rest(row.node.pk, row.children - len(mine), mine[-1])
        found[-1].rests.append(rest)
