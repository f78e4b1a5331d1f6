"""Celery tasks of actions on many rows."""

from __future__ import annotations

from celery import shared_task

from reef_site.common.ticks import tick_task
from reef_site.lists import runner


@shared_task(name="lists.advance", soft_time_limit=50, time_limit=60)
def advance(run_id: str) -> None:
    """Go on with an action."""
    runner.advance(run_id)


@tick_task("lists.tick", soft_time_limit=20, time_limit=30)
def tick() -> None:
    """Go on with actions whose tasks were lost."""
    runner.tick()
