"""Hooks of removal: VMs that must not be removed, and cleanup that goes with a subtree.

Higher apps register theirs in `AppConfig.ready`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from reef_site.common.errors import Conflict
from reef_site.common.hooks import Hook

# Takes VM ids.
Find = Callable[[Sequence[str]], Iterable[str]]
Follow = Callable[[Sequence[str]], None]
_MOST_NAMED = 5
removal_blockers: Hook[Find] = Hook(
    "tree.removal_blockers",
    "Return the VMs among these that must stay; the hook's key says what has to be done first.",
)
after_removal: Hook[Follow] = Hook(
    "tree.after_removal", "Called with the VMs of a removed subtree, in its transaction."
)


def check(vm_ids: Sequence[str]) -> None:
    """Raise Conflict if one of the VMs must not be removed."""
    for why, find in removal_blockers.items():
        if staying := sorted(find(vm_ids)):
            names = ", ".join(f"'{vm_id}'" for vm_id in staying[:_MOST_NAMED])
            more = f" and {len(staying) - _MOST_NAMED} more" if staying[_MOST_NAMED:] else ""
            raise Conflict(f"VM {names}{more}: {why}")


def follow(vm_ids: Sequence[str]) -> None:
    """Run the registered cleanup inside the caller's transaction."""
    for each in after_removal:
        each(vm_ids)
