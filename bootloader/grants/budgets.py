"""Budgets: what the lieutenants of a node and everything below it may cost.

A budget counts the usage since it was set, of the tree as it is now: a lieutenant that moves takes
its usage with it, a destroyed one stays where it was. Once a budget is used up, agents below the
node get no new work: nodes, and operator tokens with a subtree, neither create lieutenants there
nor send them messages, except to steer a running answer. Operators and the root token are warned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.db.models import Exists

from bootloader.models import ProvisionGrant
from reef_site.common import clock
from reef_site.common.clock import format_timestamp
from reef_site.common.errors import Forbidden
from reef_site.common.eventlog import recording
from reef_site.common.hooks import Hook
from reef_site.common.text import format_dollars
from vmtree import permissions
from vmtree.lineage import ancestor_keys
from vmtree.models import LINKS, Node
from vmtree.permissions import Action

RULE = "agents begin no work below a node whose budget is used up"
USED_UP = "grant.used-up"
NO_LIMIT = "no limit of money"
# Actions that make an agent work.
BEGINS_WORK = frozenset({Action.START_BELOW, Action.SEND, Action.SIGNAL})
ZERO = Decimal(0)
FindSpending = Callable[[Sequence[ProvisionGrant]], Mapping[int, Decimal]]

find_spending: Hook[FindSpending] = Hook(
    "grants.spending",
    "Map grants of one line, the topmost first, by their keys to the dollars spent since they"
    " were set.",
)


@dataclass(frozen=True)
class Budget:
    """The budget of a grant, and what is spent of it, in US dollars."""

    grant: ProvisionGrant
    limit: Decimal
    since: datetime
    spent: Decimal

    @property
    def vm_id(self) -> str:
        return self.grant.node.vm_id

    @property
    def left(self) -> Decimal:
        return max(self.limit - self.spent, ZERO)

    @property
    def is_used_up(self) -> bool:
        return self.spent >= self.limit

    @property
    def share(self) -> str:
        """Return what is spent of the limit, such as "$1.20 of $5.00"."""
        return f"{format_dollars(self.spent)} of {format_dollars(self.limit)}"

    @property
    def warning(self) -> str:
        return f"the budget of {self.vm_id} is used up: {self.share}"

    def __str__(self) -> str:
        since, left = format_timestamp(self.since), format_dollars(self.left)
        return f"{self.share} spent by {self.vm_id} and below since {since}, {left} left"


class BudgetUsedUp(Forbidden):
    """The caller may not begin work there; `budget` is the one that is used up."""

    def __init__(self, budget: Budget, caller: object, action: Action, target: str) -> None:
        since = format_timestamp(budget.since)
        text = f"rule: {RULE}. {budget.warning[0].upper()}{budget.warning[1:]} since {since}"
        super().__init__(text, rule=RULE, action=action.slug, target=target)
        self.budget, self.caller = budget, caller


def exist() -> Exists:
    """Return the condition that any node has a budget, for a query that is made anyway."""
    return Exists(ProvisionGrant.objects.filter(dollars__isnull=False))


def budgets_of(target: Node | str) -> list[Budget]:
    """Return the budgets of a node, or a VM id, and of its ancestors, the topmost first.

    One query if no node has a budget, else at most six.
    """
    if not ProvisionGrant.objects.filter(dollars__isnull=False).exists():
        return []
    node = Node.objects.filter(vm_id=target).first() if isinstance(target, str) else target
    path = ancestor_keys(LINKS, node.pk) if node else []
    rows = ProvisionGrant.objects.filter(pk__in=path, dollars__isnull=False)
    return _with_spending(sorted(rows.select_related("node"), key=lambda row: path.index(row.pk)))


def tightest_of(target: Node | str) -> Budget | None:
    """Return the budget with the least left among those of the node and its ancestors."""
    return min(budgets_of(target), key=lambda budget: budget.left, default=None)


def tightest_for(caller: object) -> Budget | None:
    """Return the tightest budget that limits the caller."""
    home = permissions.home_of(caller)
    return tightest_of(home) if home else None


def warning_of(target: Node | str | None) -> str:
    """Return which budget of the node or its ancestors is used up; empty if none is."""
    used_up = _used_up(target)
    return used_up.warning if used_up else ""


def check(
    caller: object,
    action: Action,
    target: Node | str | None,
    known: Sequence[Budget] | None = None,
) -> str:
    """Raise BudgetUsedUp if the caller may begin no work at the target, a node or a VM id.

    Return a warning for callers that are not refused; empty if no budget is used up. `known` are
    the target's budgets if they have been read already.
    """
    budget = _used_up(target) if known is None else _first_used_up(known)
    if budget is None:
        return ""
    if permissions.home_of(caller) is not None:
        raise BudgetUsedUp(budget, caller, action, permissions.name_of(target))
    record_used_up(budget, actor=caller)
    return budget.warning


@contextmanager
def recording_refusals() -> Iterator[None]:
    """Record that a budget is used up after the transaction of what was refused."""
    try:
        yield
    except BudgetUsedUp as refusal:
        record_used_up(refusal.budget, actor=refusal.caller)
        raise


def record_all_used_up() -> None:
    """Record each budget that was used up since the last call."""
    rows = ProvisionGrant.objects.filter(dollars__isnull=False, used_up_at__isnull=True)
    for row in rows.select_related("node").order_by("pk"):
        for budget in _with_spending([row]):
            if budget.is_used_up:
                record_used_up(budget, actor="reef")


def record_used_up(budget: Budget, *, actor: object) -> None:
    """Record the event, once until the budget is changed or begins anew."""
    same = ProvisionGrant.objects.filter(
        pk=budget.grant.pk, dollars=budget.limit, dollars_since=budget.since, used_up_at=None
    )
    with transaction.atomic():
        if same.update(used_up_at=clock.now()):
            detail = {
                "reason": budget.share,
                "limit": float(budget.limit),
                "spent": float(budget.spent),
                "since": format_timestamp(budget.since),
            }
            recording.record(USED_UP, budget.vm_id, actor=actor, detail=detail)


def fields_of(
    old: ProvisionGrant | None, dollars: Decimal | None, *, renew: bool
) -> dict[str, Any]:
    """Return the fields of a grant whose budget is set to `dollars`; `old` is the row so far.

    What was spent still counts, unless there was no limit before, or the budget is renewed.
    """
    if old and old.dollars == dollars and not renew:
        return {"dollars": dollars}
    since = old.dollars_since if old and not renew else None
    if dollars is None:
        since = None
    elif since is None:
        since = clock.now()
    return {"dollars": dollars, "dollars_since": since, "used_up_at": None}


def _used_up(target: Node | str | None) -> Budget | None:
    """Return the topmost budget above the target that is used up."""
    return _first_used_up(budgets_of(target)) if target is not None else None


def _first_used_up(found: Sequence[Budget]) -> Budget | None:
    return next((budget for budget in found if budget.is_used_up), None)


def _with_spending(grants: Sequence[ProvisionGrant]) -> list[Budget]:
    spent: dict[int, Decimal] = {}
    if grants:
        for find in find_spending:
            spent.update(find(grants))
    return [
        Budget(row, row.dollars, row.dollars_since, spent.get(row.pk, ZERO))
        for row in grants
        if row.dollars is not None and row.dollars_since is not None
    ]
