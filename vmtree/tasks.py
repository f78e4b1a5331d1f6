"""Periodic tasks of the tree."""

from __future__ import annotations

from reef_site.common.ticks import tick_task
from vmtree import snapshots


@tick_task("vmtree.snapshot", soft_time_limit=300, time_limit=360)
def snapshot() -> None:
    """Take the snapshot of this hour if there is none yet."""
    snapshots.tick()
