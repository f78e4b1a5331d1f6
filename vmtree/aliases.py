"""Aliases of VM ids.

The API shows `local-<name>` as the `vmId` of a lieutenant and accepts it wherever it takes an id.
"""

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
    """Return whether the text looks like a lieutenant's `vmId`, without a query."""
    return text.startswith(ids.LOCAL)


def resolve(text: str) -> str:
    """Return the VM id of the lieutenant with this alias; any other text unchanged.

    An alias refers to the lieutenant's own name, which is fixed; the name of its node can be
    edited.
    """
    if not is_alias(text) or not is_storable(text) or Node.objects.filter(vm_id=text).exists():
        return text
    name = text.removeprefix(ids.LOCAL)
    return next((found for find in lieutenant_finders if (found := find(name))), text)
