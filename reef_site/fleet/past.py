"""The tree at an earlier moment, with what changed since.

What did not change since then is still as it was: so only nodes with a later revision are looked
up in the history, all others in the tree of now. How VMs answered then is not kept.
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
# From so many changes marks are followed up to the roof.
MOST_FOLLOWED = 5000
# How many places the slider has at most.
NOTCHES = 2000


@dataclass(frozen=True)
class Slider:
    """Seconds from the first change there is until now, and where the handle stands."""

    first: datetime
    span: int
    step: int
    value: int


@dataclass(frozen=True)
class Since:
    """A node that is other than it was: what it was then (None: not there), and in what."""

    node: Node
    then: Revision | None
    kind: str
    words: list[str]


def slider(at: datetime) -> Slider:
    """For the time from the oldest revision to now."""
    now = clock.now()
    first = Revision.objects.aggregate(first=Min("at"))["first"] or now
    span = max(1, int((now - first).total_seconds()) + 1)
    value = min(span, max(0, int((at - first).total_seconds())))
    return Slider(first, span, max(1, span // NOTCHES), value)


def moment_of(offset: int) -> datetime:
    """The moment so many seconds behind the oldest revision; never later than now."""
    now = clock.now()
    first: datetime = Revision.objects.aggregate(first=Min("at"))["first"] or now
    # Not added first: the calendar ends.
    behind = timedelta(seconds=min(offset, int((now - first).total_seconds()) + 1))
    return min(now, first + behind)


class Past:
    """The tree as it was at a moment."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    @cached_property
    def _later(self) -> QuerySet[Revision, int]:
        """Keys of nodes that have changed since."""
        return Revision.objects.filter(at__gt=self.at).order_by().values_list("node", flat=True)

    @cached_property
    def then(self) -> dict[int, Revision]:
        """What the changed ones were, by key; those that were not there have none."""
        found = Revision.objects.newest_until(self.at).filter(node__in=self._later)
        there = found.exclude(what=Revision.What.REMOVED).select_related("node__parent")
        return {revision.node_id: revision for revision in there}

    @cached_property
    def since(self) -> list[Since]:
        """All nodes that are not as they were, newest change first."""
        nodes = Node.objects.filter(pk__in=self._later).select_related("parent")
        found = [_since(node, self.then.get(node.pk)) for node in nodes.order_by("-updated_at")]
        return [each for each in found if each is not None]

    @cached_property
    def _marks(self) -> dict[int, Since]:
        return {each.node.pk: each for each in self.since}

    @cached_property
    def touched(self) -> set[int]:
        """Keys of nodes with a change below them."""
        parents = {each.node.parent_id for each in self.since if each.node.parent_id}
        parents |= set(self._keys_of({then.parent_vm_id for then in self.then.values()}))
        return below.above(list(parents)[:MOST_FOLLOWED], most=1000)

    def count(self) -> int:
        """How many there were."""
        return self._same().count() + len(self.then)

    def counts(self) -> list[tuple[str, int]]:
        """How many changes of each kind there were since."""
        return Counter(each.kind for each in self.since).most_common()

    def _same(self) -> QuerySet[Node]:
        """Those that were there and have not changed since."""
        living = Node.objects.living().filter(created_at__lte=self.at)
        return living.exclude(pk__in=self._later)

    def _keys_of(self, vm_ids: set[str | None]) -> dict[int, str]:
        wanted = [each for each in vm_ids if each][:MOST_FOLLOWED]
        return dict(Node.objects.filter(vm_id__in=wanted).values_list("pk", "vm_id"))

    def children(self, key: int, *, place: int = 0, limit: int = PAGE, level: int = 2) -> Page:
        """Rows under a node (ROOF: the roots) at that moment, oldest first."""
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
        """Count what hung below each then, and mark what is other now."""
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
    """In what a node is other than then; None if it is the same again."""
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
    """A node, not to be saved, as it was."""
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
