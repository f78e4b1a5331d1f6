"""Requests for unknown agents, from the API and the page."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from lieutenants.exceptions import NotNow
from lieutenants.unknown_agents import call
from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common import events
from reef_site.common.errors import NotFound
from reef_site.common.text import to_storable
from vmtree import permissions
from vmtree.permissions import Action


def request_action(run: str, request: Request, *, actor: object) -> UnknownAgent:
    """Store a request for this agent, which is carried out within seconds.

    The follower of its host does that; for an agent on a machine, any worker.

    Nodes may not do this, since the agent may belong anywhere in the fleet. Raises Forbidden,
    NotFound, NotNow.
    """
    permissions.check(actor, Action.COMMAND, None)
    row = UnknownAgent.objects.filter(pk=to_storable(run)).first()
    if row is None:
        raise NotFound("No such agent runs, or it is followed again")
    if request == Request.TAKE_UP and not row.can_be_taken_up:
        raise NotNow(f"This agent cannot be taken up. {row.why}")
    row.request, row.requested_at = request, timezone.now()
    row.requested_by, row.problem = str(actor)[:200], ""
    with transaction.atomic():
        columns = ("request", "requested_at", "requested_by", "problem")
        mine = UnknownAgent.objects.filter(pk=row.pk)
        if not mine.update(**{name: getattr(row, name) for name in columns}):
            raise NotFound("No such agent runs, or it is followed again")
        if not row.is_on_machine:
            events.wake_follower(row.lieutenant_id)
    if row.is_on_machine:
        call.begin(row, by=row.requested_by)
    return row
