"""Membership of lieutenants in the fleet: their VM in the registry, their node in the tree.

Both have the lieutenant's id: a name may be reused, a VM id never is. Registry and tree are updated
in the transaction that changes the lieutenant's row; the follower repairs what an accident left
out.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import transaction

from lieutenants.states import RUNNING, Status
from reef_site.common.errors import BadInput, NotFound
from registry import services as registry
from registry.models import Role
from registry.models import Status as VMStatus
from registry.services import Registration
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Category, Node

if TYPE_CHECKING:
    from lieutenants.models import Lieutenant


def vm_id_of(lieutenant: Lieutenant) -> str:
    """Return the lieutenant's id in registry and tree."""
    return lieutenant.pk


def register(lieutenant: Lieutenant, *, actor: object, parent: Node | None = None) -> None:
    """Register a lieutenant and add its node below `parent`; existing rows are kept.

    Raises Forbidden.
    """
    vm_id = vm_id_of(lieutenant)
    registration = Registration(
        id=vm_id,
        name=lieutenant.name,
        role=Role.LIEUTENANT,
        address=lieutenant.host,
        registered_by=(lieutenant.parent_agent or "reef")[:255],
        parent_vm_id=parent.vm_id if parent else None,
        metadata=_metadata(lieutenant, lieutenant.role),
    )
    with transaction.atomic():
        if not Node.objects.filter(vm_id=vm_id).exists():
            above = parent.vm_id if parent else ""
            new = tree.NewNode(lieutenant.name, Category.LIEUTENANT, vm_id, above)
            tree.create(new, by=actor)
        registry.register(registration)
        if (status := vm_status(lieutenant.status)) != VMStatus.RUNNING:
            registry.patch(vm_id, {"status": status})


def _metadata(lieutenant: Lieutenant, role: str) -> dict[str, object]:
    return {
        "agentId": lieutenant.name,
        "role": role,
        "createdAt": lieutenant.created_at.isoformat(),
        "registeredVia": "reef",
    }


def on_role_change(lieutenant: Lieutenant, role: str) -> None:
    """Update the registry after a change of the role, in its transaction."""
    with suppress(NotFound):
        registry.patch(vm_id_of(lieutenant), {"metadata": _metadata(lieutenant, role)})


def vm_status(status: str) -> str:
    """Return the registry's status for a VM whose lieutenant has this status."""
    if status in RUNNING:
        return VMStatus.RUNNING
    return VMStatus.PAUSED if status == Status.PAUSED else VMStatus.STOPPED


def on_status_change(lieutenant: Lieutenant, old: str, new: str, *, actor: str) -> None:
    """Update registry and tree after a status transition, in its transaction."""
    if new == Status.DESTROYED:
        deregister(lieutenant, actor=actor)
    elif vm_status(old) != vm_status(new):
        # A lieutenant that is not in the registry is registered by the follower later.
        with suppress(NotFound):
            registry.patch(vm_id_of(lieutenant), {"status": vm_status(new)})


def deregister(lieutenant: Lieutenant, *, actor: str) -> None:
    """Deregister a destroyed lieutenant and soft-delete its node.

    While the node has active children it stays, without a token, until a later reconcile.
    """
    vm_id = vm_id_of(lieutenant)
    with transaction.atomic():
        if node := Node.objects.active().filter(vm_id=vm_id).first():
            tokens.revoke_all([node.pk])
            with suppress(BadInput, NotFound), transaction.atomic():
                tree.remove(vm_id, by=actor)
            tree.mark_destroyed(vm_id)
        with suppress(NotFound):
            registry.deregister(vm_id)


def issue_token(lieutenant: Lieutenant) -> str:
    """Issue a token for the next process and revoke the previous one.

    Empty if the lieutenant has no node in the tree.
    """
    node = Node.objects.active().filter(vm_id=vm_id_of(lieutenant)).first()
    return tokens.issue(node, made_by="reef") if node else ""


def fleet_environment(lieutenant: Lieutenant) -> dict[str, str]:
    """Return the environment variables by which the agent reaches the fleet and is known there."""
    env = {
        "VERS_AGENT_NAME": lieutenant.name,
        "VERS_AGENT_ROLE": Role.LIEUTENANT.value,
        "VERS_VM_ID": vm_id_of(lieutenant),
    }
    if token := issue_token(lieutenant):
        env |= {"VERS_AUTH_TOKEN": token, "VERS_INFRA_URL": settings.INFRA_URL}
    return env
