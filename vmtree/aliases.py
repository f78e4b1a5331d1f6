"""Other names of VMs: what the API shows as `vmId` of a lieutenant is taken wherever an id is."""

from __future__ import annotations

from collections.abc import Callable

from reef_site.common.hooks import Hook
from reef_site.common.text import is_storable
from vmtree import ids
from vmtree.models import Node

FindLieutenant = Callable[[str], str | None]
lieutenant_finders: Hook[FindLieutenant] = Hook(
    "tree.lieutenant_finders", "Return the VM id of the active lieutenant of a name."
)


def is_alias(text: str) -> bool:
    """Whether this looks like a lieutenant's `vmId`; costs no query."""
    return text.startswith(ids.LOCAL)


def resolve(text: str) -> str:
    """Return the id of the lieutenant that is called so; any other text as it is.

    A lieutenant keeps its name; that of its node may be changed by anybody who may write it.
    """
    if not is_alias(text) or not is_storable(text) or Node.objects.filter(vm_id=text).exists():
        return text
    name = text.removeprefix(ids.LOCAL)
    return next((found for find in lieutenant_finders if (found := find(name))), text)
