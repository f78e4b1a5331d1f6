"""Terms of lieutenants in the search over the tree: `error`, `idle`, `stalled`, `working`."""

from __future__ import annotations

from collections.abc import Iterable

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from vmtree.search import Nodes, Term, search_terms

STATUSES = (Status.ERROR, Status.IDLE, Status.WORKING)


def register() -> None:
    """Add the terms to the search over the tree."""
    stalled = Term("stalled", lambda nodes, _: nodes.filter(vm_id__in=_stalled()), flag=True)
    for term in (*map(_with_status, STATUSES), stalled):
        search_terms.register(term, key=term.name)


def _with_status(status: Status) -> Term:
    def narrow(nodes: Nodes, _: str) -> Nodes:
        found = Lieutenant.objects.filter(status=status)
        return nodes.filter(vm_id__in=found.values("pk"))

    return Term(status.value, narrow, flag=True)


def _stalled() -> Iterable[str]:
    working = Lieutenant.objects.filter(status=Status.WORKING)
    columns = ("status", "waiting_for", "stall_limit_seconds", "last_activity_at")
    return [each.pk for each in working.only(*columns) if each.stalled]
