"""What may be asked of unknown agents, by the API and by pages."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from lieutenants.exceptions import NotNow
from lieutenants.unknown_agents.models import Request, UnknownAgent
from reef_site.common import events
from reef_site.common.errors import NotFound
from reef_site.common.text import to_storable
from vmtree import permissions
from vmtree.permissions import Action


def ask(run: str, request: Request, *, actor: object) -> UnknownAgent:
    """Note what is to be done with this agent; its host's follower does it within seconds.

    They may belong anywhere in the fleet, so no node may ask for it. Raises Forbidden, NotFound,
    NotNow.
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
        row.save(update_fields=["request", "requested_at", "requested_by", "problem"])
        events.wake_follower(row.lieutenant_id)
    return row
