"""Doorbells and ticks of the registry."""

from __future__ import annotations

from reef_site.common.ticks import tick_task
from registry import placing, services


@tick_task("registry.sweep", soft_time_limit=30, time_limit=60)
def sweep() -> None:
    """Tell who watches which VMs became late or silent; place those whose parent came later."""
    services.sweep()
    placing.place_waiting()
