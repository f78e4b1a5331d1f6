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
from lieutenants.transcript.last_turns import last_turns
from reef_site.common import clock
from reef_site.common.lists.sorting import Sorting
from reef_site.dashboard import aggregate_health
from reef_site.dashboard.aggregate_health import ROOT
from reef_site.dashboard.states import state_of
from reef_site.dashboard.tree_order import BY_AGE
from registry.models import VM, Watch
from vmtree.models import Node, NodeQuerySet
from vmtree.queries.nodes import with_ancestors

PAGE = 50
MAX_PAGE_SIZE = 500
MAX_MATCHES = 50
MAX_COUNTED = 1000
# Ancestors shown above a match; a deeper match hangs below an ellipsis.
MAX_ANCESTORS = 12
MAX_NAMES = 3
MAX_INDENT = 24


@dataclass(frozen=True)
class Rest:
    """Children of the node `parent` that are not shown: how many, and the last one that is."""

    parent: int
    count: int
    last: TreeRow


@dataclass
class TreeRow:
    """One node as a row of the tree."""

    node: Node
    level: int = 2
    position: int = 0
    sibling_count: int = 0
    state: str = "unknown"
    vm: VM | None = None
    lieutenant: Lieutenant | None = None
    worst: str = ""
    is_open: bool = False
    is_match: bool = False
    is_detached: bool = False
    mark: str = ""
    marks: list[str] = field(default_factory=list)
    # The rest of the children of nodes whose shown children end here, innermost first.
    rests: list[Rest] = field(default_factory=list)

    @property
    def children(self) -> int:
        """Number of active children."""
        return int(getattr(self.node, "child_count", 0))

    @property
    def shape(self) -> str:
        """Text that changes when the set of children does."""
        return f"{self.children}.{getattr(self.node, 'child_sum', 0)}"

    @property
    def indent(self) -> int:
        """Indentation, limited for very deep rows."""
        return min(self.level, MAX_INDENT)

    @property
    def dna(self) -> list[tuple[str, str]]:
        """The first organs and capabilities, as pairs of kind and name."""
        return self._names[:MAX_NAMES]

    @property
    def dna_more(self) -> int:
        """Number of organs and capabilities that are not shown."""
        return max(0, len(self._names) - MAX_NAMES)

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

    rows: list[TreeRow]
    more: int = 0
    last: TreeRow | None = None


def counted(nodes: QuerySet[Node]) -> QuerySet[Node]:
    """Annotate nodes with the number of active children, and a sum that changes with the set."""
    mine = Node.objects.active().filter(parent=OuterRef("pk")).order_by().values("parent")
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
    position: int = 0,
    limit: int = PAGE,
    level: int = 2,
    order: Sorting = BY_AGE,
) -> Page:
    """Return active children of a node (ROOT: the roots) in an order.

    The page begins after the node `after`, the one at `position`; by age it is found by its key, so
    that siblings that are gone by now do not matter.
    """
    siblings = _siblings(parent)
    total = siblings.count()
    found = order.apply(siblings)
    last = Node.objects.filter(pk=after).first() if after and order == BY_AGE else None
    if last is not None:
        same_time = Q(created_at=last.created_at, pk__gt=last.pk)
        found = found.filter(same_time | Q(created_at__gt=last.created_at))
    first = 0 if last is not None else position
    nodes = counted(found)[first : first + limit]
    rows = [TreeRow(node, level=level, sibling_count=total) for node in nodes]
    for number, row in enumerate(rows, position + 1):
        row.position = number
    annotate(rows, moment)
    more = max(0, total - position - len(rows)) if rows else 0
    return Page(rows, more, rows[-1] if rows else None)


def _siblings(parent: int) -> NodeQuerySet:
    living = Node.objects.active()
    return living.roots() if parent == ROOT else living.filter(parent=parent)


def rows_for(keys: Iterable[int], moment: Moment, *, order: Sorting = BY_AGE) -> list[TreeRow]:
    """Return rows of the active nodes among these keys, in an order."""
    nodes = order.apply(counted(Node.objects.active().filter(pk__in=list(keys))))
    rows = [TreeRow(node) for node in nodes]
    annotate(rows, moment)
    return rows


def annotate(rows: Sequence[TreeRow], moment: Moment) -> None:
    """Annotate rows with registry VM, lieutenant, state, and the worst state of descendants."""
    vms = VM.objects.in_bulk([row.node.vm_id for row in rows])
    lieutenants = lieutenants_of([row.node.vm_id for row in rows])
    turns = last_turns(list(lieutenants))
    for pk, lieutenant in lieutenants.items():
        lieutenant.last_turn = turns.get(pk)
    keys = [row.node.pk for row in rows if row.children]
    worst = aggregate_health.worst_descendant_states(keys, moment.at, grace=moment.grace)
    for row in rows:
        row.vm, row.lieutenant = vms.get(row.node.vm_id), lieutenants.get(row.node.vm_id)
        row.state = state_of(row.vm, row.lieutenant, moment.at, grace=moment.grace)
        row.worst = worst.get(row.node.pk, "")


def lieutenants_of(vm_ids: Sequence[str]) -> dict[str, Lieutenant]:
    """Map VM ids to their lieutenants."""
    return Lieutenant.objects.in_bulk(list(vm_ids))


# -- search results ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """Matches with their ancestors, as rows in tree order."""

    rows: list[TreeRow]
    count: int
    # Whether there are more matches than `count`.
    is_many: bool
    next_key: int | None


def matches(
    nodes: QuerySet[Node], moment: Moment, *, after: int = 0, order: Sorting = BY_AGE
) -> Found:
    """Return the next matches after the node `after`; `order` is that of siblings."""
    remaining = nodes.filter(pk__gt=after) if after else nodes
    keys = list(remaining.order_by("pk").values_list("pk", flat=True)[: MAX_MATCHES + 1])
    shown, more = keys[:MAX_MATCHES], len(keys) > MAX_MATCHES
    rows = rows_for(with_ancestors(shown, MAX_ANCESTORS), moment, order=order)
    for row in rows:
        row.is_match = row.node.pk in set(shown)
    count = nodes[: MAX_COUNTED + 1].count()
    return Found(
        in_order(rows), min(count, MAX_COUNTED), count > MAX_COUNTED, shown[-1] if more else None
    )


def in_order(rows: Sequence[TreeRow], first_level: int = 2) -> list[TreeRow]:
    """Sort rows into tree order, siblings in the order of `rows`, and set their levels."""
    keys = {row.node.pk for row in rows}
    groups: dict[int, list[TreeRow]] = {}
    for row in rows:
        parent = row.node.parent_id or ROOT
        row.is_detached = parent != ROOT and parent not in keys
        groups.setdefault(ROOT if row.is_detached else parent, []).append(row)
    found: list[TreeRow] = []
    stack = [(row, first_level) for row in reversed(groups.get(ROOT, []))]
    while stack:
        row, level = stack.pop()
        mine = groups.get(row.node.pk, [])
        row.level, row.is_open = level, bool(mine)
        found.append(row)
        stack += [(child, level + 1) for child in reversed(mine)]
    _number(groups.values())
    return found


def _number(groups: Iterable[list[TreeRow]]) -> None:
    for group in groups:
        for position, row in enumerate(group, 1):
            row.position, row.sibling_count = position, len(group)
