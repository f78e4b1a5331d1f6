"""Rows of the live tree: nodes annotated with registry and lieutenant data.

The number of statements does not depend on the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Count, IntegerField, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce

from lieutenants.models import Lieutenant
from reef_site.common import clock
from reef_site.fleet import below
from reef_site.fleet.below import ROOF
from reef_site.fleet.states import state_of
from registry.models import VM, Watch
from vmtree.models import Node, NodeQuerySet

PAGE = 50
MOST_AT_ONCE = 500
MOST_MATCHES = 50
MOST_COUNTED = 1000
# Ancestors shown above a match; a deeper match hangs below an ellipsis.
MOST_ABOVE = 12
MOST_NAMES = 3
DEEPEST = 24


@dataclass
class Line:
    """One node as a row of the tree."""

    node: Node
    level: int = 2
    place: int = 0
    of: int = 0
    state: str = "unknown"
    vm: VM | None = None
    lieutenant: Lieutenant | None = None
    worst: str = ""
    is_open: bool = False
    is_match: bool = False
    is_cut: bool = False
    mark: str = ""
    marks: list[str] = field(default_factory=list)

    @property
    def children(self) -> int:
        """Number of active children."""
        return int(getattr(self.node, "child_count", 0))

    @property
    def shape(self) -> str:
        """Text that changes when the set of children does."""
        return f"{self.children}.{getattr(self.node, 'child_sum', 0)}"

    @property
    def step(self) -> int:
        """Indentation, limited for very deep rows."""
        return min(self.level, DEEPEST)

    @property
    def dna(self) -> list[tuple[str, str]]:
        """The first organs and capabilities, as pairs of kind and name."""
        return self._names[:MOST_NAMES]

    @property
    def dna_more(self) -> int:
        """Number of organs and capabilities that are not shown."""
        return max(0, len(self._names) - MOST_NAMES)

    @property
    def dna_words(self) -> str:
        """All organs and capabilities in words."""
        organs, capabilities = self.node.organs, self.node.capabilities
        parts = [("organs", organs), ("capabilities", capabilities)]
        return " · ".join(f"{kind}: {', '.join(names)}" for kind, names in parts if names)

    @property
    def _names(self) -> list[tuple[str, str]]:
        organs = [("organ", name) for name in self.node.organs]
        return organs + [("capability", name) for name in self.node.capabilities]


@dataclass(frozen=True)
class Moment:
    """Time at which rows are read, and whether silence is tolerated then."""

    at: datetime
    grace: bool

    @classmethod
    def now(cls) -> Moment:
        """Return the current moment."""
        at = clock.now()
        return cls(at, Watch.grace(at))


@dataclass(frozen=True)
class Page:
    """One page of rows: how many more there are, and the last row to continue after."""

    lines: list[Line]
    more: int = 0
    last: Line | None = None


def counted(nodes: QuerySet[Node]) -> QuerySet[Node]:
    """Annotate nodes with the number of active children, and a sum that changes with the set."""
    mine = Node.objects.living().filter(parent=OuterRef("pk")).order_by().values("parent")
    count, total = mine.annotate(n=Count("pk")).values("n"), mine.annotate(n=Sum("pk")).values("n")
    return nodes.annotate(
        child_count=Coalesce(Subquery(count, output_field=IntegerField()), Value(0)),
        child_sum=Coalesce(Subquery(total, output_field=IntegerField()), Value(0)),
    )


def children(
    parent: int,
    moment: Moment,
    *,
    after: int = 0,
    place: int = 0,
    limit: int = PAGE,
    level: int = 2,
) -> Page:
    """Return active children of a node (ROOF: the roots), oldest first, after the node `after`."""
    siblings = _siblings(parent)
    total = siblings.count()
    found = siblings.order_by("created_at", "pk")
    last = Node.objects.filter(pk=after).first() if after else None
    if last is not None:
        same = Q(created_at=last.created_at, pk__gt=last.pk)
        found = found.filter(same | Q(created_at__gt=last.created_at))
    lines = [Line(node, level=level, of=total) for node in counted(found)[:limit]]
    for number, line in enumerate(lines, place + 1):
        line.place = number
    dress(lines, moment)
    more = max(0, total - place - len(lines)) if lines else 0
    return Page(lines, more, lines[-1] if lines else None)


def _siblings(parent: int) -> NodeQuerySet:
    living = Node.objects.living()
    return living.roots() if parent == ROOF else living.filter(parent=parent)


def some(keys: Iterable[int], moment: Moment) -> list[Line]:
    """Return rows of the active nodes among these keys."""
    nodes = counted(Node.objects.living().filter(pk__in=list(keys)))
    lines = [Line(node) for node in nodes]
    dress(lines, moment)
    return lines


def dress(lines: Sequence[Line], moment: Moment) -> None:
    """Annotate rows with registry VM, lieutenant, state, and the worst state of descendants."""
    vms = VM.objects.in_bulk([line.node.vm_id for line in lines])
    enlisted = lieutenants_of([line.node.vm_id for line in lines])
    keys = [line.node.pk for line in lines if line.children]
    worst = below.worst_below(keys, moment.at, grace=moment.grace)
    for line in lines:
        line.vm, line.lieutenant = vms.get(line.node.vm_id), enlisted.get(line.node.vm_id)
        line.state = state_of(line.vm, line.lieutenant, moment.at, grace=moment.grace)
        line.worst = worst.get(line.node.pk, "")


def lieutenants_of(vm_ids: Sequence[str]) -> dict[str, Lieutenant]:
    """Map VM ids to their lieutenants."""
    return Lieutenant.objects.in_bulk(list(vm_ids))


# -- search results ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Matches with their ancestors, as rows in tree order."""

    lines: list[Line]
    count: int
    # Whether there are more matches than `count`.
    is_many: bool
    following: int | None


def matches(nodes: QuerySet[Node], moment: Moment, *, after: int = 0) -> Found:
    """Return the next matches after the node `after`, oldest first."""
    behind = nodes.filter(pk__gt=after) if after else nodes
    keys = list(behind.order_by("pk").values_list("pk", flat=True)[: MOST_MATCHES + 1])
    shown, more = keys[:MOST_MATCHES], len(keys) > MOST_MATCHES
    lines = some(below.above(shown, MOST_ABOVE), moment)
    for line in lines:
        line.is_match = line.node.pk in set(shown)
    count = nodes[: MOST_COUNTED + 1].count()
    return Found(
        in_order(lines), min(count, MOST_COUNTED), count > MOST_COUNTED, shown[-1] if more else None
    )


def in_order(lines: Sequence[Line], first_level: int = 2) -> list[Line]:
    """Sort rows into tree order, siblings oldest first, and set their levels."""
    here = {line.node.pk for line in lines}
    groups: dict[int, list[Line]] = {}
    for line in sorted(lines, key=lambda line: (line.node.created_at, line.node.pk)):
        parent = line.node.parent_id or ROOF
        line.is_cut = parent != ROOF and parent not in here
        groups.setdefault(ROOF if line.is_cut else parent, []).append(line)
    found: list[Line] = []
    waiting = [(line, first_level) for line in reversed(groups.get(ROOF, []))]
    while waiting:
        line, level = waiting.pop()
        mine = groups.get(line.node.pk, [])
        line.level, line.is_open = level, bool(mine)
        found.append(line)
        waiting += [(child, level + 1) for child in reversed(mine)]
    _number(groups.values())
    return found


def _number(groups: Iterable[list[Line]]) -> None:
    for group in groups:
        for place, line in enumerate(group, 1):
            line.place, line.of = place, len(group)
