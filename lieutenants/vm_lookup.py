"""Which lieutenants belong to which VMs: a lieutenant and its VM have the same id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lieutenants.models import Lieutenant
from lieutenants.presence import vm_of
from lieutenants.states import Status
from vmtree.models import Node


def parent_lieutenant(lieutenant: Lieutenant) -> Lieutenant | None:
    """Return the active lieutenant directly above this one in the tree; None without one."""
    node = Node.objects.living().filter(vm_id=vm_of(lieutenant)).select_related("parent").first()
    if node is None or node.parent is None:
        return None
    return Lieutenant.objects.living().filter(pk=node.parent.vm_id).first()


def alive(vm_ids: Sequence[str]) -> Iterable[str]:
    """Return the VMs among these whose lieutenant is active."""
    return Lieutenant.objects.living().filter(pk__in=vm_ids).values_list("pk", flat=True)


def destroyed(vm_ids: Sequence[str]) -> Iterable[str]:
    """Return the VMs among these whose lieutenant was destroyed."""
    gone = Lieutenant.objects.filter(pk__in=vm_ids, status=Status.DESTROYED)
    return gone.values_list("pk", flat=True)


def id_of_name(name: str) -> str | None:
    """Return the VM id of the active lieutenant of this name; None without one."""
    return Lieutenant.objects.living().filter(name=name).values_list("pk", flat=True).first()


def local_hosts(vm_ids: Sequence[str]) -> dict[str, str]:
    """Map the VMs among these that are active lieutenants of a host of reef to its data folder.

    A row that no follower has claimed since the upgrade has none yet. Its agent runs on reef's
    machines all the same, so it is mapped to the name of its host.
    """
    living = Lieutenant.objects.living().filter(pk__in=vm_ids, transport="local")
    rows = living.values_list("pk", "data_folder", "host")
    return {pk: data_folder or f"host:{host}" for pk, data_folder, host in rows}
