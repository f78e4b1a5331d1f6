"""Names of the nodes that rows mention as actors, for pages."""

from __future__ import annotations

from collections.abc import Iterable

from django.http import HttpRequest

from vmtree.models import Node
from vmtree.names import marked

_NODE = "node "


def node_id(actor: str) -> str:
    """Return the VM id of an actor that is a node; empty for any other."""
    return actor.removeprefix(_NODE) if actor.startswith(_NODE) else ""


def remember(request: HttpRequest, actors: Iterable[str]) -> dict[str, str]:
    """Look up names of nodes among these actors, and keep them for this request.

    Return the names by VM id, as far as they are known; an empty one if there is no such node. All
    new ones take one query, so a list passes its actors before it is rendered.
    """
    known: dict[str, str] = getattr(request, "actor_names", {})
    request.actor_names = known  # type: ignore[attr-defined]
    unknown = {node_id(actor) for actor in actors} - {"", *known}
    if unknown:
        known |= dict.fromkeys(unknown, "")
        named = Node.objects.filter(vm_id__in=unknown).order_by().values_list("vm_id", "name")
        known |= {vm_id: marked(name) or vm_id for vm_id, name in named}
    return known
