"""Fragments of the tree for other pages."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest
from django.template.loader import render_to_string

from vmtree import services
from vmtree.models import Node
from vmtree.queries.nodes import uppermost_keys

MAX_PANEL_ROWS = 500
MAX_INDENT = 40


@dataclass(frozen=True)
class PanelRow:
    """A node of an indented list."""

    node: Node
    depth: int

    @property
    def indent(self) -> str:
        """Return blanks by depth, up to a maximum."""
        return "\u00a0\u00a0" * min(self.depth, MAX_INDENT)


def panel_html(_request: HttpRequest) -> str:
    """Render the tree as an indented list; of a large tree only the top, breadth first."""
    rows = _panel_rows()
    context = {"lines": rows, "stats": services.stats(), "most": MAX_PANEL_ROWS}
    return render_to_string("vmtree/_panel.html", context)


def _panel_rows() -> list[PanelRow]:
    """Return the topmost nodes, each below its parent."""
    chosen = _topmost()
    children: dict[int | None, list[Node]] = {}
    for node in chosen:
        children.setdefault(node.parent_id, []).append(node)
    rows: list[PanelRow] = []
    waiting = [(node, 0) for node in reversed(children.get(None, []))]
    while waiting:
        node, depth = waiting.pop()
        rows.append(PanelRow(node, depth))
        waiting += [(child, depth + 1) for child in reversed(children.get(node.pk, []))]
    return rows


def _topmost() -> list[Node]:
    """Return as many nodes as are shown, breadth first."""
    keys = uppermost_keys(None, MAX_PANEL_ROWS)
    return list(Node.objects.filter(pk__in=keys))
