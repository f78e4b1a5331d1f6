"""Find the lieutenants of VMs: a lieutenant and its VM have the same id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from lieutenants.membership import vm_id_of
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from vmtree.models import Node


def parent_lieutenant(lieutenant: Lieutenant) -> Lieutenant | None:
    """Return the lieutenant of the parent node in the tree; None if there is none."""
    node = Node.objects.active().filter(vm_id=vm_id_of(lieutenant)).select_related("parent").first()
    if node is None or node.parent is None:
        return None
    return Lieutenant.objects.active().filter(pk=node.parent.vm_id).first()


def alive(vm_ids: Sequence[str]) -> Iterable[str]:
    """Return the ids of these VMs whose lieutenants are not destroyed."""
    return Lieutenant.objects.active().filter(pk__in=vm_ids).values_list("pk", flat=True)


def destroyed(vm_ids: Sequence[str]) -> Iterable[str]:
    """Return the ids of these VMs whose lieutenants are destroyed."""
    gone = Lieutenant.objects.filter(pk__in=vm_ids, status=Status.DESTROYED)
    return gone.values_list("pk", flat=True)


def id_of_name(name: str) -> str | None:
    """Return the id of the active lieutenant of this name; None if there is none."""
    return Lieutenant.objects.active().filter(name=name).values_list("pk", flat=True).first()


def local_hosts(vm_ids: Sequence[str]) -> dict[str, str]:
    """Map ids of active local lieutenants among these VMs to their data folders.

    A row that no follower has claimed since the upgrade has no data folder yet, but its agent runs
    on one of reef's machines too. It is mapped to the name of its host.
    """
    living = Lieutenant.objects.active().filter(pk__in=vm_ids, transport="local")
    rows = living.values_list("pk", "data_folder", "host")
    return {pk: data_folder or f"host:{host}" for pk, data_folder, host in rows}


def used_vms(vm_ids: Sequence[str]) -> Iterable[str]:
    """Return those of these VMs on which lieutenants run."""
    here = Lieutenant.objects.active().filter(on_vm__in=vm_ids)
    return here.values_list("on_vm", flat=True)


def used_hosts() -> Iterable[UUID]:
    """Return the SSH hosts on which lieutenants run, or have left something."""
    rows = Lieutenant.objects.filter(ssh_host__isnull=False)
    return rows.order_by().values_list("ssh_host", flat=True).distinct()
