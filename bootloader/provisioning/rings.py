"""Doorbells for the worker and for pages; without a broker the next tick finds what is due."""

from __future__ import annotations

from reef_site.common import broker, events


def advance(provisioning_id: str, *, later: float = 0) -> None:
    """Somebody is to move this provisioning on, `later` seconds from now."""
    _ring("bootloader.advance", [provisioning_id], later)


def begin() -> None:
    """Somebody is to look whether one that waits may begin."""
    _ring("bootloader.begin", [], 0)


def tell(provisioning_id: str) -> None:
    """Pages that show it look again."""
    events.publish_provisionings([provisioning_id])


def _ring(task: str, args: list[object], later: float) -> None:
    broker.send_task(task, args, countdown=later)
