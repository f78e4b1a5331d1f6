"""Provisioning grants: how many VMs a node may provision with its own token.

Operators set them. No node has a grant at first, lieutenants included: otherwise each could create
further nodes with grants of their own. The root token and operators need none. Grants are drawn by
a conditional UPDATE, so that concurrent requests never exceed them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db.models import F

from bootloader.boot import profiles
from bootloader.exceptions import UnknownProfile
from bootloader.models import ProvisionGrant
from reef_site.common.errors import BadInput, Forbidden, NotFound
from vmtree import permissions
from vmtree.lineage import ancestor_keys
from vmtree.models import LINKS, Node
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

RULE = "a node has VMs made within the grant that operators gave it"
MAX_VMS = 100_000
MAX_LEVELS = 1000


def check(caller: object, profile: str, parent: Node | None) -> None:
    """Raise Forbidden unless the caller may provision VMs of this profile below the parent.

    Does not check how many VMs are left; `draw` does.
    """
    permissions.check(caller, Action.PROVISION, parent)
    node = permissions.node_of(caller)
    if node is None or parent is None:
        return
    grant = ProvisionGrant.objects.filter(pk=node.pk).first()
    if grant is None:
        raise _refusal(node, "has no grant")
    if grant.profiles and profile not in grant.profiles:
        raise _refusal(node, f"may have profiles {', '.join(grant.profiles)}, not {profile}")
    path = ancestor_keys(LINKS, parent.pk)
    levels = len(path) - path.index(node.pk)
    if levels > grant.levels:
        raise _refusal(node, f"may go {grant.levels} levels below itself, not {levels}")


def draw(caller: object, count: int) -> None:
    """Deduct `count` VMs from the caller's grant in the caller's transaction. Raise Forbidden."""
    node = permissions.node_of(caller)
    if node is None:
        return
    mine = ProvisionGrant.objects.filter(pk=node.pk)
    # The WHERE clause is the lock: concurrent requests cannot deduct more than is left.
    if not mine.filter(vms__gte=count).update(vms=F("vms") - count):
        left = mine.values_list("vms", flat=True).first() or 0
        raise _refusal(node, f"may have {left} more VMs made, not {count}")


def find(vm_id: str, *, by: object) -> ProvisionGrant:
    """Return the grant of a node. Raise NotFound, Forbidden."""
    permissions.check(by, Action.READ_MACHINES, vm_id)
    grant = ProvisionGrant.objects.select_related("node").filter(node__vm_id=vm_id).first()
    if grant is None:
        raise NotFound("grant not found")
    return grant


def set_grant(
    vm_id: str, *, vms: int, kinds: Sequence[str], levels: int, by: object
) -> ProvisionGrant:
    """Set a node's grant, replacing the previous one. Raise BadInput, NotFound, Forbidden."""
    permissions.check(by, Action.COMMAND, None)
    check_profiles(kinds)
    node = Node.objects.active().filter(vm_id=vm_id).first()
    if node is None:
        raise NotFound("VM not found")
    facts = {"vms": vms, "profiles": list(kinds), "levels": levels}
    grant, _ = ProvisionGrant.objects.update_or_create(node=node, defaults=facts)
    logger.info("%s may have %s VMs made, as %s says", vm_id, vms, by)
    return grant


def remove(vm_id: str, *, by: object) -> None:
    """Delete a node's grant. Raise NotFound, Forbidden."""
    permissions.check(by, Action.COMMAND, None)
    deleted, _ = ProvisionGrant.objects.filter(node__vm_id=vm_id).delete()
    if not deleted:
        raise NotFound("grant not found")
    logger.info("the grant of %s was removed by %s", vm_id, by)


def check_profiles(kinds: Sequence[str]) -> None:
    """Raise BadInput if a profile type is unknown."""
    for kind in kinds:
        try:
            profiles.get(kind)
        except UnknownProfile as error:
            raise BadInput(f"profiles: {error}", "profiles") from None


def _refusal(node: Node, why: str) -> Forbidden:
    return Forbidden(f"rule: {RULE}. {node.vm_id} {why}")
