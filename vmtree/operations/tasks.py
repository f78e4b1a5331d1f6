"""Celery tasks of jobs. Each task re-reads the rows, so it may run twice, late or never."""

from __future__ import annotations

from celery import shared_task

from reef_site.common.ticks import tick_task
from vmtree.operations import runner


@shared_task(name="operations.advance", soft_time_limit=50, time_limit=60)
def advance(job_id: str) -> None:
    """Advance a job and schedule its next steps."""
    runner.advance(job_id)


@shared_task(name="operations.act", soft_time_limit=50, time_limit=60)
def act(step_ids: list[int]) -> None:
    """Run these steps."""
    runner.act(step_ids)


@tick_task("operations.tick", soft_time_limit=20, time_limit=30)
def tick() -> None:
    """Resume the work of lost tasks."""
    runner.tick()
