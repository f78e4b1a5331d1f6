"""VMs that are registered and have no place in the tree, and how one gets there."""

from __future__ import annotations

from collections.abc import Sequence

from registry.models import VM, Role
from vmtree import services as tree
from vmtree.exceptions import BadInput, FleetError, NotFound
from vmtree.models import Category, Node

MOST_AT_ONCE = 1000
_USUAL = {Role.LIEUTENANT: Category.LIEUTENANT, Role.INFRA: Category.INFRA_VM}


def usual_category(vm: VM) -> Category:
    """What a VM of this role most likely is in the tree."""
    return _USUAL.get(Role(vm.role), Category.AGENT_VM)


def find(vm_id: str) -> VM:
    """The registered VM of this id, or NotFound."""
    vm = VM.objects.filter(pk=vm_id).first()
    if vm is None:
        raise NotFound("VM not found")
    return vm


def place(vm: VM, *, under: str, category: str, name: str = "", by: object) -> Node:
    """Put it into the tree, with the DNA that it registered with; under nobody it is a root.

    Raises BadInput, Conflict, Forbidden.
    """
    if category not in Category.values:
        raise BadInput(f"category: must be one of {', '.join(Category.values)}", "category")
    new = tree.NewNode(name or vm.name, category, vm.pk, parent_vm_id=under, dna=vm.reef_config)
    return tree.create(new, by=by)


def place_all(vms: Sequence[VM], *, by: object) -> tuple[list[Node], list[tuple[VM, str]]]:
    """Put them under the parents that they registered with; those placed, and why others were not.

    Who registered with no parent becomes a root. A parent that is among them comes first.
    """
    waiting, placed, refused = list(vms), list[Node](), list[tuple[VM, str]]()
    while waiting:
        ids = {vm.pk for vm in waiting}
        ready = [vm for vm in waiting if vm.parent_vm_id not in ids]
        # Those that name each other in a circle are refused by the tree, one by one.
        for vm in ready or waiting:
            try:
                under, category = vm.parent_vm_id or "", usual_category(vm)
                placed.append(place(vm, under=under, category=category, by=by))
            except FleetError as error:
                refused.append((vm, str(error)))
        waiting = [vm for vm in waiting if vm not in ready] if ready else []
    return placed, refused
