"""VMs of which reef knows no more than the registry and the tree say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from django.db import transaction

from lieutenants.operations.handlers import Handler, Outlook
from lieutenants.operations.models import Verb
from reef_site.common import clock, events
from reef_site.common.errors import NotFound
from registry import liveness
from registry import services as registry
from registry.models import VM, Status
from vmtree import services as tree

NOT_REGISTERED = "is not registered: nothing is known to run there"


class PlainVM(Handler):
    """Moves the status that the registry tells; whoever runs the VM has to look there."""

    name = "registry"

    def outlooks(self, verb: Verb, vm_ids: Sequence[str]) -> dict[str, Outlook]:
        """It takes every VM."""
        known = dict(VM.objects.filter(pk__in=vm_ids).values_list("pk", "status"))
        return {vm_id: _outlook(verb, known.get(vm_id)) for vm_id in vm_ids}

    def pause(self, vm_id: str, actor: str) -> None:
        """Its beats are not expected any more."""
        set_status(vm_id, Status.PAUSED)

    def resume(self, vm_id: str, actor: str) -> None:
        """Its beats are expected from now on."""
        set_status(vm_id, Status.RUNNING)

    def destroy(self, vm_id: str, actor: str) -> None:
        """Nothing here runs it: all there is to end is what registry and tree say."""


def _outlook(verb: Verb, status: str | None) -> Outlook:
    if verb == Verb.DESTROY:
        return Outlook("deregister it" if status else "remove it from the tree")
    does = "mark it paused" if verb == Verb.PAUSE else "mark it running"
    if status is None:
        return Outlook(does, NOT_REGISTERED)
    if verb == Verb.PAUSE:
        return Outlook(does, "" if status == Status.RUNNING else f"is {status} already")
    return Outlook(does, "" if status == Status.PAUSED else f"is not paused but {status}")


def set_status(vm_id: str, status: Status, *, only_from: Sequence[str] = ()) -> bool:
    """Write a VM's status as an order, not as a sign of it; False if it is so already.

    With `only_from` it is written only while the VM has one of these. Raises NotFound.
    """
    vm = VM.objects.filter(pk=vm_id).first()
    if vm is None:
        raise NotFound(f"VM '{vm_id}' is not registered")
    late = silent = None
    if status == Status.RUNNING:
        late, silent = liveness.deadlines(clock.now(), vm.interval_ms)
    rows = VM.objects.filter(pk=vm_id).exclude(status=status)
    if only_from:
        rows = rows.filter(status__in=only_from)
    with transaction.atomic():
        changed = rows.update(status=status, late_after=late, silent_after=silent)
        if changed:
            events.publish_nodes([vm_id])
    return bool(changed)


def bury(vm_id: str, actor: str) -> None:
    """Deregister a destroyed VM and leave a tombstone in the tree; what is so already stays.

    Raises BadInput while other VMs live below it.
    """
    with transaction.atomic():
        # Somebody else may do the same at this moment.
        with suppress(NotFound):
            tree.remove(vm_id, by=actor)
        with suppress(NotFound):
            registry.deregister(vm_id)
