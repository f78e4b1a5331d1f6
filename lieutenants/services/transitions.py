"""Status changes, their records, and the task that carries them out."""

from __future__ import annotations

from django.db import transaction

from lieutenants import tasks
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.common.dispatch import dispatch
from reef_site.common.eventlog import recording


def actor_name(actor: object) -> str:
    """Return the actor's name as rows store it."""
    return str(actor)[:200]


def record(what: str, lieutenant: Lieutenant, actor: object, **detail: object) -> None:
    """Record an event that is no transition; `Lieutenant.move` records those."""
    facts = {"name": lieutenant.name, **detail}
    recording.record(f"lieutenant.{what}", lieutenant.pk, actor=actor, detail=facts)


def move(lieutenant: Lieutenant, to: Status, reason: str, actor: object, **fields: object) -> None:
    """Move to another status, and let a worker carry it out. Raises IllegalMove, LostRace."""
    with transaction.atomic():
        lieutenant.move(to, reason=reason, actor=actor_name(actor), **fields)
        settle_later(lieutenant)


def settle_later(lieutenant: Lieutenant) -> None:
    """Ask a worker of its data folder to settle the lieutenant.

    Without a broker the next reconcile finds the row.
    """
    dispatch(tasks.settle, lieutenant.pk, queue=tasks.queue_of(lieutenant.data_folder))
