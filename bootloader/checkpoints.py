"""Save VMs at their provider, and make others from what was saved.

Both take a while, so a worker does them: see `reef_site.common.outside`.
"""

from __future__ import annotations

from dataclasses import replace

from bootloader.exceptions import NoSuchMachine
from bootloader.inventory import machines
from bootloader.models import Machine
from bootloader.provisioning import services
from bootloader.provisioning.requests import ProvisionRequest
from reef_site.common import outside
from reef_site.common.errors import NotFound, ReefError
from reef_site.common.models import OutsideCall
from reef_site.common.outside import Kind, Line, Result
from vmtree import permissions
from vmtree import services as tree
from vmtree.models import Node
from vmtree.permissions import Action

SAVE, BRANCH = "bootloader.save", "bootloader.branch"
LIMIT_SECONDS = 300.0
MAX_NAME = 100


class CallFailed(ReefError):
    """A call to a provider failed; the text says why."""

    status = 502


def register() -> None:
    """Register the call kinds of checkpoints."""
    outside.call_kinds.register(Kind(_save, _saved), key=SAVE)
    outside.call_kinds.register(Kind(_branch, _branched), key=BRANCH)


def save(vm_id: str, name: str, *, by: object) -> OutsideCall:
    """Save a VM with its disk and memory. Raise NotFound, Forbidden, Conflict."""
    _, machine = _permitted(vm_id, by)
    arguments = {"machine": str(machine.pk), "name": name or machine.name}
    return outside.make(SAVE, arguments, by=by, limit=LIMIT_SECONDS)


def branch(vm_id: str, vm_request: ProvisionRequest, *, by: object) -> OutsideCall:
    """Save a VM, and provision another one from that. Raise NotFound, Forbidden, BadInput."""
    node, machine = _permitted(vm_id, by)
    parent = vm_request.parent_vm_id or node.parent_vm_id or ""
    # Checked here, as the worker acts under reef's own name. The commit is not known yet.
    wanted = replace(vm_request, parent_vm_id=parent, provider=machine.provider, commit="-")
    services.resolve_placement(wanted, by)
    arguments = {
        "machine": str(machine.pk),
        "name": wanted.name,
        "profile": wanted.profile,
        "parent_vm_id": parent,
        "by": str(by)[:200],
    }
    return outside.make(BRANCH, arguments, by=by, limit=LIMIT_SECONDS)


def find_call(call_id: str, *, by: object) -> OutsideCall:
    """Return a call of these kinds that the caller made; operators see all. Raise NotFound."""
    row = outside.find(call_id, SAVE, BRANCH)
    is_own = row is not None and row.made_by == str(by)[:200]
    if row is None or not (is_own or permissions.may(by, Action.COMMAND, None)):
        raise NotFound("there is no such call")
    return row


def _permitted(vm_id: str, by: object) -> tuple[Node, Machine]:
    """Return node and machine of a VM that the caller may command. Raise NotFound, Forbidden."""
    node = tree.find(vm_id)
    permissions.check(by, Action.COMMAND, node)
    machine = services.machine_of(node.vm_id)
    if machine is None:
        raise NotFound(f"No provider has a machine of VM '{vm_id}'")
    machines.check_can_save(machine)
    return node, machine


# -- in a worker -----------------------------------------------------------------------------------


def _save(machine: str, name: str) -> Result:
    row = _active(machine)
    return {"name": str(row), "commit": machines.save(row, name)}


def _saved(result: Result) -> list[Line]:
    return [(True, f"{result['name']} is saved as commit {result['commit']}.")]


def _branch(machine: str, name: str, profile: str, parent_vm_id: str, by: str) -> Result:
    row = _active(machine)
    commit = machines.save(row, name)
    vm_request = ProvisionRequest(name, profile, parent_vm_id, provider=row.provider, commit=commit)
    [made] = services.start(vm_request, by=by).rows
    return {"name": str(row), "commit": commit, "provisioning": made.pk, "vm": name}


def _branched(result: Result) -> list[Line]:
    text = f"{result['name']} is saved as commit {result['commit']}; VM {result['vm']} is being "
    return [(True, f"{text}made from it by provisioning {result['provisioning']}.")]


def _active(machine: str) -> Machine:
    row = Machine.objects.active().filter(pk=machine).first()
    if row is None:
        raise NoSuchMachine("The machine is gone")
    return row
