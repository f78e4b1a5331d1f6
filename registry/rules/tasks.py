"""Celery tasks of rules."""

from __future__ import annotations

from celery import shared_task

from reef_site.common.ticks import tick_task
from registry.rules import engine


@tick_task("rules.tick", soft_time_limit=30, time_limit=40)
def tick() -> None:
    """Record new cases of all rules."""
    engine.tick()


@shared_task(name="rules.act", soft_time_limit=50, time_limit=60)
def act(firing_id: int) -> None:
    """Run the action of one firing if it is still due."""
    engine.act(firing_id)
