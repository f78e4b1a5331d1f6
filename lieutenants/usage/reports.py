"""Reports of usage, each from a constant number of queries over the sums of `UsageSlot`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Self

from django.db.models import Expression, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from lieutenants.usage.models import UsageSlot
from lieutenants.usage.periods import Periods
from vmtree import permissions
from vmtree.models import Node
from vmtree.permissions import Action
from vmtree.queries.nodes import keys_of_vms_and_ancestors

Slots = QuerySet[UsageSlot]
ZERO = Decimal(0)
TOKENS = ("input", "output", "cache_read", "cache_write")


@dataclass(frozen=True)
class Money:
    """Costs of today, yesterday and seven days, and of the last hour, in dollars."""

    today: Decimal = ZERO
    yesterday: Decimal = ZERO
    yesterday_so_far: Decimal = ZERO
    week: Decimal = ZERO
    rate: Decimal = ZERO
    tokens: int = 0
    calls: int = 0

    def __add__(self, other: Money) -> Money:
        pairs = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Money(**pairs)

    @property
    def is_rising(self) -> bool:
        """Return whether today has cost more than yesterday until the same time."""
        return self.today > self.yesterday_so_far

    @classmethod
    def of(cls, sums: Mapping[str, Any], periods: Periods) -> Self:
        """Create it from the sums of `sums_of`."""
        dollars = ("today", "yesterday", "yesterday_so_far", "week")
        # SQLite adds up floats; nine digits behind the point are stored.
        found = {name: round(Decimal(sums[f"{name}_cost"]), 9) for name in dollars}
        rate = Decimal(sums["rate_cost"]) / Decimal(periods.rate_hours)
        tokens, calls = int(sums["week_tokens"]), int(sums["week_calls"])
        return cls(**found, rate=round(rate, 9), tokens=tokens, calls=calls)


@dataclass(frozen=True)
class Row:
    """The money of one lieutenant, model or subtree; `key` is its id."""

    key: str
    name: str
    money: Money
    provider: str = ""
    is_destroyed: bool = False
    # Of a subtree: whether others in it have usage.
    has_more: bool = False


@dataclass(frozen=True)
class Report:
    """The content of the page Usage."""

    periods: Periods
    total: Money = Money()
    lieutenants: list[Row] = field(default_factory=list)
    models: list[Row] = field(default_factory=list)
    subtrees: list[Row] = field(default_factory=list)
    # Dollars by slot, the oldest first.
    slots: list[tuple[datetime, Decimal]] = field(default_factory=list)


def readable_slots(caller: object, below: Node | None = None) -> Slots:
    """Return the slots of the lieutenants that the caller may read, of one subtree if given."""
    slots = UsageSlot.objects.order_by()
    nodes = permissions.readable(caller, Action.READ_TRANSCRIPT)
    if nodes is not None:
        slots = slots.filter(lieutenant__in=nodes.values("vm_id"))
    if below is not None:
        slots = slots.filter(lieutenant__in=permissions.line_of(below).values("vm_id"))
    return slots


def money(slots: Slots, periods: Periods | None = None) -> Money:
    """Return the money of these slots, from one query."""
    periods = periods or Periods.current()
    recent = slots.filter(slot__gte=periods.week)
    return Money.of(recent.aggregate(**sums_of(periods)), periods)


def fleet_money(caller: object) -> Money:
    """Return today's money and the rate per hour of what the caller may read, from one query.

    Days are those of the reader's time zone.
    """
    return money(readable_slots(caller))


def sums_of(periods: Periods) -> dict[str, Expression]:
    """Return the aggregates that `Money.of` reads."""
    is_today = Q(slot__gte=periods.today)
    is_yesterday = Q(slot__gte=periods.yesterday, slot__lt=periods.today)
    so_far = Q(slot__gte=periods.yesterday, slot__lt=periods.yesterday_so_far)
    wanted = {
        "today_cost": Sum("cost", filter=is_today),
        "yesterday_cost": Sum("cost", filter=is_yesterday),
        "yesterday_so_far_cost": Sum("cost", filter=so_far),
        "week_cost": Sum("cost"),
        "rate_cost": Sum("cost", filter=Q(slot__gte=periods.rate_since)),
    }
    tokens = [Coalesce(Sum(name), 0) for name in TOKENS]
    return {
        **{name: Coalesce(each, ZERO) for name, each in wanted.items()},
        "week_tokens": tokens[0] + tokens[1] + tokens[2] + tokens[3],
        "week_calls": Coalesce(Sum("calls"), 0),
    }


def make_report(caller: object, below: Node | None = None) -> Report:
    """Return the report of what the caller may read, or of one subtree of it."""
    periods = Periods.current()
    slots = readable_slots(caller, below).filter(slot__gte=periods.week)
    lieutenants = _by_lieutenant(slots, periods)
    by_time = slots.values("slot").annotate(dollars=Sum("cost")).order_by("slot")
    return Report(
        periods,
        sum((row.money for row in lieutenants), Money()),
        lieutenants,
        _by_model(slots, periods),
        by_subtree(lieutenants, below),
        [(row["slot"], Decimal(row["dollars"])) for row in by_time],
    )


def _by_lieutenant(slots: Slots, periods: Periods) -> list[Row]:
    names = ("lieutenant_id", "lieutenant__name", "lieutenant__status")
    found = slots.values(*names).annotate(**sums_of(periods))
    return _dearest_first(
        Row(
            row["lieutenant_id"],
            row["lieutenant__name"],
            Money.of(row, periods),
            is_destroyed=row["lieutenant__status"] == "destroyed",
        )
        for row in found
    )


def _by_model(slots: Slots, periods: Periods) -> list[Row]:
    found = slots.values("provider", "model").annotate(**sums_of(periods))
    return _dearest_first(
        Row(
            f"{row['provider']}/{row['model']}",
            row["model"] or "unknown",
            Money.of(row, periods),
            provider=row["provider"],
        )
        for row in found
    )


def by_subtree(lieutenants: Iterable[Row], below: Node | None) -> list[Row]:
    """Add up the lieutenants by the children of a node, or by the roots of the tree.

    What the node itself has used is a row of its own.
    """
    by_id = {row.key: row for row in lieutenants}
    found: dict[str, Row] = {}
    for vm_id, (top_id, name) in tops_of(by_id, below).items():
        row = found.get(top_id) or Row(top_id, name, Money())
        has_more = row.has_more or vm_id != top_id
        found[top_id] = replace(row, money=row.money + by_id[vm_id].money, has_more=has_more)
    return _dearest_first(found.values())


def tops_of(vm_ids: Iterable[str], below: Node | None) -> dict[str, tuple[str, str]]:
    """Map VMs to the ids and names of their ancestors, or themselves, that stand under `below`.

    Without `below` these are roots of the tree; `below` itself is its own. By the tree as it is
    now, in two queries; removed nodes are in it.
    """
    wanted = sorted(vm_ids)
    keys = keys_of_vms_and_ancestors(wanted)
    columns = Node.objects.filter(pk__in=keys).values_list("pk", "vm_id", "name", "parent_id")
    nodes = {pk: (vm_id, name, parent) for pk, vm_id, name, parent in columns}
    by_id = {vm_id: pk for pk, (vm_id, _, _) in nodes.items()}
    stop = below.pk if below else None
    found = {}
    for vm_id in wanted:
        if vm_id in by_id:
            top_id, name, _ = nodes[_child_above(by_id[vm_id], stop, nodes)]
            found[vm_id] = (top_id, name or top_id)
    return found


def _child_above(pk: int, stop: int | None, nodes: Mapping[int, tuple[Any, ...]]) -> int:
    """Return the ancestor of this node, or itself, whose parent is `stop`; `stop` itself stays."""
    while pk != stop and (parent := nodes[pk][2]) is not None and parent != stop:
        pk = parent
    return pk


def _dearest_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.money.week, -row.money.tokens, row.name))
