"""Scan of this host for unknown agents; carries out the requests of operators."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import IntegrityError
from django.utils import timezone

from lieutenants.agents import DEFAULT, DIALECTS, dialect_of
from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision.discovery import local
from lieutenants.supervision.transports import get_transport
from lieutenants.supervision.transports.base import Handle
from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace

logger = logging.getLogger(__name__)

# Time for an ended agent to disappear, and for a new one to get its row.
GRACE_SECONDS = 15.0
# An agent that was asked to end is killed after this time.
KILL_AFTER = timedelta(seconds=20)
FINAL_COMMAND_ID = "~farewell"


def scan_host() -> None:
    """Update the rows of this host and carry out requests."""
    UnknownAgent.objects.drop_lost_requests()
    found = dict(_find_unknown())
    here = UnknownAgent.objects.filter(data_folder=settings.DATA_FOLDER_ID)
    here.exclude(pk__in=found).delete()
    known = {row.pk: row for row in here}
    for run, (directory, handle) in found.items():
        why, can_be_taken_up = _why_unknown(directory)
        lieutenant = Lieutenant.objects.filter(pk=directory.parent.parent.name).first()
        facts = {
            "data_folder": settings.DATA_FOLDER_ID,
            "host": settings.HOST,
            "lieutenant_id": directory.parent.parent.name[:64],
            "name": lieutenant.name if lieutenant else "",
            "directory": str(directory),
            "handle": handle,
            "why": why,
            "can_be_taken_up": can_be_taken_up,
        }
        row, _ = UnknownAgent.objects.update_or_create(pk=run, defaults=facts)
        if run not in known:
            logger.warning("an agent runs that nobody follows: %s. %s", row, why)
            events.publish_lieutenant(row.lieutenant_id)
        if row.request:
            _carry_out(row)


def _find_unknown() -> Iterator[tuple[str, tuple[Path, Handle]]]:
    """Yield the run folders of live keepers without an open row, by run id."""
    transport = get_transport("local")
    followed = set(Process.objects.live().values_list("pk", flat=True))
    recently = timezone.now() - timedelta(seconds=GRACE_SECONDS)
    followed |= set(Process.objects.filter(ended_at__gt=recently).values_list("pk", flat=True))
    for directory in settings.LIEUTENANTS_DIR.glob("*/runs/*"):
        run = directory.name
        if run in followed or len(run) > 64 or _is_new(directory):
            continue
        handle = transport.find(str(directory))
        if handle and transport.alive(handle, str(directory)):
            yield run, (directory, handle)


def _is_new(directory: Path) -> bool:
    try:
        age = time.time() - (directory / "keeper.json").stat().st_mtime
    except OSError:
        return True
    return 0 <= age < GRACE_SECONDS


def _why_unknown(directory: Path) -> tuple[str, bool]:
    """Return why nobody follows the agent, and whether it can be taken up."""
    lieutenant = Lieutenant.objects.filter(pk=directory.parent.parent.name).first()
    if lieutenant is None:
        return "No lieutenant with this id is known.", False
    if lieutenant.status == Status.DESTROYED:
        return "Its lieutenant was destroyed.", False
    if lieutenant.data_folder != settings.DATA_FOLDER_ID:
        return f"Its lieutenant belongs to host {lieutenant.host} now.", False
    if lieutenant.live_process():
        return "Its lieutenant has another process.", False
    return "Its process is recorded as ended, or not at all.", True


def _carry_out(row: UnknownAgent) -> None:
    """Carry out the request. A failure is stored in the row; the request can be repeated."""
    problem = _take_up(row) if row.request == Request.TAKE_UP else _end(row)
    if problem:
        fields = {"request": "", "requested_at": None, "problem": problem}
        UnknownAgent.objects.filter(pk=row.pk).update(**fields)
    elif row.request == Request.TAKE_UP:
        UnknownAgent.objects.filter(pk=row.pk).delete()
    events.publish_lieutenant(row.lieutenant_id)


def _take_up(row: UnknownAgent) -> str:
    """Follow the agent again. Return why that failed, or ""."""
    try:
        reply = local.follow_again(Path(row.directory), row.handle)
    except (OSError, ValueError, IntegrityError, LostRace, IllegalMove) as error:
        return str(error)
    return "" if Process.objects.live().filter(pk=row.run).exists() else reply


def _end(row: UnknownAgent) -> str:
    """Ask the keeper to end the agent; kill it after KILL_AFTER. Return "": the next scan tells."""
    transport = get_transport("local")
    requested_at = row.requested_at or timezone.now()
    try:
        if timezone.now() - requested_at > KILL_AFTER:
            # The keeper's pid comes from a file, so it is never killed.
            transport.end(row.directory, row.handle, keeper=False)
        else:
            lieutenant = Lieutenant.objects.filter(pk=row.lieutenant_id).first()
            dialect = dialect_of(lieutenant) if lieutenant else DIALECTS[DEFAULT]
            transport.stop(row.directory, row.handle, dialect.abort(FINAL_COMMAND_ID))
    except TransportError as error:
        logger.info("cannot end %s yet: %s", row, error)
    return ""
