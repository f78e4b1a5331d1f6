"""Rows of unknown agents on machines, from what a discovery has seen there."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable

from django.db.models import Q

from lieutenants.hosts import destroyed_marks
from lieutenants.models import Lieutenant, Process
from lieutenants.states import Status
from lieutenants.supervision import remote_notes
from lieutenants.supervision.discovery.machines import NamedPlace, Seen, SeenRun
from lieutenants.supervision.transports.ssh.older import OlderAgent
from lieutenants.supervision.transports.ssh.places import Place
from lieutenants.unknown_agents.models import UnknownAgent
from reef_site.common import events
from reef_site.common.errors import BadInput
from reef_site.common.text import to_storable

logger = logging.getLogger(__name__)

NO_LIEUTENANT = "No lieutenant with this id is known."
DESTROYED = "Its lieutenant was destroyed."
_MAX_DIRECTORY = 1024


def place_of(row: UnknownAgent) -> NamedPlace:
    """Return the machine on which an agent runs."""
    return NamedPlace(Place(ssh_host=row.ssh_host, vm_id=row.vm_id), row.host)


def record(place: NamedPlace, seen: Seen) -> None:
    """Update the rows of a machine, unless it could not be looked at.

    To be called when all that can be followed again is.
    """
    if seen.problem:
        return
    unknown: list[str] = []
    for run in seen.runs:
        why, can_be_taken_up = judge(place, run)
        if not why or len(run.directory) > _MAX_DIRECTORY:
            continue
        unknown.append(_key(place.place, run))
        if _store(place, run, why, can_be_taken_up):
            logger.warning(
                "an agent runs on %s that nobody follows: %s. %s", place.name, run.directory, why
            )
            events.publish_lieutenant(run.lieutenant_id)
    if seen.older is not None and judge_older(seen, seen.older):
        unknown.append(_store_older(place, seen.older))
    gone = UnknownAgent.objects.on_machines().filter(
        ssh_host=place.place.ssh_host, vm_id=place.place.vm_id
    )
    gone.exclude(pk__in=unknown).delete()


def forget_others(places: Iterable[NamedPlace]) -> None:
    """Delete the rows of machines other than these."""
    hosts = [each.place.ssh_host for each in places if each.place.ssh_host]
    vms = [each.place.vm_id for each in places if each.place.vm_id]
    known = Q(ssh_host__in=hosts, vm_id="") | Q(vm_id__in=vms, ssh_host="")
    UnknownAgent.objects.on_machines().exclude(known).delete()


def judge(place: NamedPlace, run: SeenRun) -> tuple[str, bool]:
    """Return why nobody follows a run, and whether it can be taken up.

    The text is empty if it is followed, or if reef itself is about to end it.
    """
    row = Lieutenant.objects.filter(pk=run.lieutenant_id).first() if run.is_ours else None
    if row is None:
        return _judge_unknown(run)
    if row.status == Status.DESTROYED:
        is_ending = Lieutenant.objects.with_leftovers().filter(pk=row.pk).exists()
        is_ending = is_ending and place.has(row)
        return ("" if is_ending else DESTROYED), False
    if not place.has(row):
        return f"It is a copy: its lieutenant runs on {row.host}.", False
    other = row.live_process()
    if other is not None and other.pk != run.run:
        return "Its lieutenant has another process.", False
    if Process.objects.filter(pk=run.run).exclude(lieutenant=row).exists():
        return "Its run is another lieutenant's.", False
    return "", False


def _judge_unknown(run: SeenRun) -> tuple[str, bool]:
    if not run.is_ours:
        return f"{NO_LIEUTENANT} It cannot be taken up: reef has not started it.", False
    if destroyed_marks.is_marked(run.lieutenant_id):
        return DESTROYED, False
    if Process.objects.filter(pk=run.run).exists():
        return f"{NO_LIEUTENANT} It cannot be taken up: its run is another lieutenant's.", False
    try:
        remote_notes.parse(run.note, run.session)
    except BadInput as error:
        return f"{NO_LIEUTENANT} It cannot be taken up: {error}.", False
    return NO_LIEUTENANT, True


def judge_older(seen: Seen, older: OlderAgent) -> bool:
    """Return whether an older server's agent is that of a lieutenant which is not known.

    One that nobody has taken over yet gets a lieutenant by itself; one with a run is judged by it.
    """
    if not older.owner or any(run.lieutenant_id == older.owner for run in seen.runs):
        return False
    return not Lieutenant.objects.filter(pk=older.owner).exists()


def _store_older(place: NamedPlace, older: OlderAgent) -> str:
    is_destroyed = destroyed_marks.is_marked(older.owner)
    facts = {
        "data_folder": "",
        "ssh_host": place.place.ssh_host,
        "vm_id": place.place.vm_id,
        "host": place.name[:255],
        "lieutenant_id": older.owner,
        "name": to_storable(older.env.get("VERS_AGENT_NAME", ""))[:64],
        "directory": older.folder,
        "handle": older.handle,
        "why": DESTROYED if is_destroyed else NO_LIEUTENANT,
        "can_be_taken_up": not is_destroyed,
    }
    key = f"older-{_digest(place.place, older.folder)}"
    UnknownAgent.objects.update_or_create(pk=key, defaults=facts)
    return key


def _store(place: NamedPlace, run: SeenRun, why: str, can_be_taken_up: bool) -> bool:
    """Create or update the row of a run; return whether it is new."""
    known = Lieutenant.objects.filter(pk=run.lieutenant_id).values_list("name", flat=True).first()
    noted = run.note.get("name") if can_be_taken_up else None
    facts = {
        "data_folder": "",
        "ssh_host": place.place.ssh_host,
        "vm_id": place.place.vm_id,
        "host": place.name[:255],
        "lieutenant_id": run.lieutenant_id[:64],
        "name": (known or to_storable(str(noted or "")))[:64],
        "directory": run.directory,
        "handle": run.handle,
        "why": to_storable(why),
        "can_be_taken_up": can_be_taken_up,
    }
    _, is_new = UnknownAgent.objects.update_or_create(pk=_key(place.place, run), defaults=facts)
    return is_new


def _key(place: Place, run: SeenRun) -> str:
    """Return the primary key: a machine that was copied has runs of the same name."""
    return f"{run.run if run.is_ours else 'run'}-{_digest(place, run.directory)}"


def _digest(place: Place, directory: str) -> str:
    facts = (place.ssh_host, place.vm_id, directory)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
