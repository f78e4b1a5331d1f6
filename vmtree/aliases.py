"""Other names of VMs: what the API shows as `vmId` of a lieutenant is taken wherever an id is."""

from __future__ import annotations

from collections.abc import Callable

from reef_site.common.text import is_storable
from vmtree import ids
from vmtree.models import Node

# Gives the id of the living lieutenant of a name.
FindLieutenant = Callable[[str], str | None]
_find: list[FindLieutenant] = []


def register(find: FindLieutenant) -> None:
    """Tell how lieutenants are found; the app that has them does so when it is ready."""
    _find.append(find)


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
    return next((found for find in _find if (found := find(name))), text)
