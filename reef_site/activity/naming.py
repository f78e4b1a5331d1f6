"""Names of the lieutenants and VMs that events mention by id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lieutenants.transcript import terminal
from reef_site.common.eventlog.models import Event
from registry.models import VM
from vmtree.actors import node_id
from vmtree.models import Node
from vmtree.names import marked


@dataclass(frozen=True)
class NamedEvent:
    """An event, and the present names of its subject and actor; empty where they add nothing.

    `details` holds names and texts, with the names of VMs in front of their ids.
    """

    row: Event
    subject_name: str
    actor_name: str
    details: Sequence[tuple[str, str]] = ()

    @property
    def actor_id(self) -> str:
        """Return the VM id of an actor that is a node; empty for any other."""
        return node_id(self.row.actor)


def with_names(events: Sequence[Event]) -> list[NamedEvent]:
    """Return the events with names, which take one query for all."""
    ids = {each for event in events for each in (event.subject, event.vm_id, node_id(event.actor))}
    ids |= {vm_id for event in events for vm_id in _ids_in(event.detail)}
    names = _names_of(ids - {""})
    return [
        NamedEvent(
            event,
            _subject_name(event, names),
            names.get(node_id(event.actor), ""),
            _details(event.detail, names),
        )
        for event in events
    ]


def _ids_in(detail: Mapping[str, Any]) -> list[str]:
    return [value for key, value in detail.items() if key.endswith("VmId") and _is_text(value)]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _details(detail: Mapping[str, Any], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the details that pages show; the name is that of the subject."""
    found = []
    for key, value in detail.items():
        name = names.get(value, "") if _is_text(value) and key.endswith("VmId") else ""
        text = terminal.mark_reordering(str(value))
        if value and key != "name":
            found.append((key, f"{name} ({text})" if name else text))
    return found


def _names_of(ids: Iterable[str]) -> Mapping[str, str]:
    """Return the names by VM id: of nodes, and of registered VMs that have none."""
    nodes = Node.objects.filter(vm_id__in=ids).order_by()
    unplaced = VM.objects.filter(pk__in=ids).exclude(pk__in=nodes.values("vm_id")).order_by()
    named = nodes.values_list("vm_id", "name").union(unplaced.values_list("pk", "name"))
    return {pk: marked(name) for pk, name in named if name and name != pk}


def _subject_name(event: Event, names: Mapping[str, str]) -> str:
    """Return the name recorded with the event, else the present one of what it is about."""
    if recorded := event.detail.get("name"):
        return marked(str(recorded))
    name = names.get(event.subject) or names.get(event.vm_id, "")
    return "" if name == event.subject else name
