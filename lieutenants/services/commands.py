"""Commands to existing lieutenants, from pause to destroy."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from lieutenants import membership
from lieutenants.agents import dialect_of
from lieutenants.exceptions import LieutenantNotFound, NotNow, NotSupported
from lieutenants.hosts import destroyed_marks, liveness
from lieutenants.messages import delivery
from lieutenants.models import Lieutenant, Process
from lieutenants.services.lookup import permitted
from lieutenants.services.transitions import move, record
from lieutenants.states import Status
from lieutenants.supervision.discovery import everywhere
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace
from reef_site.common.ids import new_ulid
from vmtree import permissions
from vmtree.permissions import Action

logger = logging.getLogger(__name__)


def pause(name: str, *, actor: object, force: bool = False) -> Lieutenant:
    """Stop the agent gracefully and keep its session. Pausing a paused lieutenant does nothing."""
    lieutenant = permitted(name, actor, Action.COMMAND)
    if lieutenant.status == Status.PAUSED:
        return lieutenant
    if lieutenant.status == Status.WORKING and not force:
        raise NotNow(f"Lieutenant '{name}' is working. Wait for it to finish or steer it first.")
    move(lieutenant, Status.PAUSED, "pause requested", actor)
    return lieutenant


def resume(name: str, *, actor: object) -> Lieutenant:
    """Start the agent of a paused lieutenant again with its session."""
    lieutenant = permitted(name, actor, Action.START)
    if lieutenant.status != Status.PAUSED:
        raise NotNow(f"Lieutenant '{name}' is not paused (status: {lieutenant.status})")
    _check_agent(lieutenant)
    destroyed_marks.clear_mark(lieutenant)
    with transaction.atomic():
        _stop_live_process(lieutenant)
        move(lieutenant, Status.STARTING, "resume requested", actor, restarts=0)
    return lieutenant


def restart(name: str, *, actor: object) -> Lieutenant:
    """Stop the agent, if it runs, and start it again with its session."""
    lieutenant = permitted(name, actor, Action.START)
    if lieutenant.status == Status.STARTING:
        raise NotNow(f"Lieutenant '{name}' is starting already")
    _check_agent(lieutenant)
    destroyed_marks.clear_mark(lieutenant)
    with transaction.atomic():
        _stop_live_process(lieutenant)
        stop_frozen_process(lieutenant)
        move(lieutenant, Status.STARTING, "restart requested", actor, restarts=0)
    return lieutenant


def start_for_message(name: str, *, actor: object) -> None:
    """Start the agent of a lieutenant that is paused or has failed; others take messages."""
    status = permitted(name, actor, Action.START).status
    if status == Status.PAUSED:
        resume(name, actor=actor)
    elif status == Status.ERROR:
        restart(name, actor=actor)


def new_session(
    name: str, *, actor: object, begin: Callable[..., Lieutenant] | None = None
) -> Lieutenant:
    """Start the agent with a new, empty session. The old session's file is kept.

    `begin` is `resume` or `restart`; by default the status decides.
    """
    lieutenant = permitted(name, actor, Action.START)
    if not dialect_of(lieutenant).features.session:
        raise NotSupported(
            f"The agent '{lieutenant.agent}' has no session: each message starts anew"
        )
    begin = begin or (resume if lieutenant.status == Status.PAUSED else restart)
    with transaction.atomic():
        found = begin(name, actor=actor)
        stop_frozen_process(found)
        begin_session(found)
    logger.info("%s: new session requested by %s", name, actor)
    return found


def abort(name: str, *, actor: object) -> Lieutenant:
    """Abort the running answer, and withdraw the messages queued behind it."""
    lieutenant = permitted(name, actor, Action.COMMAND)
    if lieutenant.status != Status.WORKING:
        raise NotNow(f"Lieutenant '{name}' is not working (status: {lieutenant.status})")
    with transaction.atomic():
        now = timezone.now()
        Lieutenant.objects.filter(pk=lieutenant.pk).update(abort_asked_at=now)
        delivery.withdraw_queued(lieutenant, delivery.WITHDRAWN, now)
        record("aborted", lieutenant, actor)
        events.wake_follower(lieutenant.pk)
    logger.info("%s: abort requested by %s", name, actor)
    return lieutenant


def destroy(name: str, *, actor: object) -> str:
    """End the lieutenant for good and keep its transcript. Destroying it again does nothing."""
    lieutenant = Lieutenant.objects.active().filter(name=name).first()
    if lieutenant is None:
        lieutenant = Lieutenant.objects.filter(name=name).first()
        if lieutenant is None:
            raise LieutenantNotFound(name)
        permissions.check(actor, Action.DESTROY, membership.vm_id_of(lieutenant))
        return _destroy_summary(lieutenant)
    permissions.check(actor, Action.DESTROY, membership.vm_id_of(lieutenant))
    with transaction.atomic():
        move(lieutenant, Status.DESTROYED, "destroy requested", actor)
        delivery.withdraw_queued(lieutenant, delivery.DESTROYED, timezone.now())
        transaction.on_commit(lambda: destroyed_marks.mark_destroyed(lieutenant))
    return _destroy_summary(lieutenant)


def destroy_all(*, actor: object) -> list[str]:
    """Destroy all active lieutenants that the actor may command, oldest first.

    A node may command its descendants. A failure does not stop the others.
    """
    results = []
    living = Lieutenant.objects.active().order_by("created_at", "id")
    mine = [
        each.name
        for each in living
        if permissions.may(actor, Action.DESTROY, membership.vm_id_of(each))
    ]
    for name in mine:
        try:
            results.append(destroy(name, actor=actor))
        except (LostRace, IllegalMove) as error:
            results.append(f"{name}: failed — {error}")
    return results


def discover(*, actor: object) -> list[str]:
    """Adopt running agents that no follower follows, here and on all machines of lieutenants.

    Return a line for each. They may belong anywhere in the fleet, so nodes may not do this.
    Raises Forbidden.
    """
    permissions.check(actor, Action.COMMAND, None)
    return everywhere.discover(by=actor)


def at_rest(lieutenant_id: str) -> bool:
    """Return whether a start or stop of this lieutenant has completed."""
    lieutenant = Lieutenant.objects.filter(pk=lieutenant_id).first()
    if lieutenant is None or lieutenant.status == Status.STARTING:
        return lieutenant is None
    if lieutenant.rewind_to is not None:
        return False
    stopping = Process.objects.live().filter(lieutenant=lieutenant)
    return lieutenant.should_run or not stopping.exists()


def begin_session(lieutenant: Lieutenant) -> None:
    """Let the next start begin a session; the file of the present one is kept."""
    Lieutenant.objects.filter(pk=lieutenant.pk).update(
        session_name=f"session-{new_ulid()}.jsonl",
        session_since=timezone.now(),
        session_problem="",
        context_usage=None,
        failures={},
        failing_since=None,
        trouble="",
    )


def _check_agent(lieutenant: Lieutenant) -> None:
    """Raise AgentMissing if a lieutenant of this host has no agent program to start."""
    if lieutenant.is_local and lieutenant.data_folder == settings.DATA_FOLDER_ID:
        dialect_of(lieutenant).find_program(lieutenant)


def _stop_live_process(lieutenant: Lieutenant) -> None:
    """Ask a live process to stop; the next one starts when it has ended.

    There may be one even after a pause, if a resume follows before anything has stopped it.
    """
    live = lieutenant.processes.filter(ended_at__isnull=True, stop_asked_at__isnull=True)
    live.update(stop_asked_at=timezone.now())


def stop_frozen_process(lieutenant: Lieutenant) -> None:
    """Let an agent that waits in a paused VM end when that is resumed, instead of going on."""
    lieutenant.processes.filter(is_frozen=True).update(stop_asked_at=timezone.now())


def _destroy_summary(lieutenant: Lieutenant) -> str:
    if note := liveness.pending_note(lieutenant):
        return f"{lieutenant.name}: {note}"
    tasks_done = f"{lieutenant.task_count} tasks completed"
    where = "local" if lieutenant.is_local else f"VM {(lieutenant.on_vm or lieutenant.host)[:12]}"
    return f"{lieutenant.name}: destroyed ({where}, {tasks_done})"
