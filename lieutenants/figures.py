"""Tokens and cost as pages show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Self

from django.utils import timezone

from lieutenants.models import Answer, Lieutenant, Usage


@dataclass(frozen=True)
class Figures:
    """Tokens by class, dollars, and the number of calls of the model."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cost: Decimal = Decimal(0)
    calls: int = 0

    @classmethod
    def of(cls, sums: Mapping[str, Any] | None) -> Self:
        """From what `UsageQuerySet.sums` and its relatives give; None is no usage."""
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
        """Of all classes together."""
        return self.input + self.output + self.cache_read + self.cache_write


@dataclass(frozen=True)
class Spans:
    """One lieutenant's figures: of its newest answer, of today (UTC), of its whole life."""

    task: Figures
    today: Figures
    total: Figures


def utc_today() -> date:
    """The day that usage is counted under now."""
    now: datetime = timezone.now()
    return now.astimezone(UTC).date()


def fleet_today() -> Figures:
    """What all lieutenants used today (UTC)."""
    return Figures.of(Usage.objects.filter(day=utc_today()).sums())


def spans_of(lieutenant: Lieutenant) -> Spans:
    """What one lieutenant used, in three statements and one for its newest answer."""
    mine = Usage.objects.filter(lieutenant=lieutenant)
    newest = Answer.objects.filter(lieutenant=lieutenant).only("pk").order_by("-id").first()
    task = Figures.of(Usage.objects.filter(answer=newest).sums()) if newest else Figures()
    today = Figures.of(mine.filter(day=utc_today()).sums())
    return Spans(task=task, today=today, total=Figures.of(mine.sums()))
