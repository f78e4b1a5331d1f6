"""Celery tasks of provisioning. Each re-reads the rows, so it may run twice, late or never."""

from __future__ import annotations

from celery import shared_task

from bootloader.commands import services as commands
from bootloader.grants import budgets as grant_budgets
from bootloader.inventory import reconcile as reconciling
from bootloader.provisioning import quota, runner
from reef_site.common.ticks import tick_task


@shared_task(name="bootloader.advance", soft_time_limit=340, time_limit=360)
def advance(provisioning_id: str) -> None:
    """Advance a provisioning for a while."""
    runner.advance(provisioning_id)


@shared_task(name="bootloader.begin", soft_time_limit=20, time_limit=30)
def begin() -> None:
    """Start queued provisionings for which there are free slots."""
    quota.start_queued()


@tick_task("bootloader.tick", soft_time_limit=20, time_limit=30)
def tick() -> None:
    """Dispatch provisionings that a lost message or a dead worker left behind."""
    runner.tick()


@tick_task("bootloader.sweep", soft_time_limit=50, time_limit=60)
def sweep() -> None:
    """End commands whose worker has died."""
    commands.settle_overdue()


@tick_task("bootloader.budgets", soft_time_limit=50, time_limit=60)
def budgets() -> None:
    """Record budgets that are used up."""
    grant_budgets.record_all_used_up()


@tick_task("bootloader.reconcile", soft_time_limit=150, time_limit=170)
def reconcile() -> None:
    """Compare providers with tree and registry."""
    reconciling.compare_all()
