"""The map of the tree: nested boxes, VMs without children as chips. Sizes are pixels.

Boxes flow into rows like words into lines. Up to 1,000 VMs their names are readable; of larger
trees the uppermost nodes are drawn, and each box counts the omitted ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db.models import QuerySet

from reef_site.common.text import clip
from reef_site.dashboard import aggregate_health, tree_rows
from reef_site.dashboard.tree_rows import Moment, TreeRow
from vmtree.models import LINKS, Node
from vmtree.names import marked
from vmtree.queries import nodes, recursion

MAX_SHAPES = 1000
# Depth of nested boxes; deeper nodes are counted only.
MAX_LEVELS = 10
DEFAULT_WIDTH = 1340
MIN_WIDTH = 240

CHIP_WIDTH, CHIP_HEIGHT, GAP = 124, 20, 4
PADDING, TITLE_HEIGHT = 8, 24
LETTER_WIDTH = 6.3


@dataclass
class Shape:
    """A chip, or a box with a title and nested shapes."""

    row: TreeRow
    children: list[Shape] = field(default_factory=list)
    x: int = 0
    y: int = 0
    width: int = CHIP_WIDTH
    height: int = CHIP_HEIGHT
    # Number of children that are not drawn.
    left_out: int = 0

    @property
    def is_box(self) -> bool:
        """Return whether it contains other shapes."""
        return bool(self.children)

    @property
    def name(self) -> str:
        """Name, shortened to the width."""
        name = self.row.node.name or self.row.node.vm_id
        room = self.width - 24 - (42 if self.left_out else 0)
        most = max(3, int(room / LETTER_WIDTH))
        return clip(name, most)

    @property
    def summary(self) -> str:
        """Text of the tooltip."""
        node = self.row.node
        parts = [
            marked(node.name or node.vm_id),
            str(node.get_category_display()),
            self.row.state,
            self.row.dna_words,
            f"{self.left_out} below not drawn" if self.left_out else "",
            f"worst below: {self.row.worst}" if self.row.worst else "",
        ]
        return " · ".join(part for part in parts if part)

    @property
    def classes(self) -> str:
        """CSS classes: box or chip, state and category."""
        kind = "box" if self.is_box else "chip"
        return f"{kind} is-{self.row.state} of-{self.row.node.category}"

    @property
    def place(self) -> str:
        """SVG transformation to the middle of the title's left edge."""
        return f"translate({self.x} {self.y + self.title_middle})"

    @property
    def title_middle(self) -> int:
        """Y coordinate of the title's middle inside the shape."""
        return (TITLE_HEIGHT if self.is_box else CHIP_HEIGHT) // 2

    @property
    def text_end(self) -> int:
        """X coordinate inside the shape at which right-aligned text ends."""
        return self.width - 6

    @property
    def icon_points(self) -> str:
        """SVG points of the state's icon around its middle."""
        return OUTLINES.get(self.row.state, OUTLINES["unknown"])


def _circle(radius: float) -> list[tuple[float, float]]:
    turns = [turn / 8 * math.pi for turn in range(16)]
    return [
        (round(radius * math.cos(turn), 1), round(radius * math.sin(turn), 1)) for turn in turns
    ]


def _svg_points(*points: tuple[float, float]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


# A shape for each state, so that colour is not the only distinction.
OUTLINES = {
    "live": _svg_points(*_circle(5)),
    "late": _svg_points((0, -6), (6, 0), (0, 6), (-6, 0)),
    "silent": _svg_points((0, -5.5), (6, 5), (-6, 5)),
    "error": _svg_points(
        *((-5, -5), (0, -1.5), (5, -5), (1.5, 0)),
        *((5, 5), (0, 1.5), (-5, 5), (-1.5, 0)),
    ),
    "paused": _svg_points(
        *((-4, -5), (-1, -5), (-1, 5), (-4, 5), (-4, -5)),
        *((1, -5), (4, -5), (4, 5), (1, 5), (1, -5)),
    ),
    "stopped": _svg_points((-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)),
    "unknown": _svg_points((-5, -1), (5, -1), (5, 1), (-5, 1)),
}


@dataclass(frozen=True)
class Drawing:
    """The whole map: its shapes, each box before its contents."""

    shapes: list[Shape]
    width: int
    height: int
    # Number of omitted nodes; for a part of the tree 1 if there are any.
    left_out: int


def draw(
    top: Node | None, moment: Moment, width: int, matches: QuerySet[Node] | None = None
) -> Drawing:
    """Draw the whole tree, or a node with its descendants, at most `width` pixels wide.

    With `matches`, draw only those nodes and their ancestors.
    """
    keys = _uppermost(top) if matches is None else _matching(top, matches)
    cut, keys = len(keys) > MAX_SHAPES, keys[:MAX_SHAPES]
    found = tree_rows.in_order(tree_rows.rows_for(keys, moment), first_level=0)
    tops = _build_shapes(found)
    height = _layout(tops, width)
    _make_absolute(tops)
    shapes = _flatten(tops)
    is_part = top is not None or matches is not None
    return Drawing(shapes, width, height, int(cut) if is_part else _count_left_out(len(shapes)))


def _uppermost(top: Node | None) -> list[int]:
    """Return keys of nodes breadth first, at most one more than is drawn."""
    return nodes.uppermost_keys(top.pk if top else None, MAX_SHAPES + 1)


def _matching(top: Node | None, matches: QuerySet[Node]) -> list[int]:
    """Return keys of the oldest matches and their ancestors up to `top`, about as many as drawn."""
    if top is not None:
        matches = matches.filter(pk__in=recursion.descendants(LINKS, top.pk))
    keys = list(matches.order_by("pk").values_list("pk", flat=True)[: MAX_SHAPES + 1])
    above = nodes.with_ancestors(keys, MAX_LEVELS)
    if top is not None:
        above -= nodes.with_ancestors([top.pk], MAX_LEVELS) - {top.pk}
    return sorted(above)


def _build_shapes(found: Sequence[TreeRow]) -> list[Shape]:
    """Return the outermost shapes, with nested shapes down to MOST_LEVELS."""
    shapes: dict[int, Shape] = {}
    tops = []
    for row in found:
        if row.level > MAX_LEVELS:
            continue
        shape = shapes[row.node.pk] = Shape(row, left_out=row.children)
        if row.level == 0:
            tops.append(shape)
        elif parent := shapes.get(row.node.parent_id or aggregate_health.ROOT):
            parent.children.append(shape)
            parent.left_out -= 1
    return tops


def _count_left_out(drawn: int) -> int:
    """Return how many nodes of the whole tree are not drawn."""
    return max(0, Node.objects.active().count() - drawn)


# -- layout --------------------------------------------------------------------------------------


def _layout(shapes: Sequence[Shape], width: int) -> int:
    """Place shapes in rows from left to right, boxes last; return the total height."""
    x = y = row_height = 0
    for shape in sorted(shapes, key=lambda shape: shape.is_box):
        _size(shape, width)
        starts_row = x and (x + shape.width > width or (shape.is_box and row_height == CHIP_HEIGHT))
        if starts_row:
            x, y, row_height = 0, y + row_height + GAP, 0
        shape.x, shape.y = x, y
        x += shape.width + GAP
        row_height = max(row_height, shape.height)
    return y + row_height


def _size(shape: Shape, most: int) -> None:
    """Size a box around its contents, about as wide as high."""
    if not shape.is_box:
        shape.width = min(CHIP_WIDTH, most)
        return
    room = max(CHIP_WIDTH, min(most - 2 * PADDING, _ideal_width(shape)))
    height = _layout(shape.children, room)
    used = max(each.x + each.width for each in shape.children)
    shape.width = min(most, max(used, CHIP_WIDTH) + 2 * PADDING)
    shape.height = TITLE_HEIGHT + height + PADDING


def _ideal_width(shape: Shape) -> int:
    count = _count(shape)
    columns = max(1, math.ceil(math.sqrt(count / 3)))
    return columns * (CHIP_WIDTH + GAP) - GAP


def _count(shape: Shape) -> int:
    """Return how many shapes it contains, at all levels."""
    return sum(1 + _count(each) for each in shape.children)


def _make_absolute(shapes: Sequence[Shape]) -> None:
    """Convert positions inside boxes to positions on the map."""
    for shape in shapes:
        for each in shape.children:
            each.x, each.y = each.x + shape.x + PADDING, each.y + shape.y + TITLE_HEIGHT
        _make_absolute(shape.children)


def _flatten(shapes: Sequence[Shape]) -> list[Shape]:
    return [one for shape in shapes for one in (shape, *_flatten(shape.children))]
