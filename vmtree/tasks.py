"""Ticks of the tree."""

from __future__ import annotations

from reef_site.common.ticks import tick_task
from vmtree import snapshots


@tick_task("vmtree.snapshot", soft_time_limit=300, time_limit=360)
def snapshot() -> None:
    """Make the snapshot of this hour, unless it is made."""
    snapshots.tick()
