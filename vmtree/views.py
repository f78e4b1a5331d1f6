"""Fragments of the tree for other pages."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import connection
from django.http import HttpRequest
from django.template.loader import render_to_string

from vmtree import services
from vmtree.lineage import below
from vmtree.models import LINKS, Node

MOST_IN_PANEL = 500
DEEPEST = 40


@dataclass(frozen=True)
class Line:
    """A node of an indented list."""

    node: Node
    depth: int

    @property
    def indent(self) -> str:
        """Return blanks by depth, up to a maximum."""
        return "\u00a0\u00a0" * min(self.depth, DEEPEST)


def panel_html(_request: HttpRequest) -> str:
    """Render the tree as an indented list; of a large tree only the top, breadth first."""
    lines = _lines()
    context = {"lines": lines, "stats": services.stats(), "most": MOST_IN_PANEL}
    return render_to_string("vmtree/_panel.html", context)


def _lines() -> list[Line]:
    """Return the topmost nodes, each below its parent."""
    chosen = _uppermost()
    children: dict[int | None, list[Node]] = {}
    for node in chosen:
        children.setdefault(node.parent_id, []).append(node)
    lines: list[Line] = []
    waiting = [(node, 0) for node in reversed(children.get(None, []))]
    while waiting:
        node, depth = waiting.pop()
        lines.append(Line(node, depth))
        waiting += [(child, depth + 1) for child in reversed(children.get(node.pk, []))]
    return lines


def _uppermost() -> list[Node]:
    """Return as many nodes as are shown, breadth first; LIMIT ends the recursion."""
    roots = "parent_id IS NULL AND removed_at IS NULL"
    sql = f"{below(LINKS, start=roots)} SELECT key FROM line LIMIT %s"
    with connection.cursor() as cursor:
        cursor.execute(sql, [MOST_IN_PANEL])
        keys = [key for (key,) in cursor.fetchall()]
    return list(Node.objects.filter(pk__in=keys))
