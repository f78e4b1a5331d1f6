"""Rules for new VM ids: each id must be reachable below every route."""

from __future__ import annotations

from reef_site.common.errors import BadInput

# Route segments that follow an id in the paths of tree and registry.
ROUTE_SEGMENTS = frozenset(
    (
        *("ancestors", "children", "descendants", "destroy", "diff", "gaps", "heartbeat"),
        *("history", "pause", "resume", "subtree", "token"),
    )
)


# Prefix of the `vmId` that the API shows for a lieutenant: `local-<name>`.
LOCAL = "local-"


def check_new_id(vm_id: str, field: str) -> None:
    """Raise BadInput for an id that another route would match, or that lieutenants use."""
    if vm_id.startswith(LOCAL):
        raise BadInput(f"{field}: must not begin with {LOCAL}, as lieutenants are called", field)
    first, *others = vm_id.split("/")
    if {".", ".."} & {first, *others}:
        raise BadInput(f"{field}: must not be or have '.' or '..' as a part of a path", field)
    if "diff" in others[:-1] or (others and others[-1] in ROUTE_SEGMENTS):
        word = "diff" if "diff" in others else others[-1]
        raise BadInput(f"{field}: must not end like a route, with /{word}", field)
