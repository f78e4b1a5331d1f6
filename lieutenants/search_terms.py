"""Search terms of lieutenants in the tree: `error`, `idle`, `stalled`, `working`."""

from __future__ import annotations

from lieutenants.models import Lieutenant
from lieutenants.models.lieutenants import WAIT_COLUMNS
from lieutenants.states import Status
from vmtree.search import Nodes, Term, search_terms

STATUSES = (Status.ERROR, Status.IDLE, Status.WORKING)


def register() -> None:
    """Register the terms."""
    stalled = Term("stalled", lambda nodes, _: nodes.filter(vm_id__in=stalled_ids()), flag=True)
    for term in (*map(_with_status, STATUSES), stalled):
        search_terms.register(term, key=term.name)


def _with_status(status: Status) -> Term:
    def narrow(nodes: Nodes, _: str) -> Nodes:
        found = Lieutenant.objects.filter(status=status)
        return nodes.filter(vm_id__in=found.values("pk"))

    return Term(status.value, narrow, flag=True)


def stalled_ids() -> list[str]:
    """Return the keys of lieutenants that are working but silent for unusually long."""
    working = Lieutenant.objects.filter(status=Status.WORKING)
    return [each.pk for each in working.only(*WAIT_COLUMNS) if each.stalled]
