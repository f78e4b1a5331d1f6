"""Other names of VMs: what the API shows as `vmId` of a lieutenant is taken wherever an id is."""

from __future__ import annotations

from vmtree import ids, permissions
from vmtree.dna import is_text
from vmtree.models import Category, Node


def is_alias(text: str) -> bool:
    """Whether this looks like a lieutenant's `vmId`; costs no query."""
    return text.startswith(ids.LOCAL)


def resolve(text: str) -> str:
    """Return the id of the lieutenant that is called so; any other text as it is."""
    if not is_alias(text) or not is_text(text) or Node.objects.filter(vm_id=text).exists():
        return text
    living = Node.objects.living().filter(category=Category.LIEUTENANT)
    found = living.filter(name=text.removeprefix(ids.LOCAL)).values_list("vm_id", flat=True)
    # Anybody may call a VM so; only the one that is a lieutenant of reef is meant.
    return next((vm_id for vm_id in found if permissions.host_of(vm_id)), text)
