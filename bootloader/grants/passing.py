"""Passing on: a node gives its descendant a grant out of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import F

from bootloader.grants import budgets
from bootloader.models import ProvisionGrant
from reef_site.common.errors import Forbidden
from reef_site.common.text import format_dollars
from vmtree.lineage import ancestor_keys
from vmtree.models import LINKS, Node
from vmtree.permissions import Action

RULE = "a node passes on to its descendants at most what its own grant has"


def take(giver: Node, receiver: Node, wanted: Mapping[str, Any]) -> None:
    """Deduct from the giver's grant what the receiver's new grant has beyond its old one.

    `wanted` has the fields of the new grant. Fewer VMs than before are not returned to the giver.
    Must run in a transaction, which Forbidden rolls back.
    """
    rows = ProvisionGrant.objects.select_for_update().filter(pk__in=[giver.pk, receiver.pk])
    grants = {row.pk: row for row in rows.order_by("pk")}
    mine, old = grants.get(giver.pk), grants.get(receiver.pk)
    depth = _depth(giver, receiver)
    more_vms = wanted["vms"] - (old.vms if old else 0)
    if problem := _problem_of_vms(mine, wanted, more_vms, depth):
        raise _refusal(giver, receiver, problem)
    if problem := _problem_of_lieutenants(mine, old, wanted, depth):
        raise _refusal(giver, receiver, problem)
    if problem := _problem_of_dollars(giver, old, wanted):
        raise _refusal(giver, receiver, problem)
    if more_vms > 0:
        enough = ProvisionGrant.objects.filter(pk=giver.pk, vms__gte=more_vms)
        if not enough.update(vms=F("vms") - more_vms):
            raise _refusal(giver, receiver, f"it has fewer than {more_vms} VMs left")


def _depth(giver: Node, receiver: Node) -> int:
    path = ancestor_keys(LINKS, receiver.pk)
    return path.index(receiver.pk) - path.index(giver.pk)


def _problem_of_vms(
    mine: ProvisionGrant | None, wanted: Mapping[str, Any], more_vms: int, depth: int
) -> str:
    if not wanted["vms"]:
        return ""
    if mine is None:
        return "it has no grant"
    if more_vms > mine.vms:
        return f"it has {mine.vms} VMs left, not {more_vms}"
    if mine.profiles and not (wanted["profiles"] and set(wanted["profiles"]) <= set(mine.profiles)):
        return f"it may have profiles {', '.join(mine.profiles)} only"
    if depth + wanted["levels"] > mine.levels:
        return f"it may go {mine.levels} levels below itself, not {depth + wanted['levels']}"
    return ""


def _problem_of_lieutenants(
    mine: ProvisionGrant | None, old: ProvisionGrant | None, wanted: Mapping[str, Any], depth: int
) -> str:
    count, levels = wanted["lieutenants"], wanted["lieutenant_levels"]
    if mine is None:
        # Without a grant it has nothing to give, so limits that others have set only get lower.
        had = (old.lieutenants, old.lieutenant_levels) if old else (None, None)
        pairs = zip(had, (count, levels), strict=True)
        is_more = any(was is not None and (now is None or now > was) for was, now in pairs)
        return "it has no grant, so it cannot raise a limit" if is_more else ""
    if mine.lieutenants is not None and (count is None or count > mine.lieutenants):
        return f"it may have {mine.lieutenants} more lieutenants, not {_shown(count)}"
    most = mine.lieutenant_levels
    if most is not None and (levels is None or depth + levels > most):
        return f"its lieutenants may be {most} levels below itself"
    return ""


def _problem_of_dollars(giver: Node, old: ProvisionGrant | None, wanted: Mapping[str, Any]) -> str:
    """Return why the budget is more than the giver has left. It may stay as it is, or be lowered.

    Nothing is deducted: what the receiver spends counts for the giver, too.
    """
    dollars, is_renewed = wanted["dollars"], wanted["renew_dollars"]
    had = None if old is None or is_renewed else old.dollars
    if had is not None and dollars is not None and dollars <= had:
        return ""
    mine = budgets.tightest_of(giver)
    if mine is None:
        is_limited = old is not None and old.dollars is not None
        return "it has no budget, so it cannot raise or renew one" if is_limited else ""
    if dollars is not None and dollars <= mine.left:
        return ""
    most = "any amount" if dollars is None else format_dollars(dollars)
    return f"it has {format_dollars(mine.left)} left, not {most}"


def _shown(count: int | None) -> str:
    return "any number" if count is None else str(count)


def _refusal(giver: Node, receiver: Node, why: str) -> Forbidden:
    text = f"rule: {RULE}. {giver.vm_id} may not give {receiver.vm_id} this grant: {why}"
    return Forbidden(text, rule=RULE, action=Action.GRANT.slug, target=receiver.vm_id)
