"""Raw SQL of usage: sums that several writers add to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connection

from lieutenants.usage.models import UsageSlot
from reef_site.common.queries import to_driver_time

_KEY = "lieutenant_id, slot, provider, model"
_SUMS = ("calls", "input", "output", "cache_read", "cache_write", "cost")
_TABLE = UsageSlot._meta.db_table
_ADD = (
    f"INSERT INTO {_TABLE} ({_KEY}, {', '.join(_SUMS)}) VALUES ({', '.join(['%s'] * 10)})"
    f" ON CONFLICT ({_KEY}) DO UPDATE SET "
    + ", ".join(f"{name} = {_TABLE}.{name} + excluded.{name}" for name in _SUMS)
)


def add_to_slots(rows: Sequence[Sequence[Any]]) -> None:
    """Add sums to the slots; a row is lieutenant, slot, provider, model, calls, tokens, cost."""
    adapted = [
        [pk, to_driver_time(slot), *middle, connection.ops.adapt_decimalfield_value(cost, 18, 9)]
        for pk, slot, *middle, cost in rows
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_ADD, adapted)
