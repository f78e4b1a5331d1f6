"""A new lieutenant for an agent on a machine whose row is lost: it follows the agent in place."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from lieutenants.hosts import destroyed_marks
from lieutenants.models import Lieutenant, Process
from lieutenants.prompts import system_prompt
from lieutenants.services.creation_request import check_name
from lieutenants.states import Status
from lieutenants.supervision import remote_notes, remote_start
from lieutenants.supervision.discovery import machines, older_agents, recovered_rows
from lieutenants.supervision.discovery.following import FoundRun, follow
from lieutenants.supervision.discovery.machines import NamedPlace, Seen, SeenRun
from lieutenants.supervision.remote_notes import Note
from lieutenants.unknown_agents.models import UnknownAgent
from lieutenants.unknown_agents.on_machines import judge, judge_older, place_of
from reef_site.common.errors import BadInput

ROLE = "recovered lieutenant"
REASON = "its agent, which was unknown here, was taken up"
GONE = "It does not run any more."


def take_up(row: UnknownAgent) -> str:
    """Make the lieutenant of an agent again, and follow the agent where it runs.

    Return why that failed, or "". Raises ReefError, IntegrityError, LostRace, IllegalMove.
    """
    place = place_of(row)
    seen = machines.look(place)
    if seen.problem:
        return f"Its machine cannot be reached: {seen.problem}"
    if row.is_older:
        return _take_up_older(row, place, seen)
    same = [each for each in seen.runs if each.directory == row.directory]
    run = next((each for each in same if each.handle == row.handle), None)
    if run is None:
        return GONE
    with transaction.atomic():
        place.lock()
        why, can_be_taken_up = judge(place, run)
        if not can_be_taken_up or destroyed_marks.is_marked(run.lieutenant_id):
            return f"It cannot be taken up. {why or 'It is followed again.'}"
        _follow(place, run, actor=row.requested_by)
    return ""


def _take_up_older(row: UnknownAgent, place: NamedPlace, seen: Seen) -> str:
    older = seen.older
    if older is None or older.handle != row.handle or older.owner != row.lieutenant_id:
        return GONE
    with transaction.atomic():
        place.lock()
        if not judge_older(seen, older) or destroyed_marks.is_marked(older.owner):
            return "It cannot be taken up: its lieutenant is known, or was destroyed."
        older_agents.make_owner(place, older, actor=row.requested_by)
    return ""


def _follow(place: NamedPlace, run: SeenRun, *, actor: str) -> None:
    note = remote_notes.parse(run.note, run.session)

    def build(name: str) -> Lieutenant:
        return _new_row(place, run, note, name)

    lieutenant = recovered_rows.insert(place, build, _usable(note.name), reason=REASON, actor=actor)
    where = f"{place.name}, pid {run.handle.get('agent_pid')}"
    follow(lieutenant, FoundRun(lieutenant.pk, run.run, run.directory, run.handle, where))
    # Its keeper refuses the commands of followers before the newest one that it has seen.
    Process.objects.filter(pk=run.run).update(generation=run.generation + 1)


def _usable(name: str) -> str:
    try:
        check_name(name)
    except BadInput:
        return f"recovered-{name}"
    return name


def _new_row(place: NamedPlace, run: SeenRun, note: Note, name: str) -> Lieutenant:
    """Return the unsaved row. It has the old id, which names its folder on the machine."""
    columns = dict(note.columns)
    role = columns.pop("role") or ROLE
    row = Lieutenant(
        id=run.lieutenant_id,
        name=name,
        role=role,
        system_prompt=system_prompt(name, role, columns["directive"]),
        status=Status.STARTING,
        has_remote_files=True,
        **{
            "stall_limit_seconds": settings.STALL_SECONDS,
            "tool_limit_seconds": settings.TOOL_SECONDS,
            **columns,
        },
    )
    row.folder = row.folder or remote_start.default_workspace(row.pk)
    place.assign(row)
    return row
