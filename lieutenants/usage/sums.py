"""Adds new usage to the sums by quarters of an hour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

from django.conf import settings

from bootloader.models import ProvisionGrant
from lieutenants.models import Usage
from lieutenants.usage import queries
from lieutenants.usage.models import slot_of
from reef_site.common import clock
from reef_site.common.retention import delete_in_batches

CLASSES = ("input", "output", "cache_read", "cache_write")
Key = tuple[str, datetime, str, str]


class Call(Protocol):
    """The usage of one model call: a row of `Usage`, also of a migration's."""

    lieutenant_id: Any
    at: datetime
    provider: str
    model: str
    cost: Decimal


def add(calls: Sequence[Call]) -> None:
    """Add these calls, in the transaction that stores them."""
    if calls:
        queries.add_to_slots([[*key, *sums] for key, sums in summed(calls).items()])


def delete_old_calls() -> int:
    """Delete rows of single calls that are older than the setting allows; return how many.

    Their sums stay, in the slots. Calls of the day on which a budget began stay as well: of its
    first quarter of an hour, single calls count.
    """
    if not settings.USAGE_DAYS:
        return 0
    oldest = clock.now().astimezone(UTC).date() - timedelta(days=settings.USAGE_DAYS)
    begun = ProvisionGrant.objects.values_list("dollars_since", flat=True)
    kept = {since.astimezone(UTC).date() for since in begun if since}
    old = Usage.objects.filter(day__lt=oldest).exclude(day__in=kept)
    return delete_in_batches(old.order_by("day"))


def summed(calls: Iterable[Call]) -> dict[Key, list[Any]]:
    """Map lieutenant, slot, provider and model to calls, tokens by class, and dollars.

    In the order of the keys, so that two writers never wait for each other.
    """
    found: dict[Key, list[Any]] = {}
    for call in calls:
        key = (str(call.lieutenant_id), slot_of(call.at), call.provider, call.model)
        sums = found.setdefault(key, [0] * (1 + len(CLASSES)) + [Decimal(0)])
        figures = (1, *(getattr(call, name) for name in CLASSES), Decimal(call.cost))
        for place, figure in enumerate(figures):
            sums[place] += figure
    return dict(sorted(found.items()))
