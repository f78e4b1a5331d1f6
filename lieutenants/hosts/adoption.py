"""Taking over the lieutenants of a host that does not answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from lieutenants.exceptions import NotNow, ProgressLost
from lieutenants.hosts import paths, sharing
from lieutenants.hosts.liveness import Host, list_hosts
from lieutenants.isolation import homes
from lieutenants.models import Lieutenant, Process
from lieutenants.sessions.inputs import ProcessUnreachable
from lieutenants.sessions.session import Session
from lieutenants.states import RUNNING, Status
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace, NotFound
from reef_site.common.errors import NotFound as NotRegistered
from reef_site.common.text import clip
from registry import services as registry
from vmtree import permissions
from vmtree.permissions import Action

MAX_SHOWN = 100

logger = logging.getLogger(__name__)


def adopt(name: str, *, actor: object, force: bool = False) -> list[str]:
    """Take over the lieutenants of a host into this data folder; return one line for each.

    `name` is the name of the host or the identity of its data folder. Raises Forbidden, NotFound,
    and NotNow if the host responds, unless forced.
    """
    permissions.check(actor, Action.COMMAND, None)
    named = [
        host for host in list_hosts() if name in {host.name, host.id} - {""} and not host.is_here
    ]
    if not named:
        raise NotFound(f"There is no other host '{clip(name, MAX_SHOWN)}'")
    silent = [host for host in named if force or not host.answers]
    if not silent:
        raise NotNow(f"Host '{name}' answers, so its lieutenants are not taken over")
    lines = []
    for host in silent:
        living = Lieutenant.objects.active().filter(host.rows)
        rows = list(living.order_by("created_at", "id"))
        outcomes = [
            _unless_changed(lieutenant, partial(_take_over, lieutenant, host))
            for lieutenant in rows
        ]
        outcomes += _abandon_leftovers(host)
        logger.warning("%s adopts host %s: %s", actor, host.name, "; ".join(outcomes))
        lines += outcomes
    return lines or [f"{name}: no lieutenants belong to it"]


def _unless_changed(lieutenant: Lieutenant, act: Callable[[], str]) -> str:
    """Return the line of `act`, or the reason why it changed nothing.

    The follower of a host that responds writes the same rows; one of the two must give way.
    """
    try:
        return act()
    except (ProgressLost, LostRace, IllegalMove) as error:
        return f"{lieutenant.name}: left alone, its own host changed it at the same time ({error})"


def _abandon_leftovers(host: Host) -> list[str]:
    """Abandon the agents of destroyed lieutenants; the host ends them when it is back."""
    rows = (
        Process.objects.live()
        .filter(host.rows, lieutenant__status=Status.DESTROYED)
        .select_related("lieutenant")
    )
    return [
        _unless_changed(process.lieutenant, partial(_abandon_leftover, process, host))
        for process in rows
    ]


def _abandon_leftover(process: Process, host: Host) -> str:
    with transaction.atomic():
        _abandon(process, f"Host {host.name} does not answer; it ends this agent once it does.")
    return f"{process.lieutenant.name}: destroyed; {host.name} ends its agent once it answers"


def _take_over(lieutenant: Lieutenant, host: Host) -> str:
    with transaction.atomic():
        fields = {
            "data_folder": settings.DATA_FOLDER_ID,
            "host": settings.HOST,
            "folder": _local_folder(lieutenant, host),
            "leased_until": None,
            "leased_by": "",
        }
        if not lieutenant.is_local:
            del fields["host"], fields["folder"]
        sharing.lock_processes([lieutenant.pk])
        # The WHERE clause is the lock: only one of two adopters finds the row.
        mine = Lieutenant.objects.filter(host.rows, pk=lieutenant.pk)
        if not mine.update(**fields):
            return f"{lieutenant.name}: left alone, somebody else took it over"
        lieutenant.refresh_from_db()
        has_session = not lieutenant.is_local or _has_session(lieutenant)
        remark = _take_process(lieutenant, host, has_session=has_session)
        try:
            registry.patch(lieutenant.pk, {"address": lieutenant.host})
        except NotRegistered:
            logger.info("%s is not registered; the follower makes up for it", lieutenant)
        events.publish_lieutenant(lieutenant.pk)
        events.wake_follower(lieutenant.pk)
    return f"{lieutenant.name}: taken over from {host.name}{remark}"


def _has_session(lieutenant: Lieutenant) -> bool:
    """Return whether the session file of the lieutenant is in this data folder."""
    return (homes.home_of(lieutenant.pk).session / lieutenant.session_name).exists()


def _take_process(lieutenant: Lieutenant, host: Host, *, has_session: bool) -> str:
    """Adopt its process if the run folder is here, else end its row. Return a remark."""
    process = lieutenant.live_process()
    if process:
        if process.transport != "local":
            # Its keeper is on another machine, and is followed from here now.
            sharing.take_processes([lieutenant.pk], settings.DATA_FOLDER_ID)
            return ""
        directory = homes.home_of(lieutenant.pk).runs / process.pk
        if paths.is_local_run(str(directory)):
            Process.objects.filter(pk=process.pk).update(
                data_folder=settings.DATA_FOLDER_ID, host=settings.HOST, directory=str(directory)
            )
            return ""
    if (
        lieutenant.status == Status.STARTING
        and process is None
        and not lieutenant.processes.exists()
    ):
        # The lieutenant never ran there, so nothing is missing.
        return ""
    place = f"in its folder {host.path}" if host.path else "there"
    reason = f"It was taken over from host {host.name}, which does not answer."
    if has_session:
        reason += " Its session is here: Restart goes on with it."
    else:
        reason += (
            f" Its session is on {host.name}, {place}/lieutenants/{lieutenant.pk}: copy it here "
            "first, or start it with a new session."
        )
        # Pages offer a new session if this is set.
        Lieutenant.objects.filter(pk=lieutenant.pk).update(session_problem=reason)
    if process:
        _abandon(process, reason)
    elif lieutenant.status in RUNNING:
        lieutenant.move(Status.ERROR, reason=reason, error=reason)
    if lieutenant.status == Status.PAUSED and not has_session:
        Lieutenant.objects.filter(pk=lieutenant.pk).update(error=reason)
    return "" if has_session else f"; its session is on {host.name}"


def _abandon(process: Process, reason: str) -> None:
    """End the row of a process that is out of reach; its host ends the process when it is back."""
    process.stop_asked_at = timezone.now()
    process.is_abandoned = True
    process.save(update_fields=["stop_asked_at", "is_abandoned"])
    Session.open(process, time.monotonic()).commit(ProcessUnreachable(reason))


def _local_folder(lieutenant: Lieutenant, host: Host) -> str:
    """Return the working folder as a path in this data folder; a folder outside stays unchanged."""
    ending_of_own = f"/lieutenants/{lieutenant.pk}/workspace"
    if lieutenant.folder.endswith(ending_of_own):
        return str(homes.home_of(lieutenant.pk).workspace)
    path = PurePosixPath(lieutenant.folder)
    if host.path and path.is_relative_to(host.path):
        return str(settings.DATA_DIR / path.relative_to(host.path))
    return lieutenant.folder
