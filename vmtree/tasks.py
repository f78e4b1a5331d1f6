"""Ticks of the tree."""

from __future__ import annotations

from celery import shared_task

from vmtree import snapshots


@shared_task(name="vmtree.snapshot", soft_time_limit=300, time_limit=360)
def snapshot() -> None:
    """Make the snapshot of this hour, unless it is made."""
    snapshots.tick()
