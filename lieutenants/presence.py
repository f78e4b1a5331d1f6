"""Lieutenants as members of the fleet: their VM in the registry, their node in the tree.

Both have the lieutenant's id: a name may come back, a VM's id never does. What the fleet is told
follows from the lieutenant's row, in the transaction that changes it; what an accident left out
is made up for by the follower's next round.
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
from registry.serializers import Registration
from vmtree import services as tree
from vmtree import tokens
from vmtree.models import Category, Node

if TYPE_CHECKING:
    from lieutenants.models import Lieutenant


def vm_of(lieutenant: Lieutenant) -> str:
    """The id that it has in registry and tree."""
    return lieutenant.pk


def enlist(lieutenant: Lieutenant, *, actor: object, parent: Node | None = None) -> None:
    """Put a lieutenant into registry and tree, there below `parent`; what is there already stays.

    Raises Forbidden.
    """
    vm_id = vm_of(lieutenant)
    wish = Registration(
        id=vm_id,
        name=lieutenant.name,
        role=Role.LIEUTENANT,
        address=lieutenant.host,
        registered_by=(lieutenant.parent_agent or "reef")[:255],
        parent_vm_id=parent.vm_id if parent else None,
        metadata={
            "agentId": lieutenant.name,
            "role": lieutenant.role,
            "createdAt": lieutenant.created_at.isoformat(),
            "registeredVia": "reef",
        },
    )
    with transaction.atomic():
        if not Node.objects.filter(vm_id=vm_id).exists():
            above = parent.vm_id if parent else ""
            new = tree.NewNode(lieutenant.name, Category.LIEUTENANT, vm_id, above)
            tree.create(new, by=actor)
        registry.register(wish)
        if (status := vm_status(lieutenant.status)) != VMStatus.RUNNING:
            registry.patch(vm_id, {"status": status})


def vm_status(status: str) -> str:
    """What the registry calls a VM whose lieutenant has this status."""
    if status in RUNNING:
        return VMStatus.RUNNING
    return VMStatus.PAUSED if status == Status.PAUSED else VMStatus.STOPPED


def follow(lieutenant: Lieutenant, old: str, new: str, *, actor: str) -> None:
    """Tell the fleet of a move; runs in the move's transaction."""
    if new == Status.DESTROYED:
        bury(lieutenant, actor=actor)
    elif vm_status(old) != vm_status(new):
        # One that is not in the registry is enlisted by the follower.
        with suppress(NotFound):
            registry.patch(vm_of(lieutenant), {"status": vm_status(new)})


def bury(lieutenant: Lieutenant, *, actor: str) -> None:
    """Deregister a destroyed lieutenant and leave a tombstone in the tree.

    While others live below it its node stays, without a token; a later round buries it.
    """
    vm_id = vm_of(lieutenant)
    with transaction.atomic():
        if node := Node.objects.living().filter(vm_id=vm_id).first():
            tokens.revoke_all([node.pk])
            with suppress(BadInput, NotFound), transaction.atomic():
                tree.remove(vm_id, by=actor)
            tree.mark_destroyed(vm_id)
        with suppress(NotFound):
            registry.deregister(vm_id)


def new_token(lieutenant: Lieutenant) -> str:
    """A token for its next process; the one before opens nothing any more.

    Empty if it has no place in the tree.
    """
    node = Node.objects.living().filter(vm_id=vm_of(lieutenant)).first()
    return tokens.issue(node, made_by="reef") if node else ""


def environment(lieutenant: Lieutenant) -> dict[str, str]:
    """By what its agent finds the fleet and is known there."""
    env = {
        "VERS_AGENT_NAME": lieutenant.name,
        "VERS_AGENT_ROLE": Role.LIEUTENANT.value,
        "VERS_VM_ID": vm_of(lieutenant),
    }
    if token := new_token(lieutenant):
        env |= {"VERS_AUTH_TOKEN": token, "VERS_INFRA_URL": settings.INFRA_URL}
    return env
