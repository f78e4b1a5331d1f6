"""Handler of VMs that only the registry and the tree know."""

from __future__ import annotations

from collections.abc import Sequence

from reef_site.common.batches import BATCH_SIZE
from registry import services
from registry.models import VM, Status
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
        services.set_status(vm_id, Status.PAUSED)

    def resume(self, vm_id: str, actor: str) -> None:
        """Mark the VM running; heartbeats are expected from now on."""
        services.set_status(vm_id, Status.RUNNING)

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


def registered_children(vm_ids: Sequence[str]) -> dict[str, str]:
    """Map the ids of VMs that name one of these as their parent to their names."""
    rows = VM.objects.filter(parent_vm_id__in=vm_ids).order_by("id")[:BATCH_SIZE]
    return dict(rows.values_list("pk", "name"))
