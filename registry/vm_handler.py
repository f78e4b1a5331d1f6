"""Handler of VMs that only the registry and the tree know."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from django.db import transaction

from reef_site.common import clock, events
from reef_site.common.errors import NotFound
from registry import liveness
from registry import services as registry
from registry.models import VM, Status
from vmtree import services as tree
from vmtree.operations.handlers import Effect, Handler
from vmtree.operations.models import Operation

NOT_REGISTERED = "is not registered: nothing is known to run there"


class RegistryHandler(Handler):
    """Changes only the status in the registry; whoever runs the VM has to read it there."""

    name = "registry"

    def effects(self, verb: Operation, vm_ids: Sequence[str]) -> dict[str, Effect]:
        """Return an effect for every VM: this handler is the fallback."""
        known = dict(VM.objects.filter(pk__in=vm_ids).values_list("pk", "status"))
        return {vm_id: _effect(verb, known.get(vm_id)) for vm_id in vm_ids}

    def pause(self, vm_id: str, actor: str) -> None:
        """Mark the VM paused; heartbeats are no longer expected."""
        set_status(vm_id, Status.PAUSED)

    def resume(self, vm_id: str, actor: str) -> None:
        """Mark the VM running; heartbeats are expected from now on."""
        set_status(vm_id, Status.RUNNING)

    def destroy(self, vm_id: str, actor: str) -> None:
        """Do nothing: the caller deregisters the VM, and nothing else is known to run."""


def _effect(verb: Operation, status: str | None) -> Effect:
    if verb == Operation.DESTROY:
        return Effect("deregister it" if status else "remove it from the tree")
    does = "mark it paused" if verb == Operation.PAUSE else "mark it running"
    if status is None:
        return Effect(does, NOT_REGISTERED)
    if verb == Operation.PAUSE:
        return Effect(does, "" if status == Status.RUNNING else f"is {status} already")
    return Effect(does, "" if status == Status.PAUSED else f"is not paused but {status}")


def set_status(vm_id: str, status: Status, *, only_from: Sequence[str] = ()) -> bool:
    """Set the status of a VM without counting as a heartbeat; return False if it is unchanged.

    With `only_from`, change it only if the current status is one of these. Raises NotFound.
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


def remove_vm(vm_id: str, actor: str) -> None:
    """Remove a destroyed VM from the tree and the registry. Does nothing if it is removed already.

    Raises BadInput while the VM has active children.
    """
    with transaction.atomic():
        # Another worker may remove it at the same time.
        with suppress(NotFound):
            tree.remove(vm_id, by=actor)
        with suppress(NotFound):
            registry.deregister(vm_id)
