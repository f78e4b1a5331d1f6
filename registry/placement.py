"""Places registered VMs in the tree.

A VM that registers below a VM of the tree is placed at once. Others wait until they are placed
through the API or the admin, or until their parent is in the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from django.db.models import Exists, OuterRef

from reef_site.common.errors import BadInput, Conflict, NotFound, ReefError
from reef_site.common.request_values import choice_of
from registry.models import VM, Role
from vmtree import permissions
from vmtree import services as tree
from vmtree.models import Category, Node, Revision

BATCH_SIZE = 1000
_DEFAULT_CATEGORIES = {
    Role.LIEUTENANT: Category.LIEUTENANT,
    Role.INFRA: Category.INFRA_VM,
    Role.GOLDEN: Category.INFRA_VM,
}


def default_category(vm: VM) -> Category:
    """Return the default category for the VM's role."""
    return _DEFAULT_CATEGORIES.get(Role(vm.role), Category.AGENT_VM)


def find(vm_id: str) -> VM:
    """Return the registered VM with this id. Raises NotFound."""
    vm = VM.objects.filter(pk=vm_id).first()
    if vm is None:
        raise NotFound("VM not found")
    return vm


def place(vm: VM, *, under: str, category: str, name: str = "", by: object) -> Node:
    """Create the VM's node with its registered DNA; without `under` it becomes a root.

    A node token places only VMs that registered below its node. Raises BadInput, Conflict,
    Forbidden.
    """
    permissions.check(by, "write", vm.parent_vm_id)
    choice_of(category, "category", Category.values)
    new = tree.NewNode(name or vm.name, category, vm.pk, parent_vm_id=under, dna=vm.reef_config)
    return tree.create(new, by=by)


def can_place(vm_id: str, parent_vm_id: str | None) -> bool:
    """Return whether the parent has an active node and the VM never had a node."""
    if not parent_vm_id or Node.objects.filter(vm_id=vm_id).exists():
        return False
    return Node.objects.active().filter(vm_id=parent_vm_id).exists()


def place_automatically(vm: VM, *, by: object) -> None:
    """Place the VM below its registered parent. Raises Forbidden.

    The caller holds the lock on the structure of the tree, so that the parent stays. Does nothing
    if another process is faster.
    """
    if can_place(vm.pk, vm.parent_vm_id):
        under, category = vm.parent_vm_id or "", default_category(vm)
        new = tree.NewNode(vm.name, category, vm.pk, parent_vm_id=under, dna=vm.reef_config)
        with suppress(Conflict):
            tree.create(new, by=by, what=Revision.What.PLACED)


def place_pending() -> None:
    """Place VMs whose parents came into the tree after they registered."""
    parents = Node.objects.active().filter(vm_id=OuterRef("parent_vm_id"))
    nodes = Node.objects.filter(vm_id=OuterRef("pk"))
    pending = VM.objects.filter(Exists(parents), ~Exists(nodes), parent_vm_id__isnull=False)
    for vm in pending.order_by()[:BATCH_SIZE]:
        # The parent may have been removed meanwhile.
        with suppress(BadInput):
            place_automatically(vm, by="its registration")


def place_all(
    vms: Sequence[VM], *, by: object, under: str = "", category: str = ""
) -> tuple[list[Node], list[tuple[VM, str]]]:
    """Place VMs below `under`, or below their registered parents.

    Return the new nodes, and the refused VMs with reasons. A VM without a parent becomes a root; a
    parent among the VMs is placed before its children.
    """
    pending, placed, refused = list(vms), list[Node](), list[tuple[VM, str]]()
    while pending:
        ids = {vm.pk for vm in pending}
        ready = [vm for vm in pending if under or vm.parent_vm_id not in ids]
        # VMs that form a circle are rejected by the tree, one by one.
        for vm in ready or pending:
            try:
                parent, kind = under or vm.parent_vm_id or "", category or default_category(vm)
                placed.append(place(vm, under=parent, category=kind, by=by))
            except ReefError as error:
                refused.append((vm, str(error)))
        pending = [vm for vm in pending if vm not in ready] if ready else []
    return placed, refused
