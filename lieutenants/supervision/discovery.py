"""Discovery of running keepers that nobody follows, and of lieutenants in the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q

from lieutenants.hosts import liveness
from lieutenants.models import Lieutenant, Process
from lieutenants.states import RUNNING, Status
from lieutenants.supervision import remote_discovery, remote_start
from lieutenants.supervision.transports import get_transport
from lieutenants.supervision.transports.base import Handle
from reef_site.common import events
from reef_site.common.errors import IllegalMove, LostRace
from registry.models import VM, Role

NOTHING_FOUND = "No lieutenants found in registry"


class FoundRun(NamedTuple):
    """A running keeper; `where` names its place for people."""

    lieutenant_id: str
    run: str
    directory: str
    handle: Handle
    where: str


def discover() -> list[str]:
    """Return one line for each running keeper, then for each other registered lieutenant.

    Keepers are looked for on this host, and on all machines on which lieutenants can run.
    """
    results: dict[str, str] = {}
    for directory in sorted(settings.LIEUTENANTS_DIR.glob("*/runs/*")):
        transport = get_transport("local")
        handle = transport.find(str(directory))
        if handle is None or not transport.alive(handle, str(directory)):
            continue
        lieutenant_id = directory.parent.parent.name
        try:
            results[lieutenant_id] = follow_again(directory, handle)
        except (OSError, ValueError, IntegrityError, LostRace, IllegalMove) as error:
            results[lieutenant_id] = f"{lieutenant_id}: failed — {error}"
    results |= _discover_remote()
    registered = VM.objects.filter(role=Role.LIEUTENANT).newest_first()
    others = [_describe_registered(vm) for vm in registered if vm.pk not in results]
    return [*results.values(), *others] or [NOTHING_FOUND]


def _discover_remote() -> dict[str, str]:
    """Return a line for each remote keeper and lieutenant, by id, and for unreachable machines."""
    results: dict[str, str] = {}
    for place, runs in remote_discovery.look_everywhere():
        if isinstance(runs, str):
            results[place.name] = f"{place.name}: unreachable — {runs}"
            continue
        for each in runs:
            where = f"{place.name}, pid {each['handle'].get('agent_pid')}"
            folder = f"{remote_start.home_text(each['lieutenant'])}/runs/{each['run']}"
            found = FoundRun(each["lieutenant"], each["run"], folder, each["handle"], where)
            known = Lieutenant.objects.filter(pk=found.lieutenant_id).first()
            if known and not place.has(known):
                # A copy of a VM has copies of the agents there.
                text = f"{known.name}: runs on {known.host}; its copy is left alone ({where})"
                results.setdefault(f"{known.pk} on {place.name}", text)
                continue
            try:
                results[found.lieutenant_id] = follow_run(found)
            except (IntegrityError, LostRace, IllegalMove) as error:
                results[found.lieutenant_id] = f"{found.lieutenant_id}: failed — {error}"
        for lieutenant in place.lieutenants():
            verdict = "paused" if lieutenant.status == Status.PAUSED else "agent gone"
            results.setdefault(lieutenant.pk, f"{lieutenant.name}: {verdict} ({place.name})")
    return results


def _describe_registered(vm: VM) -> str:
    """Describe a registered lieutenant whose agent does not run on this host."""
    known = vm.metadata if isinstance(vm.metadata, dict) else {}
    agent_id = known.get("agentId")
    name = agent_id if isinstance(agent_id, str) and agent_id else vm.name
    same = Lieutenant.objects.filter(Q(pk=vm.pk) | Q(name=name))
    if living := same.active().first():
        host = liveness.silent_host_of(living)
        if host and not host.is_here:
            return f"{name}: {host.trouble}; take over: manage.py adopt {host.name}"
        return f"{name}: already tracked"
    if same.exists():
        return f"{name}: destroyed, not brought back"
    where = f"VM {vm.pk[:12]}, {vm.status}"
    return f"{name}: left alone, its agent does not run on this host ({where})"


def follow_again(directory: Path, handle: Handle) -> str:
    """Follow this keeper again if a lieutenant wants it; return a line about the result."""
    lieutenant_id, run = directory.parent.parent.name, directory.name
    where = f"local, pid {handle['agent_pid']}"
    return follow_run(FoundRun(lieutenant_id, run, str(directory), handle, where))


def follow_run(found: FoundRun) -> str:
    """Follow a running keeper again if a lieutenant wants it; return a line about the result."""
    lieutenant_id, run, where = found.lieutenant_id, found.run, found.where
    lieutenant = Lieutenant.objects.filter(pk=lieutenant_id).first()
    if lieutenant is None:
        return f"{lieutenant_id}: no such lieutenant is known, left alone ({where})"
    if lieutenant.data_folder != settings.DATA_FOLDER_ID:
        return f"{lieutenant.name}: belongs to host {lieutenant.host} now, left alone ({where})"
    if Process.objects.live().filter(pk=run).exists():
        return f"{lieutenant.name}: already tracked"
    if lieutenant.status == Status.DESTROYED:
        return f"{lieutenant.name}: destroyed, not brought back ({where})"
    if other := lieutenant.live_process():
        return f"{lieutenant.name}: another process is tracked ({other}), left alone ({where})"
    if Process.objects.filter(pk=run).exclude(lieutenant=lieutenant).exists():
        return f"{lieutenant.name}: its run is another lieutenant's, left alone ({where})"
    with transaction.atomic():
        _reopen_process(lieutenant, found)
        reason = "its running agent was discovered"
        if lieutenant.status not in RUNNING:
            lieutenant.move(Status.STARTING, reason=reason)
        if lieutenant.status != Status.WORKING and _was_ready(run):
            # The follower detects by itself whether the agent is idle.
            lieutenant.move(Status.WORKING, reason=reason)
        events.wake_follower(lieutenant.pk)
    return f"{lieutenant.name}: discovered ({where})"


def _was_ready(run: str) -> bool:
    return Process.objects.filter(pk=run, ready_at__isnull=False).exists()


def _reopen_process(lieutenant: Lieutenant, found: FoundRun) -> None:
    """Reopen the process's row where its journal was left, or create it."""
    run, handle = found.run, found.handle
    isolation = str(handle.get("isolation") or "")
    Lieutenant.objects.filter(pk=lieutenant.pk).update(isolation=isolation)
    known = Process.objects.filter(pk=run, lieutenant=lieutenant)
    facts = {"ended_at": None, "end_reason": "", "handle": handle, "stop_asked_at": None}
    here = settings.DATA_FOLDER_ID
    if known.update(is_abandoned=False, is_frozen=False, data_folder=here, **facts):
        return
    Process.objects.create(
        id=run,
        lieutenant=lieutenant,
        host=settings.HOST if lieutenant.is_local else lieutenant.host,
        transport=lieutenant.transport,
        directory=found.directory,
        agent=json.dumps(handle),
        handle=handle,
    )
