"""Celery tasks. They reread the rows, so each may run twice, late or never."""

from __future__ import annotations

from celery import shared_task

from lieutenants.supervision import runtime


def queue_of(data_folder: str) -> str:
    """Return the queue of the workers with this data folder."""
    return f"host.{data_folder}"


@shared_task(name="lieutenants.settle", soft_time_limit=60, time_limit=80)
def settle(lieutenant_id: str) -> None:
    """Start or stop this lieutenant's process, as its row wants."""
    runtime.converge(lieutenant_id)
