"""Doorbells for the worker. Each re-reads the rows, so it may run twice, late or never."""

from __future__ import annotations

from celery import shared_task

from lieutenants import runtime


def queue_of(data_folder: str) -> str:
    """Return the queue of the workers that have this data folder."""
    return f"host.{data_folder}"


@shared_task(name="lieutenants.settle", soft_time_limit=60, time_limit=80)
def settle(lieutenant_id: str) -> None:
    """Start or stop this lieutenant's process, if that is what its row wants."""
    runtime.settle(lieutenant_id)
