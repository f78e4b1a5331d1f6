"""The tree from above: boxes in boxes, VMs without children as chips. Sizes are pixels.

Boxes flow into rows as words flow into lines. A picture of 1,000 VMs keeps their names readable;
of larger trees the uppermost are drawn, and what is left out is counted where it hangs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import connection
from django.db.models import QuerySet
from django.db.models.expressions import RawSQL

from reef_site.common.text import clip
from reef_site.fleet import below, lines
from reef_site.fleet.lines import Line, Moment
from vmtree import lineage
from vmtree.models import LINKS, Node

MOST = 1000
# Boxes inside boxes; what lies deeper is counted.
MOST_LEVELS = 10
USUAL_WIDTH = 1340
LEAST_WIDTH = 240

CHIP, HIGH, GAP = 124, 20, 4
PAD, TITLE = 8, 24
LETTER = 6.3


@dataclass
class Shape:
    """A chip, or a box with a title and shapes in it."""

    line: Line
    inside: list[Shape] = field(default_factory=list)
    x: int = 0
    y: int = 0
    width: int = CHIP
    height: int = HIGH
    # How many hang below it that are not drawn.
    left_out: int = 0

    @property
    def is_box(self) -> bool:
        """Whether others lie in it."""
        return bool(self.inside)

    @property
    def name(self) -> str:
        """As much of its name as fits."""
        name = self.line.node.name or self.line.node.vm_id
        room = self.width - 24 - (42 if self.left_out else 0)
        most = max(3, int(room / LETTER))
        return clip(name, most)

    @property
    def right(self) -> int:
        """Where text that is set to the right ends."""
        return self.x + self.width - 6

    @property
    def middle(self) -> int:
        """The line that the title is written along."""
        return self.y + (TITLE if self.is_box else HIGH) // 2

    @property
    def sign(self) -> str:
        """Points of its state's outline, around the middle of the sign's place."""
        cx, cy = self.x + 10, self.middle
        points = OUTLINES.get(self.line.state, OUTLINES["unknown"])
        return " ".join(f"{cx + x},{cy + y}" for x, y in points)


def _circle(radius: float) -> list[tuple[float, float]]:
    turns = [turn / 8 * math.pi for turn in range(16)]
    return [
        (round(radius * math.cos(turn), 1), round(radius * math.sin(turn), 1)) for turn in turns
    ]


# A form for each state: what colours say, forms say too.
OUTLINES: dict[str, list[tuple[float, float]]] = {
    "live": _circle(5),
    "late": [(0, -6), (6, 0), (0, 6), (-6, 0)],
    "silent": [(0, -5.5), (6, 5), (-6, 5)],
    "error": [(-5, -5), (0, -1.5), (5, -5), (1.5, 0), (5, 5), (0, 1.5), (-5, 5), (-1.5, 0)],
    "paused": [
        *((-4, -5), (-1, -5), (-1, 5), (-4, 5), (-4, -5)),
        *((1, -5), (4, -5), (4, 5), (1, 5), (1, -5)),
    ],
    "stopped": [(-4.5, -4.5), (4.5, -4.5), (4.5, 4.5), (-4.5, 4.5)],
    "unknown": [(-5, -1), (5, -1), (5, 1), (-5, 1)],
}


@dataclass(frozen=True)
class Drawing:
    """The whole picture: its shapes, each box before what lies in it."""

    shapes: list[Shape]
    width: int
    height: int
    # How many are not in it; of a part of the tree only whether (1) any are.
    left_out: int


def draw(
    top: Node | None, moment: Moment, width: int, matches: QuerySet[Node] | None = None
) -> Drawing:
    """The picture of all, or of a node and all below it, no wider than this.

    With `matches` only of these and of what stands above them.
    """
    keys = _uppermost(top) if matches is None else _matching(top, matches)
    cut, keys = len(keys) > MOST, keys[:MOST]
    found = lines.in_order(lines.some(keys, moment), first_level=0)
    tops = _nested(found)
    height = _flow(tops, width)
    _move(tops)
    shapes = _flat(tops)
    is_part = top is not None or matches is not None
    return Drawing(shapes, width, height, int(cut) if is_part else _left_out(len(shapes)))


def _uppermost(top: Node | None) -> list[int]:
    """Breadth first, one more than is drawn."""
    start = "" if top else f"parent_id IS NULL AND {LINKS.living}"
    sql = f"{lineage.below(LINKS, start=start)} SELECT key FROM line LIMIT %s"
    with connection.cursor() as cursor:
        cursor.execute(sql, [*([top.pk] if top else []), MOST + 1])
        return [key for (key,) in cursor.fetchall()]


def _matching(top: Node | None, matches: QuerySet[Node]) -> list[int]:
    """The oldest matches and what stands above them, up to `top`; about as many as are drawn."""
    if top is not None:
        inside = RawSQL(f"{lineage.below(LINKS)} SELECT key FROM line", [top.pk])  # noqa: S611
        matches = matches.filter(pk__in=inside)
    keys = list(matches.order_by("pk").values_list("pk", flat=True)[: MOST + 1])
    above = below.above(keys, MOST_LEVELS)
    if top is not None:
        above -= below.above([top.pk], MOST_LEVELS) - {top.pk}
    return sorted(above)


def _nested(found: Sequence[Line]) -> list[Shape]:
    """Shapes in shapes, down to the deepest level that is drawn."""
    shapes: dict[int, Shape] = {}
    tops = []
    for line in found:
        if line.level > MOST_LEVELS:
            continue
        shape = shapes[line.node.pk] = Shape(line, left_out=line.children)
        if line.level == 0:
            tops.append(shape)
        elif parent := shapes.get(line.node.parent_id or below.ROOF):
            parent.inside.append(shape)
            parent.left_out -= 1
    return tops


def _left_out(drawn: int) -> int:
    """How many of the whole tree are not in the picture."""
    return max(0, Node.objects.living().count() - drawn)


# -- putting in place ----------------------------------------------------------------------------


def _flow(shapes: Sequence[Shape], width: int) -> int:
    """Put shapes side by side, from left to right in rows; the height of all. Boxes come last."""
    x = y = row = 0
    for shape in sorted(shapes, key=lambda shape: shape.is_box):
        _size(shape, width)
        starts_row = x and (x + shape.width > width or (shape.is_box and row == HIGH))
        if starts_row:
            x, y, row = 0, y + row + GAP, 0
        shape.x, shape.y = x, y
        x += shape.width + GAP
        row = max(row, shape.height)
    return y + row


def _size(shape: Shape, most: int) -> None:
    """Make a box about as wide as high, around what lies in it."""
    if not shape.is_box:
        shape.width = min(CHIP, most)
        return
    room = max(CHIP, min(most - 2 * PAD, _good_width(shape)))
    height = _flow(shape.inside, room)
    used = max(each.x + each.width for each in shape.inside)
    shape.width = min(most, max(used, CHIP) + 2 * PAD)
    shape.height = TITLE + height + PAD


def _good_width(shape: Shape) -> int:
    count = _count(shape)
    columns = max(1, math.ceil(math.sqrt(count / 3)))
    return columns * (CHIP + GAP) - GAP


def _count(shape: Shape) -> int:
    """How many shapes lie in it, at whatever level."""
    return sum(1 + _count(each) for each in shape.inside)


def _move(shapes: Sequence[Shape]) -> None:
    """From places inside the box to places in the picture."""
    for shape in shapes:
        for each in shape.inside:
            each.x, each.y = each.x + shape.x + PAD, each.y + shape.y + TITLE
        _move(shape.inside)


def _flat(shapes: Sequence[Shape]) -> list[Shape]:
    return [one for shape in shapes for one in (shape, *_flat(shape.inside))]
