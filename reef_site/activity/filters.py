"""Filters of events: the same for pages of JSON, streams and subscribers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from django.db.models import Q, QuerySet

from reef_site.activity.visibility import line_below
from reef_site.common.eventlog.models import Event
from vmtree.models import Node
from vmtree.queries.nodes import keys_of_vms_and_ancestors

# SQLite takes 32,766 parameters; a page of events names far fewer VMs.
MAX_KINDS = 20


@dataclass(frozen=True)
class EventFilter:
    """Conditions that all must hold; an empty one always does.

    `kinds` are kinds, such as `vm.late`, or topics, such as `vm`. `subtree` is the id of a VM: the
    event is about it or one of its descendants.
    """

    kinds: tuple[str, ...] = ()
    subtree: str = ""
    subject: str = ""
    actor: str = ""

    def matches(self, event: Event, line: Set[str]) -> bool:
        """Return whether the event passes; `line` holds the ids of its VM and its ancestors."""
        return (
            (not self.kinds or event.kind in self.kinds or event.topic in self.kinds)
            and (not self.subtree or self.subtree in line)
            and (not self.subject or self.subject in (event.subject, event.vm_id))
            and (not self.actor or event.actor == self.actor)
        )

    def rows(self, found: QuerySet[Event]) -> QuerySet[Event]:
        """Return the matching ones of these events."""
        found = self.rows_of_columns(found)
        if not self.subtree:
            return found
        below = line_below(self.subtree)
        # A VM without a node has only itself.
        has_node = not below.query.is_empty()
        return found.filter(vm_id__in=below) if has_node else found.filter(vm_id=self.subtree)

    def rows_of_columns(self, found: QuerySet[Event]) -> QuerySet[Event]:
        """Return those that match all but the subtree, without a look at the tree."""
        if self.kinds:
            topics = {kind.partition(".")[0] for kind in self.kinds}
            whole = [kind for kind in self.kinds if "." not in kind]
            found = found.filter(Q(topic__in=whole) | Q(kind__in=self.kinds), topic__in=topics)
        if self.subject:
            found = found.filter(Q(subject=self.subject) | Q(vm_id=self.subject))
        return found.filter(actor=self.actor) if self.actor else found

    @property
    def is_empty(self) -> bool:
        """Return whether every event passes."""
        return self == EventFilter()

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON; `EventFilter.of_json` reads them."""
        return {
            "kinds": list(self.kinds),
            "subtree": self.subtree,
            "subject": self.subject,
            "actor": self.actor,
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> EventFilter:
        """Return the filter of `as_json`."""
        return cls(**{**data, "kinds": tuple(data.get("kinds", ()))})


def kind_prefix(text: str) -> str:
    """Return a kind or topic as filters use it: `vm.` and `vm.*` are the topic `vm`."""
    return text.removesuffix("*").removesuffix(".")


def lines_of(vm_ids: Iterable[str]) -> dict[str, frozenset[str]]:
    """Map VM ids to sets of themselves and their ancestors' ids, by the tree as it is now.

    A VM without a node has only itself; removed nodes count.
    """
    wanted = {vm_id for vm_id in vm_ids if vm_id}
    keys = keys_of_vms_and_ancestors(sorted(wanted))
    rows = Node.objects.filter(pk__in=keys).values_list("pk", "vm_id", "parent_id")
    nodes = {pk: (vm_id, parent) for pk, vm_id, parent in rows}
    by_id = {vm_id: pk for pk, (vm_id, _) in nodes.items()}
    return {vm_id: _line(vm_id, by_id.get(vm_id), nodes) for vm_id in wanted}


def _line(
    vm_id: str, key: int | None, nodes: Mapping[int, tuple[str, int | None]]
) -> frozenset[str]:
    line = {vm_id}
    while key in nodes and key is not None:
        above, key = nodes[key]
        line.add(above)
    return frozenset(line)
