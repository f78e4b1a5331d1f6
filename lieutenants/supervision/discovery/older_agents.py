"""Verdicts on agents that an older server has started: they become lieutenants where they run."""

from __future__ import annotations

from django.conf import settings
from django.db import transaction

from lieutenants import agents, tasks
from lieutenants.models import Lieutenant
from lieutenants.prompts import system_prompt
from lieutenants.states import RUNNING, Status
from lieutenants.supervision.discovery import recovered_rows
from lieutenants.supervision.discovery.machines import NamedPlace
from lieutenants.supervision.discovery.registered import facts_of
from lieutenants.supervision.transports.ssh.older import OlderAgent
from reef_site.common.dispatch import dispatch
from reef_site.common.ids import new_ulid
from reef_site.common.text import clip
from registry.models import VM, Role

ROLE = "recovered lieutenant"
REASON = "its agent, which an older server had started, was discovered"
_MAX_ROLE = 4000


def verdict(place: NamedPlace, older: OlderAgent) -> str:
    """Let a lieutenant have the agent; return the line about it."""
    where = f"{place.name}, pid {older.pid}"
    with transaction.atomic():
        # Of discoveries at the same time, the later one finds what the earlier one has made.
        place.lock()
        owner = owner_of(place, older)
        return _follow_again(place, owner, where) if owner else _take(place, older, where)


def make_owner(place: NamedPlace, older: OlderAgent, *, actor: str) -> Lieutenant:
    """Make the lieutenant again that has taken the agent over, and let it follow the agent.

    The caller has locked the machine. Raises NotNow if its VM is being deleted, IntegrityError.
    """
    known = facts_of(VM.objects.filter(pk=place.place.vm_id).first())
    noted = known.get("agentId"), older.env.get("VERS_AGENT_NAME")
    name = recovered_rows.name_from(*noted, place.name)
    return _create(place, older, name, ROLE, pk=older.owner, actor=actor)


def owner_of(place: NamedPlace, older: OlderAgent) -> str:
    """Return the lieutenant that has the agent, or is to end it; empty if none is known.

    The agent itself tells whose it is since its lieutenant's first start there.
    """
    if older.owner:
        return older.owner
    rows = place.lieutenants() | Lieutenant.objects.with_leftovers()
    found = [row for row in rows.filter(is_taken_over=True) if place.has(row)]
    found = [row for row in found if not row.has_attached()]
    found.sort(key=lambda row: (row.status == Status.DESTROYED, row.created_at, row.pk))
    return found[0].pk if found else ""


def _take(place: NamedPlace, older: OlderAgent, where: str) -> str:
    vm_id = place.place.vm_id
    vm = VM.objects.filter(pk=vm_id).first() if vm_id else None
    if other := _other_role(vm, older):
        return f"{place.name}: not ours — an older server runs a {other} there ({where})"
    known = facts_of(vm)
    name = recovered_rows.name_from(
        known.get("agentId"), older.env.get("VERS_AGENT_NAME"), place.name
    )
    gone = Lieutenant.objects.filter(status=Status.DESTROYED, name=name, is_taken_over=True)
    if any(place.has(row) for row in gone):
        return f"{name}: destroyed, not brought back ({where})"
    role = known.get("role")
    role = clip(role, _MAX_ROLE) if isinstance(role, str) and role.strip() else ROLE
    row = _create(place, older, name, role)
    return f"{row.name}: reattached ({where}, {role})"


def _follow_again(place: NamedPlace, owner: str, where: str) -> str:
    row = Lieutenant.objects.filter(pk=owner).first()
    if row is None:
        return f"{owner}: not ours — no such lieutenant is known, left alone ({where})"
    if row.status == Status.DESTROYED:
        return f"{row.name}: destroyed, not brought back ({where})"
    if not place.has(row):
        return f"{row.name}: not ours — it runs on {row.host}, and its copy is left alone ({where})"
    if row.live_process():
        return f"{row.name}: already followed ({where})"
    if row.status == Status.PAUSED:
        return f"{row.name}: paused ({where})"
    with transaction.atomic():
        if row.status not in RUNNING:
            row.move(Status.STARTING, reason=REASON)
        elif row.status != Status.STARTING:
            return f"{row.name}: already followed ({where})"
        _start_later(row)
    return f"{row.name}: reattached ({where})"


def _other_role(vm: VM | None, older: OlderAgent) -> str:
    """Return what the agent is if that is not a lieutenant; empty if it is one, or unknown."""
    said = (older.env.get("VERS_AGENT_ROLE"), older.env.get("REEF_CATEGORY"))
    roles = [role for role in (vm.role if vm else None, *said) if role]
    if not roles or Role.LIEUTENANT in roles:
        return ""
    return clip(roles[0], 40)


def _create(
    place: NamedPlace,
    older: OlderAgent,
    name: str,
    role: str,
    *,
    pk: str = "",
    actor: str = "reef",
) -> Lieutenant:
    """Create the lieutenant. Raises NotNow if its VM is being deleted."""

    def build(name: str) -> Lieutenant:
        return _new_row(place, older, name, role, pk or new_ulid())

    row = recovered_rows.insert(place, build, name, reason=REASON, actor=actor)
    _start_later(row)
    return row


def _new_row(place: NamedPlace, older: OlderAgent, name: str, role: str, pk: str) -> Lieutenant:
    row = Lieutenant(
        id=pk,
        name=name,
        role=role,
        agent=agents.DEFAULT,
        system_prompt=system_prompt(name, role, ""),
        folder=older.workspace[:1024] or "~",
        is_taken_over=True,
        # Its agent there, which a destroyed one must not leave behind.
        has_remote_files=True,
        parent_agent=older.env.get("VERS_PARENT_AGENT", "")[:200],
        stall_limit_seconds=settings.STALL_SECONDS,
        tool_limit_seconds=settings.TOOL_SECONDS,
    )
    place.assign(row)
    return row


def _start_later(row: Lieutenant) -> None:
    dispatch("lieutenants.settle", row.pk, queue=tasks.queue_of(row.data_folder))
