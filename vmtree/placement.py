"""The place in the tree of nodes that an agent creates without naming a parent."""

from __future__ import annotations

from typing import Any

from vmtree import permissions


def below_caller(caller: object, arguments: dict[str, Any], *, own_id: str = "") -> dict[str, Any]:
    """Return the arguments with the caller's home as `parentVmId` if there is none.

    Unless `own_id`, the id of what is to be placed, is that of the home itself.
    """
    home = permissions.home_of(caller)
    if home is None or arguments.get("parentVmId") or own_id == home.vm_id:
        return arguments
    return {**arguments, "parentVmId": home.vm_id}
