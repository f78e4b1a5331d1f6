"""Following a running agent again, from where its journal was left."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from django.conf import settings
from django.db import transaction
from django.db.models import F

from lieutenants.models import Lieutenant, Process
from lieutenants.states import RUNNING, Status
from lieutenants.supervision import machine_locks
from lieutenants.supervision.transports.base import Handle
from reef_site.common import events
from reef_site.common.errors import LostRace


class FoundRun(NamedTuple):
    """A running keeper; `where` names its place for people."""

    lieutenant_id: str
    run: str
    directory: str
    handle: Handle
    where: str


def follow(lieutenant: Lieutenant, found: FoundRun) -> None:
    """Follow a running keeper again. Raises IntegrityError, LostRace, IllegalMove."""
    with transaction.atomic():
        # Whoever is pausing the VM looks again afterwards, with this lock, and resumes it.
        machine_locks.lock(lieutenant.on_vm)
        Process.objects.filter(pk=found.run).lock()
        # Meanwhile another follower may have got the lieutenant.
        same = Lieutenant.objects.select_for_update().filter(
            pk=lieutenant.pk, status=lieutenant.status, data_folder=lieutenant.data_folder
        )
        if not same.values_list("pk"):
            raise LostRace(f"Lieutenant '{lieutenant}' has changed meanwhile")
        if Process.objects.pausing().filter(pk=found.run).exists():
            # Whoever pauses the VM, or goes on with that, would not know that it must be awake.
            raise LostRace(f"the VM of '{lieutenant}' is being paused; ask again")
        _reopen_process(lieutenant, found)
        reason = "its running agent was discovered"
        if lieutenant.status not in RUNNING:
            lieutenant.move(Status.STARTING, reason=reason)
        if lieutenant.status != Status.WORKING and _was_ready(found.run):
            # The follower detects by itself whether the agent is idle.
            lieutenant.move(Status.WORKING, reason=reason)
        events.wake_follower(lieutenant.pk)


def _was_ready(run: str) -> bool:
    return Process.objects.filter(pk=run, ready_at__isnull=False).exists()


def _reopen_process(lieutenant: Lieutenant, found: FoundRun) -> None:
    """Reopen the process's row where its journal was left, or create it.

    A remote one is followed where its lieutenant belongs, which may be another data folder.
    """
    run, handle = found.run, found.handle
    isolation = str(handle.get("isolation") or "")
    Lieutenant.objects.filter(pk=lieutenant.pk).update(isolation=isolation)
    known = Process.objects.filter(pk=run, lieutenant=lieutenant)
    folder = settings.DATA_FOLDER_ID if lieutenant.is_local else lieutenant.data_folder
    facts: dict[str, Any] = {
        "ended_at": None,
        "end_reason": "",
        "handle": handle,
        "stop_asked_at": None,
    }
    facts |= {"is_abandoned": False, "is_frozen": False, "vm_paused_at": None}
    # Another follower may have had it.
    facts |= {"data_folder": folder, "generation": F("generation") + 1}
    if known.update(**facts):
        return
    Process.objects.create(
        id=run,
        lieutenant=lieutenant,
        data_folder=folder,
        host=settings.HOST if lieutenant.is_local else lieutenant.host,
        transport=lieutenant.transport,
        directory=found.directory,
        agent=json.dumps(handle),
        handle=handle,
    )
