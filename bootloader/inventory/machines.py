"""Operations on known machines of providers. The rows follow the result of each operation."""

from __future__ import annotations

import logging
from contextlib import suppress

from django.db import IntegrityError, transaction

from bootloader import providers
from bootloader.exceptions import (
    NoSuchMachine,
    ProviderError,
    ShellError,
    StepFailed,
    UnsupportedOperation,
)
from bootloader.join import tokens as join_tokens
from bootloader.models import LogLine, Machine, Provisioning
from bootloader.providers import base
from bootloader.providers.ssh import pool
from bootloader.provisioning import script_runner
from bootloader.states import State
from reef_site.common import clock, events
from reef_site.common.errors import BadInput, NotFound
from reef_site.common.text import clip_words
from registry import services as registry
from vmtree import names as vm_names
from vmtree import services as tree
from vmtree.models import Category, Node

logger = logging.getLogger(__name__)

SYNC_SECONDS = 60.0


def record(slug: str, seen: base.Machine, *, name: str = "", vm_id: str = "") -> Machine:
    """Create or update the row of a machine that its provider reports."""
    now = clock.now()
    fields = {"state": seen.state.value, "seen_at": now, "mine": seen.mine}
    row = Machine.objects.filter(provider=slug, machine_id=seen.id).first()
    if row is None:
        try:
            with transaction.atomic():
                return Machine.objects.create(
                    provider=slug,
                    machine_id=seen.id,
                    name=name or seen.name,
                    vm_id=vm_id,
                    created_at=seen.created_at,
                    **fields,
                )
        except IntegrityError:
            row = Machine.objects.get(provider=slug, machine_id=seen.id)
    if name:
        fields |= {"name": name}
    if vm_id:
        fields |= {"vm_id": vm_id}
    Machine.objects.filter(pk=row.pk).update(gone_at=None, **fields)
    row.refresh_from_db()
    return row


def set_note(machine: Machine, text: str) -> None:
    """Set the machine's note."""
    Machine.objects.filter(pk=machine.pk).update(note=clip_words(text, 300))


def new_vm_id(machine_id: str) -> str:
    """Return the id for the machine's new node: its own id, with a number added if that was used
    before.
    """
    vm_id, number = machine_id, 1
    while Node.objects.filter(vm_id=vm_id).exists() or (
        Machine.objects.active().filter(vm_id=vm_id).exclude(machine_id=machine_id).exists()
    ):
        number += 1
        vm_id = f"{machine_id}-{number}"
    return vm_id


def delete(machine: Machine, *, by: object, note: str = "") -> None:
    """Delete the machine at its provider, and the VM from tree and registry. May be repeated.

    A VM with children stays in the tree and becomes a finding. Raise ProviderError.
    """
    left = _end(machine)
    mark_gone(machine, (note or f"deleted by {str(by)[:100]}") + left)
    with suppress(BadInput):
        remove_vm(machine.vm_id, by=by)


def mark_gone(machine: Machine, note: str) -> None:
    """Mark the machine as gone, and make its name available to other VMs."""
    now = clock.now()
    with transaction.atomic():
        living = Machine.objects.active().filter(pk=machine.pk)
        living.update(gone_at=now, state="", note=clip_words(note, 300))
        done = Provisioning.objects.reserving_names().filter(machine=machine, state=State.DONE)
        done.update(released_at=now)
        if machine.vm_id:
            join_tokens.revoke_unused(machine.vm_id)
            registry.mark_stopped(machine.vm_id)
    machine.refresh_from_db()
    for row in Provisioning.objects.filter(machine=machine).values_list("pk", flat=True):
        events.publish_provisionings([row])


def remove_vm(vm_id: str, *, by: object) -> None:
    """Remove a VM that is gone from tree and registry. Raise BadInput while it has children."""
    if not vm_id:
        return
    try:
        tree.remove(vm_id, by=str(by))
    except NotFound:
        pass
    except BadInput as error:
        below = Node.objects.active().filter(parent__vm_id=vm_id).order_by("name")
        names = ", ".join(f"'{name}'" for name in below.values_list("name", flat=True)[:5])
        raise BadInput(f"{error} Below it: {names}." if names else str(error)) from None
    with suppress(NotFound):
        registry.deregister(vm_id)


def import_machine(machine: Machine, *, by: object, parent_vm_id: str = "") -> None:
    """Add a node for a VM that has none yet. Raise Conflict."""
    # Providers may accept names that the tree does not.
    name = vm_names.marked(machine.name or machine.machine_id)
    vm_id = new_vm_id(machine.machine_id)
    with transaction.atomic():
        tree.create(tree.NewNode(name, Category.AGENT_VM, vm_id, parent_vm_id), by=str(by))
        Machine.objects.filter(pk=machine.pk).update(vm_id=vm_id)


def end_identity(machine: Machine) -> None:
    """End reef's services on a copy of another VM, and remove that one's identity and tokens.

    Raise ShellError, ProviderError, StepFailed.
    """
    with pool.connection(machine) as shell:
        script_runner.clean_host(shell)
    pool.disconnect(machine)


def check_can_save(machine: Machine) -> None:
    """Raise UnsupportedOperation if the provider of the machine saves none."""
    _provider_with(machine, base.Ability.COMMIT)


def save(machine: Machine, name: str) -> str:
    """Save the machine and return the id of the commit. Raise ProviderError, ShellError."""
    provider = _provider_with(machine, base.Ability.COMMIT)
    if provider.state(machine.machine_id).state is base.MachineState.RUNNING:
        # Files that are not on the disk yet would be empty in the commit.
        with pool.connection(machine) as shell:
            shell.run("sync", timeout=SYNC_SECONDS)
    return provider.commit(machine.machine_id, name)


def pause(machine: Machine) -> None:
    """Pause the machine. Raise ProviderError, UnsupportedOperation."""
    provider = _provider_with(machine, base.Ability.PAUSE)
    provider.pause(machine.machine_id)
    refresh(machine)


def resume(machine: Machine) -> None:
    """Resume the machine. Raise ProviderError, UnsupportedOperation."""
    provider = _provider_with(machine, base.Ability.PAUSE)
    provider.resume(machine.machine_id)
    refresh(machine)


def delete_at_provider(machine: Machine, *, by: object) -> None:
    """Delete the machine at its provider.

    The caller updates tree and registry. Raise ProviderError.
    """
    left = _end(machine)
    mark_gone(machine, f"destroyed by {str(by)[:100]}{left}")


def _end(machine: Machine) -> str:
    """Delete the machine; return a note about what is left on a host that existed before us."""
    provider = providers.get(machine.provider)
    left = "" if base.Ability.RESTORE in provider.abilities else _clean_host(machine)
    with suppress(NoSuchMachine):
        provider.delete(machine.machine_id)
    return left


def _clean_host(machine: Machine) -> str:
    """Clean up a host that is released; log it if the host cannot be reached."""
    try:
        with pool.connection(machine) as shell:
            script_runner.clean_host(shell)
        pool.disconnect(machine)
    except NoSuchMachine:
        return ""
    except (ShellError, ProviderError, StepFailed) as error:
        left = "; its services, identity, tokens and keys are still on it"
        text = f"{machine} was given back, but could not be reached{left}: {error}"
        logger.warning("%s", text)
        for row in Provisioning.objects.filter(machine=machine):
            kind = LogLine.Kind.ERROR
            LogLine.objects.create(provisioning=row, kind=kind, text=clip_words(text, 2000))
        return left
    return ""


def refresh(machine: Machine) -> base.Machine | None:
    """Ask the provider for the machine's state; return None, and mark the row, if it is gone."""
    try:
        seen = providers.get(machine.provider).state(machine.machine_id)
    except NoSuchMachine:
        mark_gone(machine, "its provider knows it no longer")
        return None
    fields = {"state": seen.state.value, "seen_at": clock.now()}
    Machine.objects.filter(pk=machine.pk).update(**fields)
    machine.refresh_from_db()
    return seen


def _provider_with(machine: Machine, ability: base.Ability) -> base.Provider:
    provider = providers.get(machine.provider)
    if ability not in provider.abilities:
        raise UnsupportedOperation(f"{machine}: {machine.provider} machines cannot {ability}")
    return provider
