"""Dispatch worker tasks and publish events. Without a broker the next tick finds due work."""

from __future__ import annotations

from reef_site.common import broker, events


def advance(provisioning_id: str, *, later: float = 0) -> None:
    """Dispatch the task that advances this provisioning, `later` seconds from now."""
    _ring("bootloader.advance", [provisioning_id], later)


def begin() -> None:
    """Dispatch the task that starts queued provisionings."""
    _ring("bootloader.begin", [], 0)


def tell(provisioning_id: str) -> None:
    """Publish a change of this provisioning to pages."""
    events.publish_provisionings([provisioning_id])


def _ring(task: str, args: list[object], later: float) -> None:
    broker.send_task(task, args, countdown=later)
