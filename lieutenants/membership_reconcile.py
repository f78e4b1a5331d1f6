"""Periodic reconcile of this host's lieutenants with registry and tree."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lieutenants import membership
from lieutenants.models import Lieutenant
from lieutenants.states import Status
from reef_site.common.errors import ReefError
from registry import services as registry
from registry.models import VM, Role
from vmtree.models import Category, Node

logger = logging.getLogger(__name__)

# A VM counts as late after two and a half minutes.
INTERVAL_SECONDS = 20.0


def reconcile(present: Sequence[str]) -> None:
    """Send heartbeats for the lieutenants in `present`, and repair registry and tree."""
    registry.keep_alive(present)
    registered = dict(VM.objects.filter(role=Role.LIEUTENANT).values_list("pk", "status"))
    for each in Lieutenant.objects.here().active():
        if registered.get(each.pk) != membership.vm_status(each.status):
            _repair(each)
    nodes = Node.objects.active().filter(category=Category.LIEUTENANT).values("vm_id")
    gone = Lieutenant.objects.here().filter(status=Status.DESTROYED)
    for each in gone.filter(pk__in=nodes) | gone.filter(pk__in=list(registered)):
        _repair(each)


def _repair(lieutenant: Lieutenant) -> None:
    # Its status may have changed, with registry and tree, since the query.
    lieutenant.refresh_from_db(fields=["status"])
    try:
        if lieutenant.status == Status.DESTROYED:
            membership.deregister(lieutenant, actor="reef")
        else:
            membership.register(lieutenant, actor="reef")
    except ReefError as error:
        logger.warning("%s is not in the fleet as it should be: %s", lieutenant, error)
