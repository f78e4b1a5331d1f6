"""Aliases of VM ids.

The API shows `local-<name>` as the `vmId` of a lieutenant and accepts it wherever it takes an id.
"""

from __future__ import annotations

from collections.abc import Callable

from vmtree import ids
from vmtree.dna import is_text
from vmtree.models import Node

# Returns the VM id of the active lieutenant with this name.
FindLieutenant = Callable[[str], str | None]
_find: list[FindLieutenant] = []


def register(find: FindLieutenant) -> None:
    """Add a lookup of lieutenants by name; for `AppConfig.ready`."""
    _find.append(find)


def is_alias(text: str) -> bool:
    """Return whether the text looks like a lieutenant's `vmId`, without a query."""
    return text.startswith(ids.LOCAL)


def resolve(text: str) -> str:
    """Return the VM id of the lieutenant with this alias; any other text unchanged.

    An alias refers to the lieutenant's own name, which is fixed; the name of its node can be
    edited.
    """
    if not is_alias(text) or not is_text(text) or Node.objects.filter(vm_id=text).exists():
        return text
    name = text.removeprefix(ids.LOCAL)
    return next((found for find in _find if (found := find(name))), text)
