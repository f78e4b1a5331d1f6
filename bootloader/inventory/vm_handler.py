"""Handler of provider VMs: operations act on the machine, as far as its provider supports them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bootloader import providers
from bootloader.exceptions import UnknownProvider
from bootloader.inventory import machines
from bootloader.models import Machine
from bootloader.providers.base import Ability, MachineState
from reef_site.common.errors import NotFound
from registry import services as registry
from registry.models import VM, Status
from vmtree.operations.handlers import Effect, Handler
from vmtree.operations.models import Operation

# Machine states in which an operation has nothing left to do.
_TARGET_STATES = {
    Operation.PAUSE: (MachineState.PAUSED, MachineState.STOPPED),
    Operation.RESUME: (MachineState.RUNNING, MachineState.BOOTING),
}


class ProviderHandler(Handler):
    """Run the operations at the provider and update the registry to match."""

    name = "machine"

    def effects(self, verb: Operation, vm_ids: Sequence[str]) -> dict[str, Effect]:
        """Return the effect on each machine, with a reason where its provider lacks the ability."""
        return {vm_id: _effect(verb, row) for vm_id, row in machines_by_vm(vm_ids).items()}

    def pause(self, vm_id: str, actor: str) -> None:
        """Pause the machine; heartbeats are no longer expected."""
        machines.pause(_active_machine(vm_id))
        _update_registry(vm_id, Status.PAUSED)

    def resume(self, vm_id: str, actor: str) -> None:
        """Resume the machine; heartbeats are expected from now on."""
        machines.resume(_active_machine(vm_id))
        _update_registry(vm_id, Status.RUNNING)

    def destroy(self, vm_id: str, actor: str) -> None:
        """Delete the machine at its provider."""
        machine = machines_by_vm([vm_id]).get(vm_id)
        if machine is not None:
            machines.delete_at_provider(machine, by=actor)

    def is_done(self, verb: Operation, vm_id: str) -> bool:
        """Return whether the provider reports the requested state.

        Raises NotFound if the machine is gone, and errors of the provider.
        """
        machine = machines_by_vm([vm_id]).get(vm_id)
        if verb == Operation.DESTROY:
            return machine is None
        seen = machines.refresh(machine) if machine is not None else None
        if seen is None:
            raise NotFound(f"the machine of VM '{vm_id}' is gone")
        return seen.state in _TARGET_STATES[verb]

    def evidence_of_death(self, vm_id: str) -> str | None:
        """Return when and why the machine was deleted at its provider; None if it was not."""
        newest = Machine.objects.filter(vm_id=vm_id).order_by("-id").first()
        if newest is None or newest.gone_at is None:
            return None
        return f"its machine is gone since {newest.gone_at:%Y-%m-%d %H:%M:%S}: {newest.note}"


def machines_by_vm(vm_ids: Iterable[str]) -> dict[str, Machine]:
    """Map VM ids to their active machines; VMs without one are left out."""
    return {row.vm_id: row for row in Machine.objects.active().filter(vm_id__in=list(vm_ids))}


def _active_machine(vm_id: str) -> Machine:
    machine = machines_by_vm([vm_id]).get(vm_id)
    if machine is None:
        raise NotFound(f"the machine of VM '{vm_id}' is gone")
    return machine


def _update_registry(vm_id: str, status: Status) -> None:
    if VM.objects.filter(pk=vm_id).exists():
        registry.set_status(vm_id, status)


def _effect(verb: Operation, row: Machine) -> Effect:
    kind = row.provider
    try:
        can = providers.get(kind).abilities
    except UnknownProvider as error:
        return Effect(f"{verb} its machine", str(error))
    if verb == Operation.DESTROY:
        deletion = "delete" if kind != "ssh" else "release"
        missing = "" if Ability.DELETE in can else f"{kind} machines cannot be deleted"
        return Effect(f"{deletion} machine {row.machine_id} at {kind}", missing)
    does = f"{verb} machine {row.machine_id} at {kind}"
    if Ability.PAUSE not in can:
        return Effect(does, f"{kind} machines cannot be paused")
    so_already = row.state in [state.value for state in _TARGET_STATES[verb]]
    # Our state of a running machine may be outdated; `pause` checks with the provider again.
    paused = VM.objects.filter(pk=row.vm_id, status=Status.PAUSED).exists()
    if verb == Operation.RESUME and so_already and not paused:
        return Effect(does, f"is not paused but {row.state}")
    if verb == Operation.PAUSE and so_already and paused:
        return Effect(does, "is paused already")
    return Effect(does)
