"""Declare when the next sign of a lieutenant is due, or withdraw that."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from lieutenants import membership
from lieutenants.exceptions import NotNow
from lieutenants.models import Lieutenant
from lieutenants.next_sign import MAX_AHEAD, MAX_REASON
from lieutenants.services.lookup import permitted
from lieutenants.services.transitions import actor_name, record
from lieutenants.states import Status
from reef_site.common import events
from reef_site.common.clock import format_timestamp
from reef_site.common.errors import BadInput
from reef_site.common.text import is_storable, one_line
from versconfig.screening import sources
from vmtree.permissions import Action

_COLUMNS = ("next_sign_at", "next_sign_late_at", "next_sign_reason", "next_sign_by")


def declare_sign(
    name: str, due: datetime, reason: str, *, grace: int | None = None, actor: object
) -> Lieutenant:
    """Declare when the next sign of a lieutenant is due, and why; the newest declaration counts.

    `grace` is in seconds; without it that of its settings counts. The turn's end ends it. A node
    declares for itself and for those below it. Raises BadInput, NotFound, NotNow, Forbidden.
    """
    lieutenant = permitted(name, actor, Action.WRITE)
    reason = one_line(reason)
    if not reason or len(reason) > MAX_REASON or not is_storable(reason):
        raise BadInput(f"reason: 1 to {MAX_REASON} characters are needed", "reason")
    now = timezone.now()
    if not now < due <= now + timedelta(seconds=MAX_AHEAD):
        raise BadInput("at: must be in the future, at most seven days ahead", "at")
    seconds = lieutenant.sign_grace_seconds if grace is None else grace
    screen = sources.for_node(membership.vm_id_of(lieutenant), recheck=True)
    return _store(
        lieutenant,
        actor,
        next_sign_at=due,
        next_sign_late_at=due + timedelta(seconds=seconds),
        next_sign_reason=screen.cover(reason)[:MAX_REASON],
        next_sign_by=actor_name(actor),
    )


def withdraw_sign(name: str, *, actor: object) -> Lieutenant:
    """Withdraw what was declared; without a declaration that changes nothing.

    Raises NotFound, NotNow, Forbidden.
    """
    lieutenant = permitted(name, actor, Action.WRITE)
    if lieutenant.next_sign_at is None:
        return lieutenant
    values = ("", "")
    return _store(lieutenant, actor, **dict(zip(_COLUMNS, (None, None, *values), strict=True)))


def _store(lieutenant: Lieutenant, actor: object, **columns: object) -> Lieutenant:
    # The end of a start would erase what was declared during it.
    at_work = Lieutenant.objects.filter(pk=lieutenant.pk, status__in=(Status.IDLE, Status.WORKING))
    with transaction.atomic():
        if not at_work.update(**columns):
            lieutenant.refresh_from_db()
            is_starting = lieutenant.status == Status.STARTING
            state = "is starting" if is_starting else "does not run"
            raise NotNow(f"Lieutenant '{lieutenant.name}' {state}")
        told = {
            name: format_timestamp(each) if isinstance(each, datetime) else each
            for name, each in columns.items()
        }
        record("changed", lieutenant, actor, **told)
        events.publish_lieutenant(lieutenant.pk)
    lieutenant.refresh_from_db()
    return lieutenant
