"""Usage summaries for pages: tokens and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Self

from django.db.models import Sum
from django.utils import timezone

from lieutenants.models import Answer, Lieutenant, Usage, UsageSlot
from lieutenants.usage.sums import CLASSES


@dataclass(frozen=True)
class UsageSummary:
    """Tokens by class, cost in dollars, and number of model calls."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: Decimal = Decimal(0)
    calls: int = 0

    @classmethod
    def of(cls, sums: Mapping[str, Any] | None) -> Self:
        """Create it from the result of `UsageQuerySet.sums` and the like; None means no usage."""
        sums = sums or {}
        return cls(
            input=sums.get("total_input") or 0,
            output=sums.get("total_output") or 0,
            cache_read=sums.get("total_cache_read") or 0,
            cache_write=sums.get("total_cache_write") or 0,
            cost=sums.get("total_cost") or Decimal(0),
            calls=sums.get("calls") or 0,
        )

    @property
    def tokens(self) -> int:
        """Return the tokens of all classes."""
        return self.input + self.output + self.cache_read + self.cache_write


@dataclass(frozen=True)
class UsagePeriods:
    """Usage of one lieutenant: of its newest answer, of today (UTC), in total."""

    task: UsageSummary
    today: UsageSummary
    total: UsageSummary


def utc_today() -> date:
    """Return the day under which usage is stored now."""
    now: datetime = timezone.now()
    return now.astimezone(UTC).date()


def usage_periods(lieutenant: Lieutenant) -> UsagePeriods:
    """Return the usage of one lieutenant, in four queries.

    The total is that of its quarters of an hour: there are fewer of them, and they are kept.
    """
    mine = Usage.objects.filter(lieutenant=lieutenant)
    newest = Answer.objects.filter(lieutenant=lieutenant).only("pk").order_by("-id").first()
    task = UsageSummary.of(Usage.objects.filter(answer=newest).sums()) if newest else UsageSummary()
    today = UsageSummary.of(mine.filter(day=utc_today()).sums())
    return UsagePeriods(task=task, today=today, total=_total_of(lieutenant))


def _total_of(lieutenant: Lieutenant) -> UsageSummary:
    sums = {f"total_{name}": Sum(name) for name in (*CLASSES, "cost")}
    mine = UsageSlot.objects.filter(lieutenant=lieutenant)
    return UsageSummary.of(mine.aggregate(**sums, calls=Sum("calls")))
