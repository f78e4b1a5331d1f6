"""Discovery of running keepers on this host that nobody follows."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import IntegrityError

from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision.discovery.following import FoundRun, follow
from lieutenants.supervision.transports import get_transport
from lieutenants.supervision.transports.base import Handle
from reef_site.common.errors import IllegalMove, LostRace


def discover_here() -> dict[str, str]:
    """Follow what runs here and is not followed; map ids of lieutenants to a line for each."""
    results: dict[str, str] = {}
    transport = get_transport("local")
    for directory in sorted(settings.LIEUTENANTS_DIR.glob("*/runs/*")):
        handle = transport.find(str(directory))
        if handle is None or not transport.alive(handle, str(directory)):
            continue
        lieutenant_id = directory.parent.parent.name
        try:
            results[lieutenant_id] = follow_again(directory, handle)
        except (OSError, ValueError, IntegrityError, LostRace, IllegalMove) as error:
            results[lieutenant_id] = f"{lieutenant_id}: failed — {error}"
    return results


def follow_again(directory: Path, handle: Handle) -> str:
    """Follow this keeper again if a lieutenant wants it; return a line about the result."""
    lieutenant_id, run = directory.parent.parent.name, directory.name
    where = f"local, pid {handle['agent_pid']}"
    lieutenant = Lieutenant.objects.filter(pk=lieutenant_id).first()
    if lieutenant is None:
        return f"{lieutenant_id}: no such lieutenant is known, left alone ({where})"
    if lieutenant.data_folder != settings.DATA_FOLDER_ID:
        return f"{lieutenant.name}: belongs to host {lieutenant.host} now, left alone ({where})"
    if not lieutenant.is_local:
        return f"{lieutenant.name}: runs on {lieutenant.host}, left alone ({where})"
    if Process.objects.live().filter(pk=run).exists():
        return f"{lieutenant.name}: already tracked"
    if lieutenant.status == Status.DESTROYED:
        return f"{lieutenant.name}: destroyed, not brought back ({where})"
    if other := lieutenant.live_process():
        return f"{lieutenant.name}: another process is tracked ({other}), left alone ({where})"
    if Process.objects.filter(pk=run).exclude(lieutenant=lieutenant).exists():
        return f"{lieutenant.name}: its run is another lieutenant's, left alone ({where})"
    follow(lieutenant, FoundRun(lieutenant_id, run, str(directory), handle, where))
    return f"{lieutenant.name}: discovered ({where})"
