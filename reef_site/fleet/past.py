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
from reef_site.fleet import below
from reef_site.fleet.below import ROOF
from reef_site.fleet.facts import differences
from reef_site.fleet.lines import PAGE, Line, Page
from vmtree.models import Node, Revision

MOST_LISTED = 100
# Ancestors are marked for at most this many changes.
MOST_FOLLOWED = 5000
# Maximum number of positions of the slider.
NOTCHES = 2000


@dataclass(frozen=True)
class Slider:
    """Time slider: seconds from the first revision until now, and the handle's position."""

    first: datetime
    span: int
    step: int
    value: int


@dataclass(frozen=True)
class Since:
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
    return Slider(first, span, max(1, span // NOTCHES), value)


def moment_of(offset: int) -> datetime:
    """Return the moment `offset` seconds after the oldest revision, but not later than now."""
    now = clock.now()
    first: datetime = Revision.objects.aggregate(first=Min("at"))["first"] or now
    # Limited before the addition, which would overflow.
    behind = timedelta(seconds=min(offset, int((now - first).total_seconds()) + 1))
    return min(now, first + behind)


class Past:
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
        there = found.exclude(what=Revision.What.REMOVED).select_related("node__parent")
        return {revision.node_id: revision for revision in there}

    @cached_property
    def since(self) -> list[Since]:
        """All nodes that differ from their state then, newest change first."""
        nodes = Node.objects.filter(pk__in=self._later).select_related("parent")
        found = [_since(node, self.then.get(node.pk)) for node in nodes.order_by("-updated_at")]
        return [each for each in found if each is not None]

    @cached_property
    def _marks(self) -> dict[int, Since]:
        return {each.node.pk: each for each in self.since}

    @cached_property
    def touched(self) -> set[int]:
        """Keys of nodes whose descendants changed."""
        parents = {each.node.parent_id for each in self.since if each.node.parent_id}
        parents |= set(self._keys_of({then.parent_vm_id for then in self.then.values()}))
        return below.above(list(parents)[:MOST_FOLLOWED], most=1000)

    def count(self) -> int:
        """Return how many nodes there were."""
        return self._same().count() + len(self.then)

    def counts(self) -> list[tuple[str, int]]:
        """Return the number of changes since then, by kind."""
        return Counter(each.kind for each in self.since).most_common()

    def _same(self) -> QuerySet[Node]:
        """Return the nodes that existed then and have not changed since."""
        living = Node.objects.living().filter(created_at__lte=self.at)
        return living.exclude(pk__in=self._later)

    def _keys_of(self, vm_ids: set[str | None]) -> dict[int, str]:
        wanted = [each for each in vm_ids if each][:MOST_FOLLOWED]
        return dict(Node.objects.filter(vm_id__in=wanted).values_list("pk", "vm_id"))

    def children(self, key: int, *, place: int = 0, limit: int = PAGE, level: int = 2) -> Page:
        """Return the children of a node (ROOF: the roots) at that moment, oldest first."""
        same = self._same().filter(parent=None if key == ROOF else key)
        total = same.count()
        vm_id = None if key == ROOF else Node.objects.values_list("vm_id", flat=True).get(pk=key)
        other = [_as_then(each) for each in self.then.values() if each.parent_vm_id == vm_id]
        nodes = [*same.order_by("created_at", "pk")[: place + limit], *other]
        nodes.sort(key=lambda node: (node.created_at, node.pk))
        total += len(other)
        shown = nodes[place : place + limit]
        lines = [Line(node, level=level, of=total) for node in shown]
        for number, line in enumerate(lines, place + 1):
            line.place = number
        self._dress(lines)
        more = max(0, total - place - len(lines)) if lines else 0
        return Page(lines, more, lines[-1] if lines else None)

    def _dress(self, lines: Sequence[Line]) -> None:
        """Annotate rows with their child counts then, and with their changes since."""
        keys = [line.node.pk for line in lines]
        rows = self._same().filter(parent__in=keys).order_by().values_list("parent")
        counts = Counter(dict(rows.annotate(count=Count("pk"))))
        ids = {line.node.vm_id: line.node.pk for line in lines}
        counts.update(ids[each.parent_vm_id] for each in self.then.values()
                      if each.parent_vm_id in ids)  # fmt: skip
        for line in lines:
            line.node.child_count = counts[line.node.pk]  # type: ignore[attr-defined]
            line.state, line.worst = "same", "changed" if line.node.pk in self.touched else ""
            if mark := self._marks.get(line.node.pk):
                line.state = line.mark = mark.kind
                line.marks = mark.words


def _since(node: Node, then: Revision | None) -> Since | None:
    """Compare a node with its revision then; return None if there is no difference."""
    if then is None:
        return None if node.removed_at else Since(node, None, "new", [])
    if node.removed_at:
        return Since(node, then, "removed", ["removed since"])
    now = Revision(
        name=node.name,
        category=node.category,
        parent_vm_id=node.parent_vm_id,
        reef_config=node.reef_config,
    )
    words = differences(then, now)
    return Since(node, then, "changed", words) if words else None


def _as_then(revision: Revision) -> Node:
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
