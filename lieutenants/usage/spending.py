"""Sums of what nodes, and all below them, have cost since their budgets began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

from django.db.models import Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from bootloader.grants import budgets
from bootloader.grants.budgets import Budget
from bootloader.models import ProvisionGrant
from lieutenants.models import Usage, UsageSlot
from lieutenants.usage.models import SLOT, slot_of
from vmtree import permissions

ZERO = Decimal(0)


@dataclass(frozen=True)
class Reading:
    """The budgets of a VM and its ancestors, read before the transaction that needs them.

    The sums may take a while. `now` adds only the calls that were stored since, and reads all again
    if a budget seems to be used up; so work is refused in the transaction in which it begins. On
    PostgreSQL a call that was being stored during the reading may count from the next time on.
    """

    vm_id: str
    budgets: Sequence[Budget] = ()
    # The newest call that may be in the sums.
    newest: int = 0

    @classmethod
    def of(cls, vm_id: str) -> Self:
        """Read the budgets, if any node has one."""
        newest = Usage.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
        return cls(vm_id, budgets.budgets_of(vm_id), newest)

    def now(self, vm_id: str) -> Sequence[Budget]:
        """Return them with what was spent since; those of another VM are read."""
        if vm_id != self.vm_id:
            return budgets.budgets_of(vm_id)
        if not self.budgets:
            return []
        grants = [each.grant for each in self.budgets]
        calls = Usage.objects.filter(pk__gt=self.newest, lieutenant__in=_line(grants[0]))
        since = _sums(
            calls, {row.pk: _line_q(row) & Q(at__gte=row.dollars_since) for row in grants}
        )
        found = [replace(each, spent=each.spent + since[each.grant.pk]) for each in self.budgets]
        # A call that was stored during the reading may be in both sums.
        return budgets.budgets_of(vm_id) if any(each.is_used_up for each in found) else found


def register() -> None:
    """Tell the bootloader's budgets what is spent."""
    budgets.find_spending.register(find_spent, key="lieutenants")


def find_spent(grants: Sequence[ProvisionGrant]) -> Mapping[int, Decimal]:
    """Map grants of one line, the topmost first, to the dollars spent since they were set.

    Two queries: quarters of an hour are added up by `UsageSlot`; of the quarter in which a budget
    began, single calls count.
    """
    begun = [(row, row.dollars_since) for row in grants if row.dollars_since]
    if not begun:
        return {}
    mine = Q(lieutenant__in=_line(begun[0][0]))
    slots = UsageSlot.objects.filter(mine, slot__gt=min(slot_of(since) for _, since in begun))
    calls = Usage.objects.filter(mine, day__in={slot_of(since).date() for _, since in begun})
    whole = _sums(slots, {row.pk: _line_q(row) & _later(since) for row, since in begun})
    first = _sums(calls, {row.pk: _line_q(row) & _in_first_quarter(since) for row, since in begun})
    return {row.pk: whole[row.pk] + first[row.pk] for row, _ in begun}


def _sums(rows: QuerySet[Any], wanted: Mapping[int, Q]) -> dict[int, Decimal]:
    """Return the cost of the rows of each condition, from one query."""
    each = {f"node_{pk}": Coalesce(Sum("cost", filter=one), ZERO) for pk, one in wanted.items()}
    found = rows.order_by().aggregate(**each)
    # SQLite adds up floats; nine digits behind the point are stored.
    return {pk: round(Decimal(found[f"node_{pk}"]), 9) for pk in wanted}


def _line(grant: ProvisionGrant) -> QuerySet[Any]:
    return permissions.line_of(grant.node).values("vm_id")


def _line_q(grant: ProvisionGrant) -> Q:
    return Q(lieutenant__in=_line(grant))


def _later(since: datetime) -> Q:
    return Q(slot__gt=slot_of(since))


def _in_first_quarter(since: datetime) -> Q:
    return Q(at__gte=since, at__lt=slot_of(since) + SLOT)
