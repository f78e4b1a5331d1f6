"""Retention of plans and results of actions on many rows."""

from __future__ import annotations

from datetime import timedelta

from reef_site.common import clock
from reef_site.common.retention import Rule, days, delete_in_batches, retention_rules
from reef_site.lists.models import BulkItem, BulkRun, RunState

PLAN_DAYS = 1
RESULT_DAYS = 30


def register() -> None:
    """Register the rule."""
    rule = Rule(
        "actions on many rows",
        lambda: f"{days(RESULT_DAYS)}; plans that nobody has confirmed {days(PLAN_DAYS)}",
        tables=(BulkRun, BulkItem),
        prune=prune,
    )
    retention_rules.register(rule, key="bulk actions")


def prune() -> int:
    """Delete old plans and results; return how many."""
    now = clock.now()
    planned = BulkRun.objects.filter(state=RunState.PLANNED)
    old_plans = planned.filter(created_at__lt=now - timedelta(days=PLAN_DAYS))
    old_results = BulkRun.objects.filter(ended_at__lt=now - timedelta(days=RESULT_DAYS))
    return delete_in_batches(old_plans) + delete_in_batches(old_results)
