"""Which texts may be a VM's id: each must be found again below every route."""

from __future__ import annotations

from reef_site.common.errors import BadInput

# What follows an id in the paths of tree and registry.
ROUTES = frozenset(
    (
        *("ancestors", "children", "descendants", "destroy", "diff", "gaps", "heartbeat"),
        *("history", "pause", "resume", "subtree", "token"),
    )
)


# The API shows this and the lieutenant's name as its `vmId`, and takes it where a VM is named.
LOCAL = "local-"


def check_new(vm_id: str, field: str) -> None:
    """Raise BadInput for an id whose path would lead elsewhere."""
    if vm_id.startswith(LOCAL):
        raise BadInput(f"{field}: must not begin with {LOCAL}, as lieutenants are called", field)
    first, *others = vm_id.split("/")
    if {".", ".."} & {first, *others}:
        raise BadInput(f"{field}: must not be or have '.' or '..' as a part of a path", field)
    if "diff" in others[:-1] or (others and others[-1] in ROUTES):
        word = "diff" if "diff" in others else others[-1]
        raise BadInput(f"{field}: must not end like a route, with /{word}", field)
