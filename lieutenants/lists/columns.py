"""Columns of the list of lieutenants, and what one page of it shows."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from django.db.models import (
    Case,
    DecimalField,
    IntegerField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce, NullIf

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from lieutenants.transcript.usage_summary import UsageSummary
from lieutenants.usage.models import UsageSlot
from lieutenants.usage.periods import Periods
from reef_site.common.lists.sorting import Column

Rows = QuerySet[Lieutenant]
DEFAULT_SORT = "-created"
NO_USAGE = (UsageSummary(), Decimal(0))
# What needs a person first.
_RANKS = (
    *(Status.ERROR, Status.WORKING, Status.STARTING, Status.IDLE, Status.PAUSED),
    Status.DESTROYED,
)
_MONEY: DecimalField[Any, Any] = DecimalField(max_digits=18, decimal_places=9)
_CLASSES = ("input", "output", "cache_read", "cache_write", "cost")


def cost_of(lieutenant: str, slots: QuerySet[UsageSlot]) -> Coalesce:
    """Return an expression: the cost in these slots of the lieutenant with this key (a field)."""
    mine = slots.filter(lieutenant=OuterRef(lieutenant)).order_by().values("lieutenant")
    total = mine.annotate(total=Sum("cost")).values("total")
    return Coalesce(Subquery(total, output_field=_MONEY), Value(Decimal(0)), output_field=_MONEY)


def slots_of_today() -> QuerySet[UsageSlot]:
    """Return the usage since midnight in the reader's time zone."""
    return UsageSlot.objects.filter(slot__gte=Periods.current().today)


def _with_rank(rows: Rows) -> Rows:
    cases = [When(status=status, then=Value(rank)) for rank, status in enumerate(_RANKS)]
    return rows.annotate(rank=Case(*cases, output_field=IntegerField()))


def _with_model(rows: Rows) -> Rows:
    return rows.annotate(shown_model=Coalesce(NullIf("model_in_use", Value("")), "model"))


def _with_cost(rows: Rows) -> Rows:
    return rows.annotate(all_cost=cost_of("pk", UsageSlot.objects.all()))


def _with_cost_today(rows: Rows) -> Rows:
    return rows.annotate(cost_today=cost_of("pk", slots_of_today()))


COLUMNS = (
    Column("name", "Name", ("name",)),
    Column("status", "Status", ("rank", "status_since"), annotate=_with_rank),
    Column("task", "Task"),
    Column("model", "Model", ("shown_model",), annotate=_with_model),
    Column(
        "today",
        "Today",
        ("cost_today",),
        is_descending_first=True,
        annotate=_with_cost_today,
        css="to-right",
    ),
    Column(
        "cost",
        "Cost",
        ("all_cost",),
        is_descending_first=True,
        annotate=_with_cost,
        css="to-right",
    ),
    Column("host", "Host", ("host",)),
    Column("created", "Created", ("created_at",), is_descending_first=True, css="to-right"),
    Column(
        "activity",
        "Last activity",
        ("last_activity_at",),
        is_descending_first=True,
        css="to-right",
    ),
)


def usage_of(pks: Sequence[str]) -> dict[str, tuple[UsageSummary, Decimal]]:
    """Map lieutenants to their usage, and their cost today, in one query."""
    sums: dict[str, Any] = {f"total_{name}": Sum(name) for name in _CLASSES}
    today = Sum("cost", filter=Q(slot__gte=Periods.current().today))
    rows = UsageSlot.objects.filter(lieutenant__in=pks).order_by().values("lieutenant_id")
    return {
        row["lieutenant_id"]: (UsageSummary.of(row), row["today"] or Decimal(0))
        for row in rows.annotate(**sums, today=today)
    }
