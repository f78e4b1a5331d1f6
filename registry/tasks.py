"""Doorbells and ticks of the registry."""

from __future__ import annotations

from celery import shared_task

from registry import placing, services


@shared_task(name="registry.sweep", soft_time_limit=30, time_limit=60)
def sweep() -> None:
    """Tell who watches which VMs became late or silent; place those whose parent came later."""
    services.sweep()
    placing.place_waiting()
