"""The tree at an earlier moment, with the changes since then.

Only nodes with a later revision are read from the history, all others from the current tree. The
history does not record liveness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.db.models import Count, Min, QuerySet

from reef_site.common import clock
from reef_site.dashboard.aggregate_health import ROOT
from reef_site.dashboard.side_panel import differences
from reef_site.dashboard.tree_rows import PAGE, Page, TreeRow
from vmtree.models import Node, Revision
from vmtree.queries.nodes import with_ancestors

MAX_LISTED = 100
# Ancestors are marked for at most this many changes.
MAX_FOLLOWED = 5000
# Maximum number of positions of the slider.
MAX_POSITIONS = 2000


@dataclass(frozen=True)
class Slider:
    """Time slider: seconds from the first revision until now, and the handle's position."""

    first: datetime
    span: int
    step: int
    value: int


@dataclass(frozen=True)
class NodeChange:
    """A node that has changed: its revision then (None: not there yet), and the differences."""

    node: Node
    then: Revision | None
    kind: str
    words: list[str]


def slider(at: datetime) -> Slider:
    """Return the slider for the time from the oldest revision until now."""
    now = clock.now()
    first = Revision.objects.aggregate(first=Min("at"))["first"] or now
    span = max(1, int((now - first).total_seconds()) + 1)
    value = min(span, max(0, int((at - first).total_seconds())))
    return Slider(first, span, max(1, span // MAX_POSITIONS), value)


def moment_of(offset: int) -> datetime:
    """Return the moment `offset` seconds after the oldest revision, but not later than now."""
    now = clock.now()
    first: datetime = Revision.objects.aggregate(first=Min("at"))["first"] or now
    # Limited before the addition, which would overflow.
    offset_time = timedelta(seconds=min(offset, int((now - first).total_seconds()) + 1))
    return min(now, first + offset_time)


class PastTree:
    """The tree as it was at one moment."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    @cached_property
    def _later(self) -> QuerySet[Revision, int]:
        """Keys of the nodes that have changed since."""
        return Revision.objects.filter(at__gt=self.at).order_by().values_list("node", flat=True)

    @cached_property
    def then(self) -> dict[int, Revision]:
        """Revisions of changed nodes at that moment, by key; absent nodes have none."""
        found = Revision.objects.newest_until(self.at).filter(node__in=self._later)
        existing = found.exclude(what=Revision.What.REMOVED).select_related("node__parent")
        return {revision.node_id: revision for revision in existing}

    @cached_property
    def since(self) -> list[NodeChange]:
        """All nodes that differ from their state then, newest change first."""
        nodes = Node.objects.filter(pk__in=self._later).select_related("parent")
        found = [_compare(node, self.then.get(node.pk)) for node in nodes.order_by("-updated_at")]
        return [each for each in found if each is not None]

    @cached_property
    def _marks(self) -> dict[int, NodeChange]:
        return {each.node.pk: each for each in self.since}

    @cached_property
    def changed_ancestors(self) -> set[int]:
        """Keys of nodes whose descendants changed."""
        parents = {each.node.parent_id for each in self.since if each.node.parent_id}
        parents |= set(self._keys_of({then.parent_vm_id for then in self.then.values()}))
        return with_ancestors(list(parents)[:MAX_FOLLOWED], most=1000)

    def count(self) -> int:
        """Return how many nodes there were."""
        return self._unchanged().count() + len(self.then)

    def counts(self) -> list[tuple[str, int]]:
        """Return the number of changes since then, by kind."""
        return Counter(each.kind for each in self.since).most_common()

    def _unchanged(self) -> QuerySet[Node]:
        """Return the nodes that existed then and have not changed since."""
        living = Node.objects.active().filter(created_at__lte=self.at)
        return living.exclude(pk__in=self._later)

    def _keys_of(self, vm_ids: set[str | None]) -> dict[int, str]:
        wanted = [each for each in vm_ids if each][:MAX_FOLLOWED]
        return dict(Node.objects.filter(vm_id__in=wanted).values_list("pk", "vm_id"))

    def children(self, key: int, *, position: int = 0, limit: int = PAGE, level: int = 2) -> Page:
        """Return the children of a node (ROOT: the roots) at that moment, oldest first."""
        same = self._unchanged().filter(parent=None if key == ROOT else key)
        total = same.count()
        vm_id = None if key == ROOT else Node.objects.values_list("vm_id", flat=True).get(pk=key)
        other = [_node_at(each) for each in self.then.values() if each.parent_vm_id == vm_id]
        nodes = [*same.order_by("created_at", "pk")[: position + limit], *other]
        nodes.sort(key=lambda node: (node.created_at, node.pk))
        total += len(other)
        shown = nodes[position : position + limit]
        rows = [TreeRow(node, level=level, sibling_count=total) for node in shown]
        for number, row in enumerate(rows, position + 1):
            row.position = number
        self._annotate(rows)
        more = max(0, total - position - len(rows)) if rows else 0
        return Page(rows, more, rows[-1] if rows else None)

    def _annotate(self, rows: Sequence[TreeRow]) -> None:
        """Annotate rows with their child counts then, and with their changes since."""
        keys = [row.node.pk for row in rows]
        child_rows = self._unchanged().filter(parent__in=keys).order_by().values_list("parent")
        counts = Counter(dict(child_rows.annotate(count=Count("pk"))))
        ids = {row.node.vm_id: row.node.pk for row in rows}
        counts.update(ids[each.parent_vm_id] for each in self.then.values()
                      if each.parent_vm_id in ids)  # fmt: skip
        for row in rows:
            row.node.child_count = counts[row.node.pk]  # type: ignore[attr-defined]
            row.state, row.worst = (
                "same",
                "changed" if row.node.pk in self.changed_ancestors else "",
            )
            if mark := self._marks.get(row.node.pk):
                row.state = row.mark = mark.kind
                row.marks = mark.words


def _compare(node: Node, then: Revision | None) -> NodeChange | None:
    """Compare a node with its revision then; return None if there is no difference."""
    if then is None:
        return None if node.removed_at else NodeChange(node, None, "new", [])
    if node.removed_at:
        return NodeChange(node, then, "removed", ["removed since"])
    now = Revision(
        name=node.name,
        category=node.category,
        parent_vm_id=node.parent_vm_id,
        reef_config=node.reef_config,
    )
    words = differences(then, now)
    return NodeChange(node, then, "changed", words) if words else None


def _node_at(revision: Revision) -> Node:
    """Return an unsaved node with the values of a revision."""
    node = revision.node
    return Node(
        pk=node.pk,
        vm_id=node.vm_id,
        name=revision.name,
        category=revision.category,
        reef_config=revision.reef_config,
        created_at=node.created_at,
        updated_at=revision.at,
        removed_at=None,
    )
