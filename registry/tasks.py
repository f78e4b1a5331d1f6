"""Periodic tasks of the registry."""

from __future__ import annotations

from reef_site.common.ticks import tick_task
from registry import placement, services


@tick_task("registry.sweep", soft_time_limit=30, time_limit=60)
def sweep() -> None:
    """Publish which VMs became late or silent; place VMs whose parent is in the tree now."""
    services.sweep()
    placement.place_pending()
