"""What the registry adds to the search of the tree: how VMs are, and what they do in the fleet."""

from __future__ import annotations

from collections.abc import Callable

from registry.models import VM, Role, Status, VMQuerySet
from vmtree import dates
from vmtree.search import Nodes, Word, add_word


def teach() -> None:
    """Make the words known."""
    for name, find in (("silent", _silent), ("late", _late), ("live", _live)):
        add_word(_flag(name, find))
    add_word(_flag("paused", lambda: VM.objects.filter(status=Status.PAUSED)))
    add_word(_flag("stopped", lambda: VM.objects.filter(status=Status.STOPPED)))
    add_word(
        Word(
            "unknown", lambda nodes, _: nodes.exclude(vm_id__in=VM.objects.values("pk")), flag=True
        )
    )
    add_word(_valued("status", tuple(Status.values)))
    add_word(_valued("role", tuple(Role.values)))


def _silent() -> VMQuerySet:
    return VM.objects.silent(dates.now())


def _late() -> VMQuerySet:
    """Late and not silent."""
    now = dates.now()
    return VM.objects.late(now).exclude(pk__in=VM.objects.silent(now).values("pk"))


def _live() -> VMQuerySet:
    return VM.objects.filter(status=Status.RUNNING, late_after__gt=dates.now())


def _flag(name: str, find: Callable[[], VMQuerySet]) -> Word:
    def narrow(nodes: Nodes, _: str) -> Nodes:
        return nodes.filter(vm_id__in=find().values("pk"))

    return Word(name, narrow, flag=True)


def _valued(column: str, values: tuple[str, ...]) -> Word:
    def narrow(nodes: Nodes, value: str) -> Nodes:
        return nodes.filter(vm_id__in=VM.objects.filter(**{column: value}).values("pk"))

    return Word(column, narrow, values=values)
