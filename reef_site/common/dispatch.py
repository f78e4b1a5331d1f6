"""Celery tasks are sent through here, after the transaction that makes them necessary.

    with transaction.atomic():
        job.save()
        dispatch("operations.advance", job.pk)      # sent after the commit

A message may be lost, come late or come twice. So tasks take ids, read the rows again and claim
them (`leases`), and for each task there is a tick that finds what no message came for. Only the
ticks themselves are sent in another way: the scheduler must know whether one was sent.
"""

from __future__ import annotations

from typing import Any

from celery import Task

from reef_site.common import broker
from reef_site.common.transactions import after_commit


def dispatch(
    task: Task[..., Any] | str, *args: object, queue: str | None = None, countdown: float = 0.0
) -> None:
    """Send a task, or the task of this name, when the current transaction commits.

    `countdown` is the seconds that a worker waits before it begins. Without `queue` any worker may
    take it. Nobody waits for the broker, and its failure is not an error.
    """
    name = task if isinstance(task, str) else str(task.name)
    after_commit(lambda: send(name, list(args), queue=queue, countdown=countdown))


def send(task: str, args: list[object], *, queue: str | None, countdown: float) -> None:
    """Hand a task to the broker. All of them go through here, and tests replace it."""
    broker.send_task(task, args, queue=queue, countdown=countdown)
