"""Filters for the events that a caller may read: by topic, and for nodes by place in the tree."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from django.db.models import Q, QuerySet

from reef_site.common.eventlog.models import Event
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action

# What a caller needs to be allowed for events of a topic. Of topics that are not listed, only
# those who administer the fleet read events.
TOPICS: dict[str, Action] = {
    "lieutenant": Action.READ,
    "vm": Action.READ,
    "tree": Action.READ,
    "operation": Action.READ,
    "boot": Action.READ_MACHINES,
    "snapshot": Action.READ_SNAPSHOTS,
    "config": Action.READ_CONFIG,
    "question": Action.READ_TRANSCRIPT,
    "permission": Action.COMMAND,
}
# Everybody reads the status of a lieutenant, but reasons and messages are part of its transcript.
DETAILS: dict[str, Action] = {"lieutenant": Action.READ_TRANSCRIPT}


@dataclass(frozen=True)
class Sight:
    """The topics that a caller reads: of the whole fleet, or of the node `root` and below it.

    Events of the topics in `bare` come without their details, unless they are about `root` or a
    descendant. With `is_unlimited`, all topics are read, also those of later versions.
    """

    everywhere: frozenset[str] = frozenset()
    below: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    root: str = ""
    is_unlimited: bool = False

    def sees(self, topic: str, line: Set[str]) -> bool:
        """Return whether an event of this topic is visible.

        `line` holds the ids of its VM and of that VM's ancestors.
        """
        return (
            self.is_unlimited
            or topic in self.everywhere
            or (topic in self.below and self.root in line)
        )

    def reads(self, topic: str) -> bool:
        """Return whether events of this topic are visible, of some node at least."""
        return self.is_unlimited or topic in self.everywhere | self.below

    def sees_detail(self, topic: str, line: Set[str]) -> bool:
        """Return whether the details of a visible event are visible, too."""
        return topic not in self.bare or self.root in line

    def rows(self, found: QuerySet[Event]) -> QuerySet[Event]:
        """Return the visible ones of these events, by the tree as it is now."""
        if self.is_unlimited:
            return found
        visible = Q(topic__in=self.everywhere)
        if self.below:
            visible |= Q(topic__in=self.below, vm_id__in=line_below(self.root))
        return found.filter(visible)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON; `Sight.of_json` reads them."""
        return {
            "everywhere": sorted(self.everywhere),
            "below": sorted(self.below),
            "bare": sorted(self.bare),
            "root": self.root,
            "isUnlimited": self.is_unlimited,
        }

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Sight:
        """Return the sight of `as_json`."""
        sets = {name: frozenset(data[name]) for name in ("everywhere", "below", "bare")}
        return cls(**sets, root=data["root"], is_unlimited=data["isUnlimited"])


def sight_of(caller: object) -> Sight:
    """Return what this caller may read."""
    if permissions.is_operator(caller):
        return Sight(is_unlimited=True)
    home = permissions.home_of(caller)
    everywhere, below = set[str](), set[str]()
    for topic, action in TOPICS.items():
        if action in permissions.READS and permissions.readable(caller, action) is None:
            everywhere.add(topic)
        elif home is not None and permissions.may(caller, action, home):
            below.add(topic)
    bare = {
        topic
        for topic, action in DETAILS.items()
        if permissions.readable(caller, action) is not None
    }
    root = home.vm_id if home else ""
    return Sight(frozenset(everywhere), frozenset(below), frozenset(bare), root)


def line_below(vm_id: str) -> QuerySet[Node, str]:
    """Return the ids of this VM and its descendants, removed ones included."""
    node = Node.objects.filter(vm_id=vm_id).first()
    if node is None:
        return Node.objects.none().values_list("vm_id", flat=True)
    return permissions.line_of(node).values_list("vm_id", flat=True)
