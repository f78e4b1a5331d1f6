"""Grants: what a node may create with its own token, and what that may cost.

Operators set them, and a node may pass on to its descendants at most what it has itself. No node
has a grant of VMs at first, lieutenants included: otherwise each could create further nodes with
grants of their own. Lieutenants are not limited at first; a limit holds for the node and everything
below it. The root token and operators need no grant; an operator token with a subtree uses those of
its node. Grants are drawn by a conditional UPDATE, so that concurrent requests never exceed them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal

from django.db import transaction
from django.db.models import F

from bootloader.boot import profiles
from bootloader.exceptions import UnknownProfile
from bootloader.grants import budgets, passing
from bootloader.models import ProvisionGrant
from reef_site.common.errors import BadInput, Forbidden, NotFound
from vmtree import permissions
from vmtree.lineage import ancestor_keys
from vmtree.models import LINKS, Node
from vmtree.permissions import Action

logger = logging.getLogger(__name__)

RULE = "a node has VMs made within the grant that operators gave it"
LIEUTENANTS_RULE = "a node creates lieutenants within its grant and those of its ancestors"
MAX_VMS = 100_000
MAX_LIEUTENANTS = 100_000
MAX_LEVELS = 1000
MAX_DOLLARS = 100_000_000


@dataclass(frozen=True)
class Limits:
    """The values of a grant. None means no limit.

    `renew_dollars` lets the budget begin anew; otherwise what was spent so far counts.
    """

    vms: int = 0
    profiles: Sequence[str] = field(default_factory=tuple)
    levels: int = 1
    lieutenants: int | None = None
    lieutenant_levels: int | None = None
    dollars: Decimal | None = None
    renew_dollars: bool = False


def check(caller: object, profile: str, parent: Node | None) -> None:
    """Raise Forbidden unless the caller may provision VMs of this profile below the parent.

    Does not check how many VMs are left; `draw` does.
    """
    permissions.check(caller, Action.PROVISION, parent)
    node = permissions.home_of(caller)
    if node is None or parent is None:
        return
    grant = ProvisionGrant.objects.filter(pk=node.pk).first()
    if grant is None:
        raise _refusal(node, "has no grant", parent)
    if grant.profiles and profile not in grant.profiles:
        allowed = ", ".join(grant.profiles)
        raise _refusal(node, f"may have profiles {allowed}, not {profile}", parent)
    levels = _levels_below(node.pk, parent)
    if levels > grant.levels:
        raise _refusal(node, f"may go {grant.levels} levels below itself, not {levels}", parent)


def draw(caller: object, count: int) -> None:
    """Deduct `count` VMs from the caller's grant in the caller's transaction. Raise Forbidden."""
    node = permissions.home_of(caller)
    if node is None:
        return
    mine = ProvisionGrant.objects.filter(pk=node.pk)
    # The WHERE clause is the lock: concurrent requests cannot deduct more than is left.
    if not mine.filter(vms__gte=count).update(vms=F("vms") - count):
        left = mine.values_list("vms", flat=True).first() or 0
        raise _refusal(node, f"may have {left} more VMs made, not {count}")


def draw_lieutenant(caller: object, parent: Node | None) -> None:
    """Deduct a lieutenant below `parent` from all grants that limit the caller.

    Must run in the caller's transaction, which Forbidden rolls back.
    """
    node = permissions.home_of(caller)
    if node is None or parent is None:
        return
    for grant in limits_on_lieutenants(node):
        if problem := _problem_of_depth(grant, parent):
            raise _lieutenant_refusal(node, problem, parent)
        # One row after the other from the root down, so that transactions cannot deadlock.
        mine = ProvisionGrant.objects.filter(pk=grant.pk, lieutenants__isnull=False)
        drawn = mine.filter(lieutenants__gte=1).update(lieutenants=F("lieutenants") - 1)
        if not drawn and mine.exists():
            raise _lieutenant_refusal(node, _none_left(grant), parent)


def limits_on_lieutenants(node: Node) -> list[ProvisionGrant]:
    """Return the grants that limit number or depth of its lieutenants, the topmost first."""
    return [row for row in limits_of(node) if row.limits_lieutenants]


def limits_of(node: Node) -> list[ProvisionGrant]:
    """Return the grants that limit the lieutenants of this node, or what they cost.

    The topmost ancestor's is the first.
    """
    path = ancestor_keys(LINKS, node.pk)
    rows = ProvisionGrant.objects.select_related("node").filter(pk__in=path)
    limits = [row for row in rows if row.limits_lieutenants or row.dollars is not None]
    return sorted(limits, key=lambda row: path.index(row.pk))


def refusal_of(node: Node, action: Action, target: Node) -> str:
    """Return the rule by which grants refuse what the permissions allow; empty if they do not.

    For PROVISION and START_BELOW, `target` is the parent.
    """
    if action is Action.PROVISION:
        grant = ProvisionGrant.objects.filter(pk=node.pk).first()
        is_enough = grant and grant.vms and _levels_below(node.pk, target) <= grant.levels
        return "" if is_enough else RULE
    if action is Action.START_BELOW:
        for grant in limits_on_lieutenants(node):
            if grant.lieutenants == 0 or _problem_of_depth(grant, target):
                return LIEUTENANTS_RULE
    if action in budgets.BEGINS_WORK and budgets.warning_of(target):
        return budgets.RULE
    return ""


def find(vm_id: str, *, by: object) -> ProvisionGrant:
    """Return the grant of a node. Raise NotFound, Forbidden."""
    permissions.check(by, Action.READ_MACHINES, vm_id)
    grant = ProvisionGrant.objects.select_related("node").filter(node__vm_id=vm_id).first()
    if grant is None:
        raise NotFound("grant not found")
    return grant


@transaction.atomic
def set_grant(vm_id: str, limits: Limits, *, by: object) -> ProvisionGrant:
    """Set a node's grant, replacing the previous one. Raise BadInput, NotFound, Forbidden.

    A node passes on to a descendant at most what it has; additional VMs are taken from its grant.
    """
    check_may_set(vm_id, by)
    check_profiles(limits.profiles)
    node = Node.objects.active().filter(vm_id=vm_id).first()
    if node is None:
        raise NotFound("VM not found")
    if (giver := permissions.home_of(by)) is not None:
        passing.take(giver, node, asdict(limits))
    facts = {**asdict(limits), "profiles": list(limits.profiles)}
    renew, old = facts.pop("renew_dollars"), ProvisionGrant.objects.select_for_update()
    facts |= budgets.fields_of(old.filter(node=node).first(), limits.dollars, renew=renew)
    grant, _ = ProvisionGrant.objects.update_or_create(node=node, defaults=facts)
    logger.info("%s has the grant %s, as %s says", vm_id, facts, by)
    return grant


def check_may_set(vm_id: str, by: object) -> None:
    """Raise Forbidden unless the caller may set this node's grant."""
    permissions.check(by, Action.GRANT, vm_id)


def remove(vm_id: str, *, by: object) -> None:
    """Delete a node's grant. Raise NotFound, Forbidden.

    That also removes the limit on its lieutenants, so callers limited to a line may not do it.
    """
    check_may_set(vm_id, by)
    if permissions.home_of(by) is not None:
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


def _levels_below(holder: int, parent: Node) -> int:
    """Return how far below the holder of a grant a child of `parent` is; 1 is directly below."""
    path = ancestor_keys(LINKS, parent.pk)
    return len(path) - path.index(holder) if holder in path else 1 << 30


def _problem_of_depth(grant: ProvisionGrant, parent: Node) -> str:
    most = grant.lieutenant_levels
    if most is None or _levels_below(grant.pk, parent) <= most:
        return ""
    return f"{grant.node.vm_id} may have lieutenants {most} levels below itself"


def _none_left(grant: ProvisionGrant) -> str:
    return f"{grant.node.vm_id} may have no more lieutenants below itself"


def _refusal(node: Node, why: str, target: Node | None = None) -> Forbidden:
    facts = {"action": Action.PROVISION.slug, "target": (target or node).vm_id}
    return Forbidden(f"rule: {RULE}. {node.vm_id} {why}", rule=RULE, **facts)


def _lieutenant_refusal(node: Node, why: str, parent: Node) -> Forbidden:
    text = f"rule: {LIEUTENANTS_RULE}. {node.vm_id} may not create another: {why}"
    facts = {"action": Action.START_BELOW.slug, "target": parent.vm_id}
    return Forbidden(text, rule=LIEUTENANTS_RULE, **facts)
