"""The verdict on each agent and lieutenant of a machine, from what was seen there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from functools import partial

from django.db import Error as DatabaseError

from lieutenants.exceptions import TransportError
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision.discovery import older_agents
from lieutenants.supervision.discovery.following import FoundRun, follow
from lieutenants.supervision.discovery.machines import NamedPlace, Seen, SeenRun
from lieutenants.supervision.discovery.registered import name_of
from lieutenants.supervision.transports.ssh.places import Place, place_of
from reef_site.common.errors import IllegalMove, LostRace, ReefError
from registry.models import VM, Role
from vmtree.models import Category, Node

logger = logging.getLogger(__name__)

# Keys are the ids that a line is about, of lieutenants or VMs, or else the name of a machine.
Lines = dict[str, str]


def lines_of(place: NamedPlace, seen: Seen) -> Lines:
    """Follow what can be followed again on a machine; return a line for each agent and lieutenant.

    A machine without lieutenants that cannot be reached has a line only if it may have one.
    """
    if seen.problem:
        return same_for_all([place], f"unreachable — {seen.problem}")
    found: Lines = {}
    # Before an older server's agent becomes another one.
    known, told = list(place.lieutenants()), list[str]()
    for run in seen.runs:
        row = Lieutenant.objects.filter(pk=run.lieutenant_id).first() if run.is_ours else None
        # A copy of a VM has copies of the agents there.
        is_here = row is not None and place.has(row)
        key = run.lieutenant_id if is_here else f"{run.lieutenant_id} on {place.name}"
        found[key] = _attempt(run.lieutenant_id, partial(_verdict, place, run, row))
    # An agent that a lieutenant has taken over has a run, and so a line.
    with_runs = {run.lieutenant_id for run in seen.runs}
    if seen.older is not None and seen.older.owner not in with_runs:
        take = partial(older_agents.verdict, place, seen.older)
        text = _attempt(place.name, take)
        # The VM itself may be registered as the lieutenant.
        told = [older_agents.owner_of(place, seen.older), place.place.vm_id]
        found[" ".join(filter(None, told)) or place.name] = text
    for row in known:
        if row.pk not in told:
            found.setdefault(row.pk, f"{row.name}: {_without_agent(row, seen)} ({place.name})")
    return found or _registered_without_agent(place, seen)


def same_for_all(places: Iterable[NamedPlace], text: str) -> Lines:
    """Return this line for each lieutenant of these machines, and for those that may be one."""
    names = {each.place: each.name for each in places}
    found: Lines = {}
    used = set[Place]()
    for row in Lieutenant.objects.active().filter(transport="ssh"):
        place = place_of(row)
        if place in names:
            found[row.pk] = f"{row.name}: {text} ({names[place]})"
            used.add(place)
    unused = {each.vm_id: name for each, name in names.items() if each.vm_id and each not in used}
    for vm_id in sorted(_lieutenants_among(unused)):
        found[vm_id] = f"{unused[vm_id]}: {text}"
    return found


def _attempt(name: str, work: Callable[[], str]) -> str:
    """Return a line, also if the rows do not allow what it is about."""
    try:
        return work()
    except (DatabaseError, LostRace, IllegalMove, ReefError, TransportError) as error:
        return f"{name}: failed — {error}"
    except Exception as error:
        logger.exception("%s: no verdict", name)
        return f"{name}: failed — {type(error).__name__}; the worker's log tells more"


def _verdict(place: NamedPlace, run: SeenRun, row: Lieutenant | None) -> str:
    """Follow an agent again if its lieutenant wants it; return the line about it."""
    where = f"{place.name}, pid {run.handle.get('agent_pid')}"
    if row is None:
        return f"{run.lieutenant_id}: not ours — no such lieutenant is known, left alone ({where})"
    if row.status == Status.DESTROYED:
        return f"{row.name}: destroyed, not brought back ({where})"
    if not place.has(row):
        return f"{row.name}: not ours — it runs on {row.host}, and its copy is left alone ({where})"
    if other := row.live_process():
        if other.pk == run.run:
            return f"{row.name}: already followed ({where})"
        return f"{row.name}: not ours — another process is followed, left alone ({where})"
    if Process.objects.filter(pk=run.run).exclude(lieutenant=row).exists():
        return f"{row.name}: not ours — its run is another lieutenant's, left alone ({where})"
    follow(row, FoundRun(row.pk, run.run, run.directory, run.handle, where))
    return f"{row.name}: reattached ({where})"


def _without_agent(row: Lieutenant, seen: Seen) -> str:
    """Return the verdict on a lieutenant of which no running agent was seen."""
    if row.status == Status.PAUSED:
        return "paused"
    if seen.is_paused:
        return "paused — its VM is"
    if row.status == Status.STARTING:
        return "already followed, it is being started"
    return "agent gone"


def _registered_without_agent(place: NamedPlace, seen: Seen) -> Lines:
    """Return the verdict on a VM that is registered as a lieutenant which reef does not know."""
    vm = VM.objects.filter(pk=place.place.vm_id, role=Role.LIEUTENANT).first()
    if vm is None or Lieutenant.objects.filter(name=name_of(vm)).exists():
        return {}
    verdict = "paused" if seen.is_paused else "agent gone"
    return {vm.pk: f"{name_of(vm)}: {verdict} ({place.name})"}


def _lieutenants_among(vm_ids: Collection[str]) -> set[str]:
    """Return those of these VMs that are lieutenants by registry or tree."""
    in_tree = Node.objects.active().filter(vm_id__in=vm_ids, category=Category.LIEUTENANT)
    registered = VM.objects.filter(pk__in=vm_ids, role=Role.LIEUTENANT)
    return {*in_tree.values_list("vm_id", flat=True), *registered.values_list("pk", flat=True)}
