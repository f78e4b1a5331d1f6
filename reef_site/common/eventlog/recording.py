"""Records events in the transaction of what they tell about."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from django.db import transaction

from reef_site.common import clock, events
from reef_site.common.eventlog import queries
from reef_site.common.eventlog.models import Event
from reef_site.common.hooks import Hook
from reef_site.common.queries.rows import insert_rows
from reef_site.common.text import to_storable
from reef_site.common.transactions import after_commit

logger = logging.getLogger(__name__)

MAX_TEXT = 1000

after_recording: Hook[Callable[[], None]] = Hook(
    "eventlog.after_recording", "What to do when new events were committed; must not wait."
)


class NewEvent(NamedTuple):
    """An event to record. Without `vm_id` it is about the VM whose id is the subject."""

    kind: str
    subject: str
    detail: Mapping[str, Any] = {}
    vm_id: str | None = None


def record(
    kind: str,
    subject: str,
    *,
    actor: object,
    detail: Mapping[str, Any] | None = None,
    vm_id: str | None = None,
) -> None:
    """Record that something happened. A rollback of the current transaction drops it.

    `detail` is JSON without secrets; long texts in it are cut. An empty `vm_id` says that the
    event is about no VM.
    """
    record_many([NewEvent(kind, subject, detail or {}, vm_id)], actor=actor)


def record_many(new: Iterable[NewEvent], *, actor: object) -> None:
    """Record several events of one actor."""
    record_by((actor, each) for each in new)


def record_by(new: Iterable[tuple[object, NewEvent]]) -> None:
    """Record events, each with its actor."""
    now = clock.now()
    rows = [_row(each, to_storable(str(actor))[:200], now) for actor, each in new]
    if not rows:
        return
    with transaction.atomic(savepoint=False):
        queries.begin_recording()
        insert_rows(rows)
        after_commit(_announce)


def _row(new: NewEvent, actor: str, at: Any) -> Event:
    subject = to_storable(new.subject)[:255]
    return Event(
        at=at,
        kind=new.kind,
        topic=new.kind.partition(".")[0],
        subject=subject,
        vm_id=subject if new.vm_id is None else new.vm_id,
        actor=actor,
        detail={name: _cut(value) for name, value in new.detail.items()},
    )


def _cut(value: Any) -> Any:
    return to_storable(value)[:MAX_TEXT] if isinstance(value, str) else value


def _announce() -> None:
    events.publish(events.Topic.RECORDED)
    for act in after_recording:
        try:
            act()
        except Exception:
            # The change is committed: what only follows from it must not fail the request.
            logger.exception("new events could not be announced")
