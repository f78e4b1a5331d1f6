"""Celery tasks of the page Storage. Each may run twice, late or never."""

from __future__ import annotations

from celery import shared_task

from reef_site.common.ticks import tick_task
from reef_site.storage import measuring, pruning


@tick_task("storage.measure", soft_time_limit=300, time_limit=330)
def measure() -> None:
    """Measure the database and the data folders."""
    measuring.measure()


@tick_task("storage.prune", soft_time_limit=280, time_limit=300)
def prune() -> None:
    """Delete what is older than its retention rule says."""
    pruning.prune()


@shared_task(name="storage.measure_folder", soft_time_limit=100, time_limit=120)
def measure_folder() -> None:
    """Measure the data folder of this host."""
    measuring.measure_folder()
