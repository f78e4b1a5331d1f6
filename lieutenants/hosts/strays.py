"""Agents of this host whose data folder was copied, moved or replaced."""

from __future__ import annotations

import logging
import os
import re
import signal
from contextlib import suppress
from pathlib import Path

from django.utils import timezone

from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision.transports import get_transport, transport_of
from reef_site.common import events, locks

logger = logging.getLogger(__name__)

# Interval between two checks of an agent in another folder.
AGAIN_SECONDS = 2.0
# A word in the command line of a keeper: its file, or in older versions its name alone.
_KEEPER_WORD = re.compile(rb"(.*/)?keeper(-[0-9a-f]+\.pyz|\.py)|keeper", re.DOTALL)
TROUBLE = "Its agent still runs in another folder"


def runs_elsewhere(process: Process) -> bool:
    """Return whether the keeper of this row is alive, but not in the row's folder.

    That happens when a copy has replaced the data folder. A keeper locks its folder as long as it
    lives, and the lock moves along with the folder.
    """
    if process.transport != "local" or not get_transport("local").alive(process.handle):
        return False
    if not _is_keeper(process.handle["keeper_pid"]):
        return False  # after a reboot, another process has its pid
    try:
        return not locks.is_held(process.directory, strict=True)
    except FileNotFoundError:
        return True
    except OSError as error:
        logger.warning("cannot look at %s: %s", process.directory, error)
        return False


def check_stray(process: Process) -> None:
    """Report a process that runs in another folder, or end it if that was requested."""
    if not process.handle or not runs_elsewhere(process):
        return
    pid = int(process.handle["keeper_pid"])
    if process.stop_asked_at:
        logger.warning("ending the agent of %s in another folder (pid %d)", process, pid)
        _end(process, pid)
        return
    text = (
        f"{TROUBLE}{_working_folder(pid)} (pid {pid}), since this data folder "
        "is a copy or was replaced. Restart ends that agent and starts it here."
    )
    lieutenant = Lieutenant.objects.filter(pk=process.lieutenant_id).exclude(trouble=text)
    if lieutenant.update(trouble=text):
        logger.warning("%s: %s", process.lieutenant, text)
        events.publish_lieutenant(process.lieutenant_id)


def names_with_strays() -> list[str]:
    """Return the names of lieutenants whose agents run in another folder."""
    found = Lieutenant.objects.active().filter(trouble__startswith=TROUBLE).order_by("name")
    return list(found.values_list("name", flat=True))


def must_restart(process: Process, lieutenant: Lieutenant) -> bool:
    """Return whether the agent is idle and was started with paths that have moved since."""
    is_resting = lieutenant.status == Status.IDLE and process.ready_at is not None
    return is_resting and bool(process.handle.get("moved_from"))


def end_abandoned() -> None:
    """End agents whose lieutenants were taken over while this host was away."""
    for process in Process.objects.here().abandoned():
        try:
            transport_of(process).stop(process.directory, process.handle, None)
        except TransportError as error:
            logger.warning("cannot end the abandoned agent %s: %s", process, error)
            continue
        if transport_of(process).alive(process.handle):
            continue
        ended = f"{process.end_reason} Its agent was ended at {timezone.now():%Y-%m-%d %H:%M} UTC."
        Process.objects.filter(pk=process.pk).update(is_abandoned=False, end_reason=ended)


def _end(process: Process, pid: int) -> None:
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            # The descriptor cannot come to mean another process, as the pid could.
            if get_transport("local").alive(process.handle) and _is_keeper(pid):
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        finally:
            os.close(descriptor)


def _is_keeper(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(map(_KEEPER_WORD.fullmatch, words))


def _working_folder(pid: int) -> str:
    try:
        return f" ({os.readlink(f'/proc/{pid}/cwd')})"
    except OSError:
        return ""
