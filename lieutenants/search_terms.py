"""Search terms of lieutenants in the tree: `error`, `idle`, `stalled`, `working`."""

from __future__ import annotations

from collections.abc import Iterable

from lieutenants.models import Lieutenant
from lieutenants.states import Status
from vmtree.search import Nodes, Word, add_word

STATUSES = (Status.ERROR, Status.IDLE, Status.WORKING)


def register() -> None:
    """Register the terms."""
    for status in STATUSES:
        add_word(_with_status(status))
    add_word(Word("stalled", lambda nodes, _: nodes.filter(vm_id__in=_stalled()), flag=True))


def _with_status(status: Status) -> Word:
    def narrow(nodes: Nodes, _: str) -> Nodes:
        found = Lieutenant.objects.filter(status=status)
        return nodes.filter(vm_id__in=found.values("pk"))

    return Word(status.value, narrow, flag=True)


def _stalled() -> Iterable[str]:
    working = Lieutenant.objects.filter(status=Status.WORKING)
    columns = ("status", "waiting_for", "stall_limit_seconds", "last_activity_at")
    return [each.pk for each in working.only(*columns) if each.stalled]
